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
        BinaryOp::Pow => None,
    }
}
