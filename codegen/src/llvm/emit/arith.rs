//! Arithmetic, comparisons and selection on `bool`, integers, `f32` and `f64`.

use inkwell::values::{BasicValueEnum, InstructionOpcode};
use inkwell::{FloatPredicate, IntPredicate};

use super::Emitter;
use crate::kernel::{BinaryOp, CompareOp, Elem, Inst, Reg, UnaryOp};
use crate::llvm::error::EmitError;

impl<'ctx> Emitter<'ctx, '_> {
    pub(super) fn unary(
        &self,
        op: UnaryOp,
        src: Reg,
        inst: &Inst,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let elem = self.kernel.ty(src).elem();
        let value = self.read(src)?;
        let ty = value.get_type();
        let float = matches!(elem, Elem::F32 | Elem::F64);
        let rounding = |name| self.compute(name, &[ty], &[value.into()]);
        match op {
            UnaryOp::Neg if float => self.float_neg(value),
            UnaryOp::Neg if elem.is_int() => self.binop(InstructionOpcode::Sub, ty.const_zero(), value),
            UnaryOp::Abs if float => rounding("llvm.fabs"),
            UnaryOp::Abs if elem.is_signed_int() => {
                let poison_on_min = self.context.bool_type().const_zero();
                self.compute("llvm.abs", &[ty], &[value.into(), poison_on_min.into()])
            }
            UnaryOp::Sqrt if float => rounding("llvm.sqrt"),
            UnaryOp::Floor if float => rounding("llvm.floor"),
            UnaryOp::Ceil if float => rounding("llvm.ceil"),
            UnaryOp::Trunc if float => rounding("llvm.trunc"),
            UnaryOp::Round if float => rounding("llvm.roundeven"),
            UnaryOp::Not if !elem.is_float() => self.not(value),
            UnaryOp::Neg
            | UnaryOp::Abs
            | UnaryOp::Sqrt
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Trunc
            | UnaryOp::Round
            | UnaryOp::Not => Err(EmitError::unsupported(inst)),
        }
    }

    /// `inst` is what an error names.
    pub(super) fn binary(
        &self,
        op: BinaryOp,
        elem: Elem,
        lhs: BasicValueEnum<'ctx>,
        rhs: BasicValueEnum<'ctx>,
        inst: &Inst,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        use InstructionOpcode as Op;
        let kind = match elem {
            Elem::F32 | Elem::F64 => Kind::Float,
            Elem::Bool => Kind::Bool,
            Elem::F16 | Elem::Bf16 => return Err(EmitError::unsupported(inst)),
            _ if elem.is_signed_int() => Kind::Signed,
            _ => Kind::Unsigned,
        };
        let opcode = match (op, kind) {
            (BinaryOp::Add, Kind::Float) => Op::FAdd,
            (BinaryOp::Sub, Kind::Float) => Op::FSub,
            (BinaryOp::Mul, Kind::Float) => Op::FMul,
            (BinaryOp::Div, Kind::Float) => Op::FDiv,
            (BinaryOp::Add, Kind::Signed | Kind::Unsigned) => Op::Add,
            (BinaryOp::Sub, Kind::Signed | Kind::Unsigned) => Op::Sub,
            (BinaryOp::Mul, Kind::Signed | Kind::Unsigned) => Op::Mul,
            (BinaryOp::Div, Kind::Signed) => Op::SDiv,
            (BinaryOp::Div, Kind::Unsigned) => Op::UDiv,
            (BinaryOp::Rem, Kind::Signed) => Op::SRem,
            (BinaryOp::Rem, Kind::Unsigned) => Op::URem,
            (BinaryOp::And, Kind::Signed | Kind::Unsigned | Kind::Bool) => Op::And,
            (BinaryOp::Or, Kind::Signed | Kind::Unsigned | Kind::Bool) => Op::Or,
            (BinaryOp::Xor, Kind::Signed | Kind::Unsigned | Kind::Bool) => Op::Xor,
            (BinaryOp::Shl, Kind::Signed | Kind::Unsigned) => Op::Shl,
            (BinaryOp::Shr, Kind::Signed) => Op::AShr,
            (BinaryOp::Shr, Kind::Unsigned) => Op::LShr,
            (BinaryOp::Min, Kind::Float | Kind::Signed | Kind::Unsigned) => {
                let less = self.compare(CompareOp::Lt, elem, lhs, rhs, inst)?;
                return self.select(less, lhs, rhs);
            }
            (BinaryOp::Max, Kind::Float | Kind::Signed | Kind::Unsigned) => {
                let greater = self.compare(CompareOp::Gt, elem, lhs, rhs, inst)?;
                return self.select(greater, lhs, rhs);
            }
            _ => return Err(EmitError::unsupported(inst)),
        };
        self.binop(opcode, lhs, rhs)
    }

    pub(super) fn binop(
        &self,
        opcode: InstructionOpcode,
        lhs: BasicValueEnum<'ctx>,
        rhs: BasicValueEnum<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(self.builder.build_binop(opcode, lhs, rhs, "")?)
    }

    pub(super) fn fma(&self, operands: [Reg; 3], inst: &Inst) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let [a, b, c] = operands;
        if self.kernel.ty(a).elem().is_half() {
            return Err(EmitError::unsupported(inst));
        }
        let (a, b, c) = (self.read(a)?, self.read(b)?, self.read(c)?);
        self.compute("llvm.fma", &[a.get_type()], &[a.into(), b.into(), c.into()])
    }

    /// `inst` is what an error names.
    pub(super) fn compare(
        &self,
        op: CompareOp,
        elem: Elem,
        lhs: BasicValueEnum<'ctx>,
        rhs: BasicValueEnum<'ctx>,
        inst: &Inst,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match elem {
            Elem::F16 | Elem::Bf16 => Err(EmitError::unsupported(inst)),
            Elem::F32 | Elem::F64 => self.float_compare(float_predicate(op), lhs, rhs),
            _ => self.int_compare(int_predicate(op, elem.is_signed_int()), lhs, rhs),
        }
    }

    pub(super) fn float_compare(
        &self,
        predicate: FloatPredicate,
        lhs: BasicValueEnum<'ctx>,
        rhs: BasicValueEnum<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(if lhs.is_vector_value() {
            let (lhs, rhs) = (lhs.into_vector_value(), rhs.into_vector_value());
            self.builder.build_float_compare(predicate, lhs, rhs, "")?.into()
        } else {
            let (lhs, rhs) = (lhs.into_float_value(), rhs.into_float_value());
            self.builder.build_float_compare(predicate, lhs, rhs, "")?.into()
        })
    }

    pub(super) fn int_compare(
        &self,
        predicate: IntPredicate,
        lhs: BasicValueEnum<'ctx>,
        rhs: BasicValueEnum<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(if lhs.is_vector_value() {
            let (lhs, rhs) = (lhs.into_vector_value(), rhs.into_vector_value());
            self.builder.build_int_compare(predicate, lhs, rhs, "")?.into()
        } else {
            let (lhs, rhs) = (lhs.into_int_value(), rhs.into_int_value());
            self.builder.build_int_compare(predicate, lhs, rhs, "")?.into()
        })
    }

    pub(super) fn select(
        &self,
        cond: BasicValueEnum<'ctx>,
        on_true: BasicValueEnum<'ctx>,
        on_false: BasicValueEnum<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(if cond.is_vector_value() {
            self.builder.build_select(cond.into_vector_value(), on_true, on_false, "")?
        } else {
            self.builder.build_select(cond.into_int_value(), on_true, on_false, "")?
        })
    }

    fn float_neg(&self, value: BasicValueEnum<'ctx>) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(if value.is_vector_value() {
            self.builder.build_float_neg(value.into_vector_value(), "")?.into()
        } else {
            self.builder.build_float_neg(value.into_float_value(), "")?.into()
        })
    }

    fn not(&self, value: BasicValueEnum<'ctx>) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(if value.is_vector_value() {
            self.builder.build_not(value.into_vector_value(), "")?.into()
        } else {
            self.builder.build_not(value.into_int_value(), "")?.into()
        })
    }
}

