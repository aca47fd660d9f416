//! Which indices are another index plus a constant.
//!
//! Only registers with one assignment are taken apart, into registers with one assignment: as every use is preceded by
//! the assignments on all ways to it, the sum still holds wherever the register is read.

use crate::kernel::{BinaryOp, Elem, Inst, Kernel, Reg, RegTy, Stmt};

/// Constants that fit the offset of an access of any element type.
const LIMIT: i64 = 1 << 19;

/// For every register the one that it is a constant more than, the two that it is the sum of, and its constant.
pub(super) struct Offsets {
    parts: Vec<Option<(Reg, i64)>>,
    sums: Vec<Option<(Reg, Reg)>>,
    constants: Vec<Option<i64>>,
}

impl Offsets {
    pub(super) fn of(kernel: &Kernel) -> Offsets {
        let mut found =
            Assignments { count: vec![0; kernel.regs.len()], known: vec![None; kernel.regs.len()] };
        found.list(&kernel.body);
        let regs = (0..kernel.regs.len() as u32).map(Reg);
        let constants = regs.map(|reg| found.constant(reg)).collect();
        let none = kernel.regs.len();
        let mut all = Offsets { parts: vec![None; none], sums: vec![None; none], constants };
        all.list(kernel, &found, &kernel.body);
        all
    }

    /// A register and a constant whose sum is `reg`.
    pub(super) fn parts(&self, reg: Reg) -> (Reg, i64) {
        self.parts[reg.0 as usize].unwrap_or((reg, 0))
    }

    /// The constant that a register always holds.
    pub(super) fn constant(&self, reg: Reg) -> Option<i64> {
        self.constants[reg.0 as usize]
    }

    /// Registers and a constant whose sum is `reg`.
    pub(super) fn terms(&self, reg: Reg) -> (Vec<Reg>, i64) {
        let (mut terms, mut constant, mut open) = (Vec::new(), 0i64, vec![reg]);
        while let Some(reg) = open.pop() {
            match (self.constant(reg), self.sums[reg.0 as usize]) {
                (Some(c), _) => constant += c,
                (None, Some((lhs, rhs))) => open.extend([rhs, lhs]),
                (None, None) => terms.push(reg),
            }
        }
        (terms, constant)
    }

    fn list(&mut self, kernel: &Kernel, found: &Assignments, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Inst(Inst::Binary { dst, op: BinaryOp::Add, lhs, rhs }) => {
                    if kernel.ty(*dst) == RegTy::scalar(Elem::I64) {
                        self.add(found, *dst, (*lhs, *rhs));
                    }
                }
                Stmt::Inst(_) => {}
                Stmt::For(l) => self.list(kernel, found, &l.body),
                Stmt::If(i) => {
                    self.list(kernel, found, &i.on_true);
                    self.list(kernel, found, &i.on_false);
                }
            }
        }
    }

    fn add(&mut self, found: &Assignments, dst: Reg, (lhs, rhs): (Reg, Reg)) {
        if [dst, lhs, rhs].into_iter().all(|reg| found.is_single(reg)) {
            self.sums[dst.0 as usize] = Some((lhs, rhs));
        }
        let (base, constant) = match (found.constant(lhs), found.constant(rhs)) {
            (_, Some(constant)) => (lhs, constant),
            (Some(constant), _) => (rhs, constant),
            (None, None) => return,
        };
        let (base, inner) = self.parts(base);
        let Some(sum) = constant.checked_add(inner).filter(|sum| (-LIMIT..LIMIT).contains(sum)) else {
            return;
        };
        if found.is_single(dst) && found.is_single(base) {
            self.parts[dst.0 as usize] = Some((base, sum));
        }
    }
}

/// How often registers are assigned, and which constants they hold.
struct Assignments {
    count: Vec<u32>,
    known: Vec<Option<i64>>,
}

impl Assignments {
    fn list(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Inst(inst) => {
                    if let Some(dst) = inst.dst() {
                        self.count[dst.0 as usize] += 1;
                    }
                    if let Inst::Const { dst, value } = inst {
                        self.known[dst.0 as usize] = value.as_int();
                    }
                }
                Stmt::For(l) => {
                    self.count[l.var.0 as usize] += 1;
                    self.list(&l.body);
                }
                Stmt::If(i) => {
                    self.list(&i.on_true);
                    self.list(&i.on_false);
                }
            }
        }
    }

    fn is_single(&self, reg: Reg) -> bool {
        self.count[reg.0 as usize] == 1
    }

    fn constant(&self, reg: Reg) -> Option<i64> {
        self.known[reg.0 as usize].filter(|_| self.is_single(reg))
    }
}
