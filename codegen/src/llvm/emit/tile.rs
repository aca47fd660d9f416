//! Matrix tiles: AMX.
//!
//! Each register of the kernel that is a tile has a tile register of its own, all of 16 rows of 64 bytes.

use std::collections::BTreeMap;

use super::Emitter;
use super::memory::{Bounds, element_address};
use crate::kernel::{Const, Elem, Inst, Kernel, Mem, Reg, RegTy, TileLayout, TileRole, TileTy};
use crate::llvm::error::EmitError;
use inkwell::values::{BasicMetadataValueEnum, IntValue, PointerValue};

/// Tile registers of the machine.
const N_TILES: usize = 8;
/// Rows of a tile, and bytes of a row.
const ROWS: u16 = 16;
const ROW_BYTES: u16 = 64;
/// Bytes of what `ldtilecfg` reads, and where the bytes per row and the rows of the first tile stand in it.
const CONFIG_BYTES: u32 = 64;
const CONFIG_ALIGN: u32 = 64;
const ROW_BYTES_AT: u64 = 16;
const ROWS_AT: u64 = 48;

/// The tile register of each tile.
pub(super) fn registers(kernel: &Kernel) -> Result<BTreeMap<Reg, u8>, EmitError> {
    let tiles = kernel.regs.iter().zip(0..).filter_map(|(info, i)| match info.ty {
        RegTy::Tile(ty) => Some((Reg(i), ty)),
        RegTy::Vec { .. } => None,
    });
    let mut registers = BTreeMap::new();
    for (reg, ty) in tiles {
        if !is_of_machine(ty) {
            return Err(EmitError::Tile { ty: RegTy::Tile(ty) });
        }
        registers.insert(reg, registers.len() as u8);
    }
    if registers.len() > N_TILES {
        return Err(EmitError::TooManyTiles { found: registers.len(), limit: N_TILES });
    }
    Ok(registers)
}

fn is_of_machine(ty: TileTy) -> bool {
    let TileTy { rows, cols, elem, role } = ty;
    match (role, elem) {
        (TileRole::A, Elem::I8 | Elem::Bf16) => (rows, cols * elem.size() as u16) == (ROWS, ROW_BYTES),
        (TileRole::B, Elem::U8 | Elem::Bf16) => (rows * elem.size() as u16, cols) == (ROW_BYTES, ROWS),
        (TileRole::Acc, Elem::I32 | Elem::F32) => (rows, cols) == (ROWS, ROWS),
        _ => false,
    }
}

impl<'ctx> Emitter<'ctx, '_> {
    /// Makes all tile registers 16 rows of 64 bytes, if there are any.
    pub(super) fn configure_tiles(&self) -> Result<(), EmitError> {
        if self.tiles.is_empty() {
            return Ok(());
        }
        let (byte, int) = (self.context.i8_type(), self.context.i64_type());
        let ty = byte.array_type(CONFIG_BYTES);
        let config = self.builder.build_alloca(ty, "tile_config")?;
        config.as_instruction().expect("an alloca is an instruction").set_alignment(CONFIG_ALIGN)?;
        self.builder.build_store(config, ty.const_zero())?;
        let set = |at: u64, value: u16| -> Result<(), EmitError> {
            let at = int.const_int(at, false);
            let address = element_address(&self.builder, byte.into(), config, at, Bounds::Inside)?;
            self.builder.build_store(address, byte.const_int(value.into(), false))?;
            Ok(())
        };
        set(0, 1)?;
        for tile in 0..N_TILES as u64 {
            // Bytes per row are numbers of two bytes, of which the upper one is 0.
            set(ROW_BYTES_AT + 2 * tile, ROW_BYTES)?;
            set(ROWS_AT + tile, ROWS)?;
        }
        self.call("llvm.x86.ldtilecfg", &[], &[config.into()])?;
        Ok(())
    }

    pub(super) fn release_tiles(&self) -> Result<(), EmitError> {
        if !self.tiles.is_empty() {
            self.call("llvm.x86.tilerelease", &[], &[])?;
        }
        Ok(())
    }

    fn tile(&self, reg: Reg) -> BasicMetadataValueEnum<'ctx> {
        self.context.i8_type().const_int(self.tiles[&reg].into(), false).into()
    }

    /// `inst` is what an error names, here and below.
    pub(super) fn tile_fill(&self, dst: Reg, value: Const, inst: &Inst) -> Result<(), EmitError> {
        if value.bits() != 0 {
            return Err(EmitError::unsupported(inst));
        }
        self.call("llvm.x86.tilezero", &[], &[self.tile(dst)])?;
        Ok(())
    }

    pub(super) fn tile_load(
        &self,
        dst: Reg,
        mem: Mem,
        place: (Reg, Reg),
        layout: TileLayout,
        inst: &Inst,
    ) -> Result<(), EmitError> {
        self.check_layout(dst, layout, inst)?;
        let (address, stride) = self.tile_rows(mem, place)?;
        self.call("llvm.x86.tileloadd64", &[], &[self.tile(dst), address.into(), stride.into()])?;
        Ok(())
    }

    pub(super) fn tile_store(
        &self,
        src: Reg,
        mem: Mem,
        place: (Reg, Reg),
        layout: TileLayout,
        inst: &Inst,
    ) -> Result<(), EmitError> {
        self.check_layout(src, layout, inst)?;
        let (address, stride) = self.tile_rows(mem, place)?;
        self.call("llvm.x86.tilestored64", &[], &[self.tile(src), address.into(), stride.into()])?;
        Ok(())
    }

    /// Right factors have interleaved rows, the others lie row by row.
    fn check_layout(&self, tile: Reg, layout: TileLayout, inst: &Inst) -> Result<(), EmitError> {
        let RegTy::Tile(ty) = self.kernel.ty(tile) else { return Err(EmitError::unsupported(inst)) };
        let wanted = if ty.role == TileRole::B { TileLayout::Interleaved } else { TileLayout::RowMajor };
        if layout == wanted { Ok(()) } else { Err(EmitError::unsupported(inst)) }
    }

    /// Address of the first row, and bytes from one row to the next.
    fn tile_rows(
        &self,
        mem: Mem,
        (index, stride): (Reg, Reg),
    ) -> Result<(PointerValue<'ctx>, IntValue<'ctx>), EmitError> {
        let (index, stride) = (self.read(index)?.into_int_value(), self.read(stride)?.into_int_value());
        let (address, size) = self.element(mem, index)?;
        let size = self.context.i64_type().const_int(size as u64, false);
        Ok((address, self.builder.build_int_mul(stride, size, "")?))
    }

    pub(super) fn mma(&self, [dst, a, b, acc]: [Reg; 4], inst: &Inst) -> Result<(), EmitError> {
        // The instructions add to what a register holds.
        if dst != acc {
            return Err(EmitError::unsupported(inst));
        }
        let name = match self.kernel.ty(a).elem() {
            Elem::Bf16 => "llvm.x86.tdpbf16ps",
            Elem::I8 => "llvm.x86.tdpbsud",
            _ => return Err(EmitError::unsupported(inst)),
        };
        self.call(name, &[], &[self.tile(dst), self.tile(a), self.tile(b)])?;
        Ok(())
    }
}