/// What decides between LLVM's opcodes.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
}

fn float_predicate(op: CompareOp) -> FloatPredicate {
    match op {
        CompareOp::Eq => FloatPredicate::OEQ,
        CompareOp::Ne => FloatPredicate::UNE,
        CompareOp::Lt => FloatPredicate::OLT,
        CompareOp::Le => FloatPredicate::OLE,
        CompareOp::Gt => FloatPredicate::OGT,
        CompareOp::Ge => FloatPredicate::OGE,
    }
}

fn int_predicate(op: CompareOp, signed: bool) -> IntPredicate {
    match (op, signed) {
        (CompareOp::Eq, _) => IntPredicate::EQ,
        (CompareOp::Ne, _) => IntPredicate::NE,
        (CompareOp::Lt, true) => IntPredicate::SLT,
        (CompareOp::Le, true) => IntPredicate::SLE,
        (CompareOp::Gt, true) => IntPredicate::SGT,
        (CompareOp::Ge, true) => IntPredicate::SGE,
        (CompareOp::Lt, false) => IntPredicate::ULT,
        (CompareOp::Le, false) => IntPredicate::ULE,
        (CompareOp::Gt, false) => IntPredicate::UGT,
        (CompareOp::Ge, false) => IntPredicate::UGE,
    }
}
