//! Arithmetic, comparison and choice.

use super::{Emitter, arith, bits};
use crate::kernel::{self, BinaryOp, CompareOp, Elem, MathOp, ReduceOp, Reg, UnaryOp};
use crate::ptx::error::PtxError;
use crate::ptx::isa::*;

impl Emitter<'_> {
    pub(super) fn unary(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        op: UnaryOp,
        src: Reg,
    ) -> Result<(), PtxError> {
        let elem = self.elem(src);
        if elem.is_half() {
            return self.unsupported(inst);
        }
        for (dst, src) in self.vars(dst).into_iter().zip(self.vars(src)) {
            self.unary_lane(elem, dst, op, src);
        }
        Ok(())
    }

    fn unary_lane(&mut self, elem: Elem, dst: Var, op: UnaryOp, src: Var) {
        let ty = arith(elem);
        let is_float = elem.is_float();
        let plain = |op, ty| Inst::Unary { op, ty, dst, src: src.into() };
        let integral = |rounding| Inst::Convert { to: ty, from: ty, rounding, dst, src };
        match op {
            UnaryOp::Neg if is_float => self.push(plain(Unary::Neg, ty)),
            UnaryOp::Neg => {
                self.binary(Binary::Sub, ty, dst, Src::Int(0), src);
                self.narrow(elem, dst);
            }
            UnaryOp::Abs if is_float => self.push(plain(Unary::Abs, ty)),
            UnaryOp::Abs => {
                let (negated, below) = (self.var(dst.class), self.var(Class::Pred));
                self.binary(Binary::Sub, ty, negated, Src::Int(0), src);
                self.narrow(elem, negated);
                let zero = Src::Int(0);
                self.push(Inst::SetPred { op: CompareOp::Lt, ty, dst: below, a: src.into(), b: zero });
                self.choose(dst, below, negated, src);
            }
            UnaryOp::Sqrt => self.push(plain(Unary::Sqrt, ty)),
            UnaryOp::Floor => self.push(integral(Rounding::IntegralDown)),
            UnaryOp::Ceil => self.push(integral(Rounding::IntegralUp)),
            UnaryOp::Trunc => self.push(integral(Rounding::IntegralZero)),
            UnaryOp::Round => self.push(integral(Rounding::IntegralNearest)),
            UnaryOp::Not => {
                self.push(plain(Unary::Not, bits(dst.class)));
                self.narrow(elem, dst);
            }
        }
    }

    /// Brings the 16-bit register of an 8-bit integer back into the form that its type prescribes.
    pub(super) fn narrow(&mut self, elem: Elem, var: Var) {
        match elem {
            Elem::I8 => self.convert((Ty::S16, Ty::S8), Rounding::None, var, var),
            Elem::U8 => self.binary(Binary::And, Ty::B16, var, var, Src::Int(0xff)),
            _ => {}
        }
    }

    /// The functions that legalization leaves: 2^x and 1/x of `f32`.
    pub(super) fn math(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        op: MathOp,
        src: Reg,
    ) -> Result<(), PtxError> {
        let op = match (op, self.elem(src)) {
            (MathOp::Exp2, Elem::F32) => Unary::Exp2Approx,
            (MathOp::Recip, Elem::F32) => Unary::RecipApprox,
            _ => return self.unsupported(inst),
        };
        for (dst, src) in self.vars(dst).into_iter().zip(self.vars(src)) {
            self.push(Inst::Unary { op, ty: Ty::F32, dst, src: src.into() });
        }
        Ok(())
    }

    pub(super) fn arithmetic(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        op: BinaryOp,
        lhs: Reg,
        rhs: Reg,
    ) -> Result<(), PtxError> {
        let elem = self.elem(dst);
        let lanes = self.vars(dst).into_iter().zip(self.vars(lhs)).zip(self.vars(rhs));
        for ((dst, lhs), rhs) in lanes.collect::<Vec<_>>() {
            self.binary_lane(inst, elem, dst, op, (lhs, rhs))?;
        }
        Ok(())
    }

    fn binary_lane(
        &mut self,
        inst: &kernel::Inst,
        elem: Elem,
        dst: Var,
        op: BinaryOp,
        (a, b): (Var, Var),
    ) -> Result<(), PtxError> {
        let is_float = elem.is_float();
        let unavailable = match op {
            BinaryOp::Pow | BinaryOp::Exp2Mul => true,
            BinaryOp::Rem => is_float,
            _ => elem.is_half(),
        };
        if unavailable {
            return self.unsupported(inst);
        }
        let ty = arith(elem);
        let plain = match op {
            BinaryOp::Add => Binary::Add,
            BinaryOp::Sub => Binary::Sub,
            BinaryOp::Mul => Binary::Mul,
            BinaryOp::Div => Binary::Div,
            BinaryOp::Rem => Binary::Rem,
            // PTX's own differ where an operand is NaN or both are zeros.
            BinaryOp::Min | BinaryOp::Max if is_float => {
                let op = if op == BinaryOp::Min { CompareOp::Lt } else { CompareOp::Gt };
                let first = self.var(Class::Pred);
                self.push(Inst::SetPred { op, ty, dst: first, a: a.into(), b: b.into() });
                self.choose(dst, first, a, b);
                return Ok(());
            }
            BinaryOp::Min => Binary::Min,
            BinaryOp::Max => Binary::Max,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
                let op = match op {
                    BinaryOp::And => Binary::And,
                    BinaryOp::Or => Binary::Or,
                    _ => Binary::Xor,
                };
                self.binary(op, bits(dst.class), dst, a, b);
                return Ok(());
            }
            BinaryOp::Shl => {
                let amount = self.amount(b);
                self.binary(Binary::Shl, bits(dst.class), dst, a, amount);
                self.narrow(elem, dst);
                return Ok(());
            }
            BinaryOp::Shr => {
                let amount = self.amount(b);
                self.binary(Binary::Shr, ty, dst, a, amount);
                return Ok(());
            }
            BinaryOp::Pow | BinaryOp::Exp2Mul => return self.unsupported(inst),
        };
        self.binary(plain, ty, dst, a, b);
        self.narrow(elem, dst);
        Ok(())
    }

    /// A shift amount as PTX wants it: 32 bits.
    fn amount(&mut self, amount: Var) -> Var {
        let from = match amount.class {
            Class::B16 => Ty::U16,
            Class::B64 => Ty::U64,
            _ => return amount,
        };
        let narrow = self.var(Class::B32);
        self.convert((Ty::U32, from), Rounding::None, narrow, amount);
        narrow
    }

    pub(super) fn fma(&mut self, inst: &kernel::Inst, dst: Reg, operands: [Reg; 3]) -> Result<(), PtxError> {
        let elem = self.elem(dst);
        if elem.is_half() {
            return self.unsupported(inst);
        }
        let [a, b, c] = operands.map(|r| self.vars(r));
        for (i, dst) in self.vars(dst).into_iter().enumerate() {
            self.push(Inst::Fma { ty: arith(elem), dst, a: a[i].into(), b: b[i].into(), c: c[i].into() });
        }
        Ok(())
    }

    pub(super) fn compare(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        op: CompareOp,
        lhs: Reg,
        rhs: Reg,
    ) -> Result<(), PtxError> {
        let elem = self.elem(lhs);
        if elem.is_half() {
            return self.unsupported(inst);
        }
        let (lhs, rhs) = (self.vars(lhs), self.vars(rhs));
        for (i, dst) in self.vars(dst).into_iter().enumerate() {
            let (a, b) = (lhs[i].into(), rhs[i].into());
            if elem == Elem::Bool {
                self.binary(Binary::Xor, Ty::Pred, dst, lhs[i], rhs[i]);
                if op == CompareOp::Eq {
                    self.push(Inst::Unary { op: Unary::Not, ty: Ty::Pred, dst, src: dst.into() });
                }
                continue;
            }
            self.push(Inst::SetPred { op, ty: arith(elem), dst, a, b });
        }
        Ok(())
    }

    pub(super) fn select(&mut self, dst: Reg, cond: Reg, on_true: Reg, on_false: Reg) {
        let (cond, on_true, on_false) = (self.vars(cond), self.vars(on_true), self.vars(on_false));
        for (i, dst) in self.vars(dst).into_iter().enumerate() {
            let cond = if cond.len() == 1 { cond[0] } else { cond[i] };
            self.choose(dst, cond, on_true[i], on_false[i]);
        }
    }

    /// dst = cond ? on_true : on_false
    pub(super) fn choose(&mut self, dst: Var, cond: Var, on_true: Var, on_false: Var) {
        if dst.class != Class::Pred {
            let (on_true, on_false) = (on_true.into(), on_false.into());
            self.push(Inst::Select { ty: bits(dst.class), dst, on_true, on_false, cond });
            return;
        }
        // There is no choice between predicates.
        let (yes, no) = (self.var(Class::Pred), self.var(Class::Pred));
        self.binary(Binary::And, Ty::Pred, yes, cond, on_true);
        self.push(Inst::Unary { op: Unary::Not, ty: Ty::Pred, dst: no, src: cond.into() });
        self.binary(Binary::And, Ty::Pred, no, no, on_false);
        self.binary(Binary::Or, Ty::Pred, dst, yes, no);
    }

    /// Folds the upper half of the lanes onto the lower one until one is left.
    pub(super) fn reduce(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        op: ReduceOp,
        src: Reg,
    ) -> Result<(), PtxError> {
        let elem = self.elem(dst);
        let op = match op {
            ReduceOp::Add => BinaryOp::Add,
            ReduceOp::Min => BinaryOp::Min,
            ReduceOp::Max => BinaryOp::Max,
        };
        let mut lanes = self.vars(src);
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            for (lower, upper) in lanes.iter_mut().zip(upper) {
                let folded = self.var(lower.class);
                self.binary_lane(inst, elem, folded, op, (*lower, upper))?;
                *lower = folded;
            }
        }
        let dst = self.scalar(dst);
        self.mov(dst, lanes[0]);
        Ok(())
    }
}
