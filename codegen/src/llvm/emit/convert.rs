//! Numeric conversions.

use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValueEnum, InstructionOpcode as Op};
use inkwell::{FloatPredicate, IntPredicate};

use super::Emitter;
use crate::kernel::{Elem, Inst, Reg};
use crate::llvm::error::EmitError;
use crate::llvm::types::{lane_type, with_lanes};

impl<'ctx> Emitter<'ctx, '_> {
    /// `src` converted lane by lane to `to`; `inst` is what an error names.
    pub(super) fn cast(&self, src: Reg, to: Elem, inst: &Inst) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let (from, lanes, value) = (self.kernel.ty(src).elem(), self.lanes(src), self.read(src)?);
        let to_type = with_lanes(lane_type(self.context, to), lanes);
        match (from, to) {
            _ if from == to => Ok(value),
            (Elem::F16, Elem::F32) => {
                let half = with_lanes(self.context.f16_type().into(), lanes);
                self.convert(Op::FPExt, self.builder.build_bit_cast(value, half, "")?, to_type)
            }
            (Elem::F32, Elem::F16) => {
                let half = with_lanes(self.context.f16_type().into(), lanes);
                Ok(self.builder.build_bit_cast(self.convert(Op::FPTrunc, value, half)?, to_type, "")?)
            }
            (Elem::F16 | Elem::Bf16, _) | (_, Elem::F16 | Elem::Bf16) => Err(EmitError::unsupported(inst)),
            (Elem::F32 | Elem::F64, Elem::Bool) => {
                self.float_compare(FloatPredicate::UNE, value, value.get_type().const_zero())
            }
            (_, Elem::Bool) => self.int_compare(IntPredicate::NE, value, value.get_type().const_zero()),
            (Elem::F32, Elem::F64) => self.convert(Op::FPExt, value, to_type),
            (Elem::F64, Elem::F32) => self.convert(Op::FPTrunc, value, to_type),
            (Elem::F32 | Elem::F64, _) => {
                let name = if to.is_signed_int() { "llvm.fptosi.sat" } else { "llvm.fptoui.sat" };
                self.compute(name, &[to_type, value.get_type()], &[value.into()])
            }
            (_, Elem::F32 | Elem::F64) => {
                self.convert(if from.is_signed_int() { Op::SIToFP } else { Op::UIToFP }, value, to_type)
            }
            _ if from.bits() > to.bits() => self.convert(Op::Trunc, value, to_type),
            _ if from.bits() == to.bits() => Ok(value),
            _ => self.convert(if from.is_signed_int() { Op::SExt } else { Op::ZExt }, value, to_type),
        }
    }

    fn convert(
        &self,
        op: Op,
        value: BasicValueEnum<'ctx>,
        to: BasicTypeEnum<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(self.builder.build_cast(op, value, to, "")?)
    }
}
