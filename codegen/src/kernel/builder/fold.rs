//! Folding of `i64` index arithmetic.

use super::*;

pub(super) enum Folded {
    Const(i64),
    Operand(Reg),
    No,
}

impl KernelBuilder {
    /// What `lhs op rhs` is without computing it, for scalar `i64` operands.
    pub(super) fn fold(&self, op: BinaryOp, lhs: Reg, rhs: Reg) -> Folded {
        let (l, r) = (self.known_i64(lhs), self.known_i64(rhs));
        if let (Some(l), Some(r)) = (l, r) {
            return fold_consts(op, l, r).map_or(Folded::No, Folded::Const);
        }
        let scalar_i64 = RegTy::scalar(Elem::I64);
        if self.ty(lhs) != scalar_i64 || self.ty(rhs) != scalar_i64 {
            return Folded::No;
        }
        match (op, l, r) {
            (BinaryOp::Add, Some(0), _) | (BinaryOp::Mul, Some(1), _) => self.alias(rhs),
            (BinaryOp::Add | BinaryOp::Sub, _, Some(0)) | (BinaryOp::Mul | BinaryOp::Div, _, Some(1)) => {
                self.alias(lhs)
            }
            (BinaryOp::Mul, Some(0), _) | (BinaryOp::Mul, _, Some(0)) | (BinaryOp::Rem, _, Some(1)) => {
                Folded::Const(0)
            }
            _ => Folded::No,
        }
    }

    /// `lhs op rhs` with the constants of both sides added last, where that changes anything.
    pub(super) fn constant_last(&mut self, op: BinaryOp, lhs: Reg, rhs: Reg) -> Option<Reg> {
        let sums = self.sums.as_ref()?;
        let scalar_i64 = RegTy::scalar(Elem::I64);
        if self.ty(lhs) != scalar_i64 || self.ty(rhs) != scalar_i64 {
            return None;
        }
        if let (BinaryOp::Div | BinaryOp::Rem, Some(n)) = (op, self.known_i64(rhs)) {
            return self.by_power_of_two(op, lhs, n);
        }
        let parts = |reg: Reg| sums.get(&reg).copied().unwrap_or((reg, 0));
        let (known, (l, l_add), (r, r_add)) =
            ((self.known_i64(lhs), self.known_i64(rhs)), parts(lhs), parts(rhs));
        let (rest, constant) = match (op, known) {
            (BinaryOp::Add, (_, Some(c))) => (l, l_add.wrapping_add(c)),
            (BinaryOp::Add, (Some(c), _)) => (r, r_add.wrapping_add(c)),
            (BinaryOp::Sub, (_, Some(c))) => (l, l_add.wrapping_sub(c)),
            (BinaryOp::Add, _) if l_add != 0 || r_add != 0 => (self.add(l, r), l_add.wrapping_add(r_add)),
            (BinaryOp::Sub, (None, _)) if l_add != 0 || r_add != 0 => {
                (self.sub(l, r), l_add.wrapping_sub(r_add))
            }
            (BinaryOp::Sub, (Some(c), _)) if r_add != 0 => (self.sub(0, r), c.wrapping_sub(r_add)),
            (BinaryOp::Mul, (_, Some(c))) if l_add != 0 => (self.mul(l, c), l_add.wrapping_mul(c)),
            (BinaryOp::Mul, (Some(c), _)) if r_add != 0 => (self.mul(r, c), r_add.wrapping_mul(c)),
            _ => return None,
        };
        if self.mutable[rest.0 as usize] {
            return None;
        }
        if constant == 0 {
            return Some(rest);
        }
        let rhs = self.const_i64(constant);
        let dst = self.temp(scalar_i64);
        self.push(Inst::Binary { dst, op: BinaryOp::Add, lhs: rest, rhs });
        self.sums.get_or_insert_default().insert(dst, (rest, constant));
        Some(dst)
    }

    /// Quotient or remainder of a number that is not negative by a power of two.
    fn by_power_of_two(&mut self, op: BinaryOp, lhs: Reg, n: i64) -> Option<Reg> {
        if n < 2 || n.count_ones() != 1 || !self.is_natural(lhs) {
            return None;
        }
        Some(match op {
            BinaryOp::Div => self.shr(lhs, n.trailing_zeros()),
            _ => self.and(lhs, n - 1),
        })
    }

    /// Whether an index is known not to be negative. Sums and products of indices do not overflow.
    pub(super) fn is_natural(&self, reg: Reg) -> bool {
        self.known_i64(reg).map_or_else(|| self.naturals.contains(&reg), |n| n >= 0)
    }

    /// Whether `lhs op rhs` is no negative index.
    pub(super) fn gives_natural(&self, op: BinaryOp, lhs: Reg, rhs: Reg) -> bool {
        let (l, r) = (self.is_natural(lhs), self.is_natural(rhs));
        match op {
            BinaryOp::Add | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem | BinaryOp::Shr | BinaryOp::Min => {
                l && r
            }
            BinaryOp::And | BinaryOp::Max => l || r,
            BinaryOp::Sub
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::Shl
            | BinaryOp::Pow
            | BinaryOp::Exp2Mul => false,
        }
    }

    /// A variable may change later, so its present value needs a register of its own.
    fn alias(&self, reg: Reg) -> Folded {
        if self.mutable[reg.0 as usize] { Folded::No } else { Folded::Operand(reg) }
    }
}

fn fold_consts(op: BinaryOp, l: i64, r: i64) -> Option<i64> {
    match op {
        BinaryOp::Add => Some(l.wrapping_add(r)),
        BinaryOp::Sub => Some(l.wrapping_sub(r)),
        BinaryOp::Mul => Some(l.wrapping_mul(r)),
        BinaryOp::Div => l.checked_div(r),
        BinaryOp::Rem => l.checked_rem(r),
        BinaryOp::Min => Some(l.min(r)),
        BinaryOp::Max => Some(l.max(r)),
        BinaryOp::And => Some(l & r),
        BinaryOp::Or => Some(l | r),
        BinaryOp::Xor => Some(l ^ r),
        BinaryOp::Shl => u32::try_from(r).ok().and_then(|r| l.checked_shl(r)),
        BinaryOp::Shr => u32::try_from(r).ok().and_then(|r| l.checked_shr(r)),
        BinaryOp::Pow | BinaryOp::Exp2Mul => None,
    }
}
