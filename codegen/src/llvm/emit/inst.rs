//! Instructions: one arm each, the work is in the sibling files.

use inkwell::values::BasicValueEnum;

use super::Emitter;
use crate::kernel::{Const, Elem, Inst};
use crate::llvm::error::EmitError;
use crate::llvm::types::lane_type;

impl<'ctx> Emitter<'ctx, '_> {
    pub(super) fn inst(&self, inst: &Inst) -> Result<(), EmitError> {
        match inst {
            Inst::Const { dst, value } => {
                let lanes = self.lanes(*dst);
                let value = self.splat(self.constant(*value)?, lanes)?;
                self.write(*dst, value)
            }
            Inst::Dim { dst, dim } => self.write(*dst, self.dims[dim.0 as usize].into()),
            Inst::BlockIdx { dst } => self.write(*dst, self.block_idx.into()),
            Inst::Copy { dst, .. } if self.kernel.ty(*dst).lanes().is_none() => {
                Err(EmitError::unsupported(inst))
            }
            Inst::Copy { dst, src } => self.write(*dst, self.read(*src)?),
            Inst::Unary { dst, op, src } => self.write(*dst, self.unary(*op, *src, inst)?),
            Inst::Binary { dst, op, lhs, rhs } => {
                let elem = self.kernel.ty(*lhs).elem();
                let value = self.binary(*op, elem, self.read(*lhs)?, self.read(*rhs)?, inst)?;
                self.write(*dst, value)
            }
            Inst::Fma { dst, a, b, c } => self.write(*dst, self.fma([*a, *b, *c], inst)?),
            Inst::Dot { dst, a, b, acc } => self.write(*dst, self.dot([*a, *b, *acc], inst)?),
            Inst::Compare { dst, op, lhs, rhs } => {
                let elem = self.kernel.ty(*lhs).elem();
                let value = self.compare(*op, elem, self.read(*lhs)?, self.read(*rhs)?, inst)?;
                self.write(*dst, value)
            }
            Inst::Select { dst, cond, on_true, on_false } => {
                let value = self.select(self.read(*cond)?, self.read(*on_true)?, self.read(*on_false)?)?;
                self.write(*dst, value)
            }
            Inst::Cast { dst, src } => self.write(*dst, self.cast(*src, self.kernel.ty(*dst).elem(), inst)?),
            Inst::Bitcast { dst, src } => {
                let ty = self.slots[dst.0 as usize].ty;
                self.write(*dst, self.builder.build_bit_cast(self.read(*src)?, ty, "")?)
            }
            Inst::Splat { dst, src } => {
                let value = self.splat(self.read(*src)?, self.lanes(*dst))?;
                self.write(*dst, value)
            }
            Inst::Iota { dst } => self.write(*dst, self.iota(self.kernel.ty(*dst))?),
            Inst::Extract { dst, src, lane } => self.write(*dst, self.extract(self.read(*src)?, *lane)?),
            Inst::Insert { dst, src, value, lane } => {
                let value = self.insert(self.read(*src)?, self.read(*value)?, *lane)?;
                self.write(*dst, value)
            }
            Inst::Reduce { dst, op, src } => self.write(*dst, self.reduce(*op, *src, inst)?),
            Inst::Shuffle { dst, a, b, pattern } => {
                let value = self.shuffle(self.read(*a)?, self.read(*b)?, pattern)?;
                self.write(*dst, value)
            }
            Inst::Load { dst, mem, index, mask } => {
                self.write(*dst, self.load(self.kernel.ty(*dst), *mem, *index, *mask)?)
            }
            Inst::Store { mem, index, src, mask } => self.store(*mem, *index, *src, *mask),
            Inst::Gather { dst, mem, index, mask } => {
                self.write(*dst, self.gather(self.kernel.ty(*dst), *mem, *index, *mask)?)
            }
            Inst::Scatter { mem, index, src, mask } => self.scatter(*mem, *index, *src, *mask),
            Inst::Math { .. }
            | Inst::ThreadIdx { .. }
            | Inst::Barrier
            | Inst::WarpShuffle { .. }
            | Inst::AsyncCopy { .. }
            | Inst::AsyncCommit
            | Inst::AsyncWait { .. }
            | Inst::TileBinary { .. }
            | Inst::TileExp2 { .. }
            | Inst::TileCast { .. }
            | Inst::GroupMma { .. }
            | Inst::GroupWait { .. } => Err(EmitError::unsupported(inst)),
            Inst::TileFill { dst, value } => self.tile_fill(*dst, *value, inst),
            Inst::TileLoad { dst, mem, index, stride, layout } => {
                self.tile_load(*dst, *mem, (*index, *stride), *layout, inst)
            }
            Inst::TileStore { mem, index, stride, layout, src } => {
                self.tile_store(*src, *mem, (*index, *stride), *layout, inst)
            }
            Inst::Mma { dst, a, b, acc } => self.mma([*dst, *a, *b, *acc], inst),
        }
    }

    /// Lanes of a register; every register of a CPU kernel has some.
    pub(super) fn lanes(&self, reg: crate::kernel::Reg) -> u16 {
        self.kernel.ty(reg).lanes().expect("operands that are tiles are of tile instructions")
    }

    /// A scalar constant with exactly the given bits.
    pub(super) fn constant(&self, value: Const) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let ty = lane_type(self.context, value.elem());
        let int = match value.elem() {
            Elem::F32 => self.context.i32_type(),
            Elem::F64 => self.context.i64_type(),
            _ => ty.into_int_type(),
        };
        Ok(self.builder.build_bit_cast(int.const_int(value.bits(), false), ty, "")?)
    }
}
