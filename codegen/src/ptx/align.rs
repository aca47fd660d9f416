//! What powers of two divide the integers of a kernel.
//!
//! A register may be assigned in several places; what holds for all of them holds for the register. The analysis starts
//! from "divisible by everything" and weakens until nothing changes.

use crate::kernel::{BinaryOp, Elem, Inst, Kernel, Reg, RegTy, Stmt};

/// For every register of type `i64` the exponent of a power of two that divides all its values; 0 for the others.
pub(super) struct Alignment(Vec<u32>);

/// Zero is divisible by every power of two.
const ANY: u32 = 63;

impl Alignment {
    pub(super) fn of(kernel: &Kernel) -> Alignment {
        let index = |ty: RegTy| ty == RegTy::scalar(Elem::I64);
        let mut all = Alignment(kernel.regs.iter().map(|r| if index(r.ty) { ANY } else { 0 }).collect());
        while all.weaken(&kernel.body) {}
        all
    }

    /// The exponent for a register.
    pub(super) fn exponent(&self, reg: Reg) -> u32 {
        self.0[reg.0 as usize]
    }

    fn lower(&mut self, reg: Reg, exponent: u32) -> bool {
        let known = &mut self.0[reg.0 as usize];
        let is_weaker = exponent < *known;
        *known = (*known).min(exponent);
        is_weaker
    }

    fn weaken(&mut self, body: &[Stmt]) -> bool {
        let mut changed = false;
        for stmt in body {
            changed |= match stmt {
                Stmt::Inst(inst) => match inst.dst() {
                    Some(dst) => {
                        let exponent = self.result(inst);
                        self.lower(dst, exponent)
                    }
                    None => false,
                },
                Stmt::For(l) => {
                    let exponent = self.exponent(l.lo).min(l.step.trailing_zeros());
                    self.lower(l.var, exponent) | self.weaken(&l.body)
                }
                Stmt::If(i) => self.weaken(&i.on_true) | self.weaken(&i.on_false),
            };
        }
        changed
    }

    fn result(&self, inst: &Inst) -> u32 {
        match inst {
            Inst::Const { value, .. } => match value.as_int() {
                Some(0) => ANY,
                Some(v) => v.trailing_zeros(),
                None => 0,
            },
            Inst::Copy { src, .. } | Inst::Splat { src, .. } => self.exponent(*src),
            Inst::Cast { dst: _, src } => self.exponent(*src),
            Inst::Select { on_true, on_false, .. } => self.exponent(*on_true).min(self.exponent(*on_false)),
            Inst::Binary { op, lhs, rhs, .. } => {
                let (a, b) = (self.exponent(*lhs), self.exponent(*rhs));
                match op {
                    BinaryOp::Add | BinaryOp::Sub | BinaryOp::Min | BinaryOp::Max => a.min(b),
                    BinaryOp::Or | BinaryOp::Xor | BinaryOp::Rem => a.min(b),
                    BinaryOp::Mul => (a + b).min(ANY),
                    BinaryOp::And => a.max(b),
                    BinaryOp::Shl => a,
                    BinaryOp::Div | BinaryOp::Shr | BinaryOp::Pow | BinaryOp::Exp2Mul => 0,
                }
            }
            _ => 0,
        }
    }
}
