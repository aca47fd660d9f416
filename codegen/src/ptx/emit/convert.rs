//! Conversions between element types.

use super::{Emitter, arith, bits, class};
use crate::kernel::{CompareOp, Const, Elem, Reg};
use crate::ptx::isa::*;

impl Emitter<'_> {
    pub(super) fn cast(&mut self, dst: Reg, src: Reg) {
        let (to, from) = (self.elem(dst), self.elem(src));
        for (dst, src) in self.vars(dst).into_iter().zip(self.vars(src)) {
            self.cast_lane((to, from), dst, src);
        }
    }

    fn cast_lane(&mut self, (to, from): (Elem, Elem), dst: Var, src: Var) {
        match (to, from) {
            _ if to == from => self.mov(dst, src),
            (Elem::Bool, _) => {
                let zero = match from {
                    Elem::F32 => Src::F32(0),
                    Elem::F64 => Src::F64(0),
                    _ => Src::Int(0),
                };
                self.push(Inst::SetPred { op: CompareOp::Ne, ty: arith(from), dst, a: src.into(), b: zero });
            }
            (_, Elem::Bool) => {
                let [one, zero] = [1, 0].map(|v| super::literal(Const::int(to, v)));
                self.push(Inst::Select { ty: bits(dst.class), dst, on_true: one, on_false: zero, cond: src });
            }
            (Elem::F32, Elem::Bf16) => {
                // The bits move to the upper half.
                let zero = self.var(Class::B16);
                self.mov(zero, Src::Int(0));
                self.push(Inst::Pack { ty: Ty::B32, dst, low: zero, high: src });
            }
            (Elem::F64, Elem::F32) | (Elem::F32, Elem::F16) => {
                self.convert((arith(to), arith(from)), Rounding::None, dst, src);
            }
            _ if to.is_float() => self.convert((arith(to), arith(from)), Rounding::Nearest, dst, src),
            _ if from.is_float() => self.float_to_int((to, from), dst, src),
            _ => self.int_to_int((to, from), dst, src),
        }
    }

    fn int_to_int(&mut self, (to, from): (Elem, Elem), dst: Var, src: Var) {
        if class(to) == class(from) {
            self.mov(dst, src);
        } else {
            self.convert((arith(to), arith(from)), Rounding::None, dst, src);
        }
        self.narrow(to, dst);
    }

    /// Truncates and saturates; NaN becomes 0.
    fn float_to_int(&mut self, (to, from): (Elem, Elem), dst: Var, src: Var) {
        let truncate = Rounding::IntegralZero;
        let (low, high) = match to {
            Elem::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
            Elem::U8 => (0, i64::from(u8::MAX)),
            Elem::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            Elem::U16 => (0, i64::from(u16::MAX)),
            _ => {
                self.convert((arith(to), arith(from)), truncate, dst, src);
                // Where 64 bits are concerned NaN would become the lowest number.
                let is_nan = self.var(Class::Pred);
                let ty = arith(from);
                self.push(Inst::SetPred { op: CompareOp::Ne, ty, dst: is_nan, a: src.into(), b: src.into() });
                let (zero, on_false) = (Src::Int(0), dst.into());
                self.push(Inst::Select { ty: bits(dst.class), dst, on_true: zero, on_false, cond: is_nan });
                return;
            }
        };
        let wide = self.var(Class::B32);
        self.cast_lane((Elem::I32, from), wide, src);
        self.binary(Binary::Max, Ty::S32, wide, wide, Src::Int(low));
        self.binary(Binary::Min, Ty::S32, wide, wide, Src::Int(high));
        self.int_to_int((to, Elem::I32), dst, wide);
    }

    pub(super) fn bitcast(&mut self, dst: Reg, src: Reg) {
        let (to, from) = (self.elem(dst), self.elem(src));
        for (dst, src) in self.vars(dst).into_iter().zip(self.vars(src)) {
            let ty = match dst.class {
                Class::F32 => Ty::B32,
                Class::F64 => Ty::B64,
                class => bits(class),
            };
            self.push(Inst::Mov { ty, dst, src: src.into() });
            if to != from {
                self.narrow(to, dst);
            }
        }
    }
}
