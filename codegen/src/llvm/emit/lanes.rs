//! Instructions that move values between lanes.
//!
//! A one-lane register is an LLVM scalar, so each function here treats one lane apart.

use inkwell::types::VectorType;
use inkwell::values::{BasicValueEnum, IntValue, VectorValue};

use super::Emitter;
use crate::kernel::{BinaryOp, Inst, ReduceOp, Reg, RegTy};
use crate::llvm::error::EmitError;
use crate::llvm::types::{lane_type, vector_of};

impl<'ctx> Emitter<'ctx, '_> {
    pub(super) fn splat(
        &self,
        scalar: BasicValueEnum<'ctx>,
        lanes: u16,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match lanes {
            1 => Ok(scalar),
            _ => {
                let empty = vector_of(scalar.get_type(), lanes).get_poison();
                let first = self.builder.build_insert_element(empty, scalar, self.lane(0), "")?;
                self.shuffle(first.into(), empty.into(), &vec![0; usize::from(lanes)])
            }
        }
    }

    pub(super) fn iota(&self, ty: RegTy) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let int = lane_type(self.context, ty.elem()).into_int_type();
        let lanes = ty.lanes().expect("tiles are rejected when the registers get their slots");
        match lanes {
            1 => Ok(int.const_zero().into()),
            _ => {
                let values: Vec<_> = (0..lanes).map(|lane| int.const_int(lane.into(), false)).collect();
                Ok(VectorType::const_vector(&values).into())
            }
        }
    }

    pub(super) fn extract(
        &self,
        value: BasicValueEnum<'ctx>,
        lane: u16,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match value {
            BasicValueEnum::VectorValue(vector) => {
                Ok(self.builder.build_extract_element(vector, self.lane(lane), "")?)
            }
            scalar => Ok(scalar),
        }
    }

    pub(super) fn insert(
        &self,
        value: BasicValueEnum<'ctx>,
        scalar: BasicValueEnum<'ctx>,
        lane: u16,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match value {
            BasicValueEnum::VectorValue(vector) => {
                Ok(self.builder.build_insert_element(vector, scalar, self.lane(lane), "")?.into())
            }
            _ => Ok(scalar),
        }
    }

    /// Folds the upper half onto the lower half until one lane is left.
    pub(super) fn reduce(
        &self,
        op: ReduceOp,
        src: Reg,
        inst: &Inst,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let elem = self.kernel.ty(src).elem();
        let op = match op {
            ReduceOp::Add => BinaryOp::Add,
            ReduceOp::Min => BinaryOp::Min,
            ReduceOp::Max => BinaryOp::Max,
        };
        let mut value = self.read(src)?;
        let mut lanes = self.lanes(src);
        while lanes > 1 {
            lanes /= 2;
            let lower: Vec<u16> = (0..lanes).collect();
            let upper: Vec<u16> = (lanes..2 * lanes).collect();
            let (lower, upper) = (self.shuffle(value, value, &lower)?, self.shuffle(value, value, &upper)?);
            value = self.binary(op, elem, lower, upper, inst)?;
        }
        Ok(value)
    }

    pub(super) fn shuffle(
        &self,
        a: BasicValueEnum<'ctx>,
        b: BasicValueEnum<'ctx>,
        pattern: &[u16],
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let mask: Vec<_> = pattern.iter().map(|&lane| self.lane(lane)).collect();
        let mask = VectorType::const_vector(&mask);
        let (a, b) = (self.as_vector(a)?, self.as_vector(b)?);
        self.scalar_if_one_lane(self.builder.build_shuffle_vector(a, b, mask, "")?)
    }

    /// A scalar as a vector of one lane.
    pub(super) fn as_vector(&self, value: BasicValueEnum<'ctx>) -> Result<VectorValue<'ctx>, EmitError> {
        match value {
            BasicValueEnum::VectorValue(vector) => Ok(vector),
            scalar => {
                let empty = vector_of(scalar.get_type(), 1).get_poison();
                Ok(self.builder.build_insert_element(empty, scalar, self.lane(0), "")?)
            }
        }
    }

    /// A vector of one lane as a scalar.
    pub(super) fn scalar_if_one_lane(
        &self,
        vector: VectorValue<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match vector.get_type().get_size() {
            1 => Ok(self.builder.build_extract_element(vector, self.lane(0), "")?),
            _ => Ok(vector.into()),
        }
    }

    fn lane(&self, lane: u16) -> IntValue<'ctx> {
        self.context.i32_type().const_int(lane.into(), false)
    }
}
