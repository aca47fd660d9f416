//! Dot products of neighbors.

use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValueEnum, InstructionOpcode};

use super::Emitter;
use crate::kernel::{Elem, Inst, Reg};
use crate::llvm::error::EmitError;
use crate::llvm::types::{lane_type, with_lanes};
use crate::target::CpuArch;

impl<'ctx> Emitter<'ctx, '_> {
    /// `inst` is what an error names.
    pub(super) fn dot(&self, operands: [Reg; 3], inst: &Inst) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match self.arch {
            CpuArch::X86_64 => self.dot_of_x86(operands, inst),
            CpuArch::Aarch64 => self.dot_of_arm(operands, inst),
        }
    }

    fn dot_of_x86(&self, operands: [Reg; 3], inst: &Inst) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let elem = self.kernel.ty(operands[0]).elem();
        let [a, b, acc] = [self.read(operands[0])?, self.read(operands[1])?, self.read(operands[2])?];
        let name = match (elem, self.lanes(operands[2])) {
            (Elem::U8, 16) => "llvm.x86.avx512.vpdpbusd.512",
            (Elem::U8, 8) => "llvm.x86.avx512.vpdpbusd.256",
            (Elem::U8, 4) => "llvm.x86.avx512.vpdpbusd.128",
            (Elem::Bf16, 16) => "llvm.x86.avx512bf16.dpbf16ps.512",
            (Elem::Bf16, 8) => "llvm.x86.avx512bf16.dpbf16ps.256",
            (Elem::Bf16, 4) => "llvm.x86.avx512bf16.dpbf16ps.128",
            (Elem::I16, 16) => "llvm.x86.avx512.pmaddw.d.512",
            (Elem::I16, 8) => "llvm.x86.avx2.pmadd.wd",
            (Elem::I16, 4) => "llvm.x86.sse2.pmadd.wd",
            _ => return Err(EmitError::unsupported(inst)),
        };
        match elem {
            Elem::I16 => {
                let products = self.compute(name, &[], &[a.into(), b.into()])?;
                self.binop(InstructionOpcode::Add, acc, products)
            }
            _ => {
                // The registers' types are not always those that the intrinsic declares.
                let types = self.parameter_types(name)?;
                let cast = |value, ty: &BasicTypeEnum<'ctx>| self.builder.build_bit_cast(value, *ty, "");
                let (a, b) = (cast(a, &types[1])?, cast(b, &types[2])?);
                self.compute(name, &[], &[acc.into(), a.into(), b.into()])
            }
        }
    }

    /// Dot products of bytes are of 64 or 128 bits; those of 16-bit values are products that are added in pairs.
    fn dot_of_arm(&self, operands: [Reg; 3], inst: &Inst) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let lanes = self.lanes(operands[2]);
        let [a, b, acc] = [self.read(operands[0])?, self.read(operands[1])?, self.read(operands[2])?];
        let name = match (self.kernel.ty(operands[0]).elem(), lanes) {
            (Elem::U8, 2 | 4) => "llvm.aarch64.neon.usdot",
            (Elem::I8, 2 | 4) => "llvm.aarch64.neon.sdot",
            (Elem::I16, _) => {
                let wide = with_lanes(lane_type(self.context, Elem::I32), 2 * lanes);
                let widen = |x| self.builder.build_cast(InstructionOpcode::SExt, x, wide, "");
                let products = self.binop(InstructionOpcode::Mul, widen(a)?, widen(b)?)?;
                let half = |first: u16| -> Result<_, EmitError> {
                    let pattern: Vec<u16> = (first..2 * lanes).step_by(2).collect();
                    self.shuffle(products, products, &pattern)
                };
                let pairs = self.binop(InstructionOpcode::Add, half(0)?, half(1)?)?;
                return self.binop(InstructionOpcode::Add, acc, pairs);
            }
            _ => return Err(EmitError::unsupported(inst)),
        };
        self.compute(name, &[acc.get_type(), a.get_type()], &[acc.into(), a.into(), b.into()])
    }
}
