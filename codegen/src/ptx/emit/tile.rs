//! Matrix tiles: 16x16 times 16xn of 16-bit floats with `f32` sums.
//!
//! Which elements a thread holds is what the PTX manual prescribes for `m16n8k16`; with `g = lane / 4`, `q = lane % 4`:
//!
//! | tile | register `i` | element of its low (and high) half |
//! |---|---|---|
//! | A | 0..4 | row `g + 8*(i & 1)`, columns `2q + 8*(i / 2)` and the next |
//! | B | 0..2 | rows `2q + 8*i` and the next, column `g` |
//! | accumulator | 0..4 | row `g + 8*(i / 2)`, column `2q + (i & 1)` |
//!
//! Wider tiles are several of these side by side, in the order of their columns. An accumulator of a warp group's product
//! (`wgmma.m64nNk16`) is spread over its four warps in the same way.

use super::Emitter;
use crate::kernel::{self, BinaryOp, Const, Elem, Mem, Reg, RegTy, TileLayout, TileRole, TileTy};
use crate::ptx::error::PtxError;
use crate::ptx::isa::*;

/// The registers that a thread holds of a tile; `None` if there is no instruction for such tiles.
pub(super) fn fragment(tile: TileTy) -> Option<(Class, usize)> {
    match (tile.role, tile.rows, tile.cols) {
        (TileRole::A, 16, n) if tile.elem.is_half() && n.is_multiple_of(16) && n <= 256 => {
            Some((Class::B32, usize::from(n) / 4))
        }
        (TileRole::B, 16, 8 | 16) if tile.elem.is_half() => Some((Class::B32, usize::from(tile.cols) / 4)),
        (TileRole::Acc, 16, n) if tile.elem == Elem::F32 && n.is_multiple_of(8) && n <= 256 => {
            Some((Class::F32, usize::from(n) / 2))
        }
        _ => None,
    }
}

/// Rows of the matrices that a warp loads together start at multiples of this many elements.
const MATRIX_ROW_EXPONENT: u32 = 3;

/// Elements of 16 bits in a row of a swizzled array, and in the eight rows after which their order repeats, as a power
/// of two.
const SWIZZLED_ROW: i64 = 64;
const SWIZZLED_ROWS_EXPONENT: u32 = 9;

/// The tile type of a register.
fn tile_of(e: &Emitter<'_>, reg: Reg) -> Option<TileTy> {
    match e.kernel.ty(reg) {
        RegTy::Tile(tile) => Some(tile),
        RegTy::Vec { .. } => None,
    }
}

impl Emitter<'_> {
    pub(super) fn tile_fill(&mut self, dst: Reg, value: Const) {
        let src = match value.elem() {
            Elem::F16 | Elem::Bf16 => Src::Int((value.bits() << 16 | value.bits()) as i64),
            _ => super::literal(value),
        };
        for var in self.vars(dst) {
            self.mov(var, src);
        }
    }

    /// `(lane / by) % modulo * times`, as 64 bits.
    fn of_lane(&mut self, by: i64, modulo: i64, times: i64) -> Var {
        let lane = self.lane.expect("kernels with tiles read the lane first");
        let var = self.var(Class::B64);
        self.binary(Binary::Shr, Ty::U64, var, lane, Src::Int(by.trailing_zeros().into()));
        self.binary(Binary::And, Ty::B64, var, var, Src::Int(modulo - 1));
        self.binary(Binary::Shl, Ty::B64, var, var, Src::Int(times.trailing_zeros().into()));
        var
    }

    fn zero(&mut self) -> Var {
        let var = self.var(Class::B64);
        self.mov(var, Src::Int(0));
        var
    }

    fn sum(&mut self, a: Var, b: impl Into<Src>) -> Var {
        let sum = self.var(Class::B64);
        self.binary(Binary::Add, Ty::S64, sum, a, b);
        sum
    }

    /// The index of element (row, col).
    fn at(&mut self, (index, stride): (Var, Var), layout: TileLayout, (row, col): (Var, Var)) -> Var {
        let (major, minor) = match layout {
            // Legalization leaves interleaved rows to CPUs.
            TileLayout::RowMajor | TileLayout::Interleaved => (row, col),
            TileLayout::ColMajor => (col, row),
        };
        let offset = self.var(Class::B64);
        self.binary(Binary::Mul, Ty::S64, offset, major, stride);
        let sum = self.sum(offset, minor);
        self.sum(sum, index)
    }

    pub(super) fn tile_load(&mut self, dst: Reg, mem: Mem, (index, stride): (Reg, Reg), layout: TileLayout) {
        let Some(tile) = tile_of(self, dst) else { return };
        let is_aligned =
            self.alignment.exponent(index).min(self.alignment.exponent(stride)) >= MATRIX_ROW_EXPONENT;
        let (dst, place) = (self.vars(dst), (self.scalar(index), self.scalar(stride)));
        if tile.role != TileRole::Acc && tile.cols <= 16 && is_aligned && matches!(mem, Mem::Shared(_)) {
            self.load_matrix(tile, dst, mem, place, layout);
            return;
        }
        if tile.role == TileRole::Acc
            && let Some(stride) = self.offsets.constant(stride)
        {
            self.load_accumulator(mem, index, (stride, layout), dst);
            return;
        }
        for (i, var) in dst.into_iter().enumerate() {
            let (row, col) = self.first_element(tile.role, i as i64);
            if tile.role == TileRole::Acc {
                let at = self.at(place, layout, (row, col));
                let (space, from) = self.element(mem, at);
                self.push(Inst::Load { space, ty: Ty::F32, dst: vec![var], from });
                continue;
            }
            let next = match tile.role {
                TileRole::A => (row, self.sum(col, Src::Int(1))),
                _ => (self.sum(row, Src::Int(1)), col),
            };
            let halves = [(row, col), next].map(|element| {
                let at = self.at(place, layout, element);
                let (space, from) = self.element(mem, at);
                let half = self.var(Class::B16);
                self.push(Inst::Load { space, ty: Ty::B16, dst: vec![half], from });
                half
            });
            self.push(Inst::Pack { ty: Ty::B32, dst: var, low: halves[0], high: halves[1] });
        }
    }

    /// Row and column of the element in the low half of register `i`.
    fn first_element(&mut self, role: TileRole, i: i64) -> (Var, Var) {
        let (g, q) = (self.of_lane(4, 8, 1), self.of_lane(1, 4, 2));
        match role {
            TileRole::A => (self.sum(g, Src::Int(8 * (i & 1))), self.sum(q, Src::Int(8 * (i / 2)))),
            TileRole::B => (self.sum(q, Src::Int(8 * (i % 2))), self.sum(g, Src::Int(8 * (i / 2)))),
            TileRole::Acc => {
                (self.sum(g, Src::Int(8 * (i / 2 % 2))), self.sum(q, Src::Int(8 * (i / 4) + (i & 1))))
            }
        }
    }

    /// Loads the 8x8 blocks of a tile together: lane `8*j + r` gives the address of row `r` of block `j`.
    fn load_matrix(&mut self, tile: TileTy, dst: Vec<Var>, mem: Mem, place: (Var, Var), layout: TileLayout) {
        let within = self.of_lane(1, 8, 1);
        let (first, second) = (self.of_lane(8, 2, 8), self.of_lane(16, 2, 8));
        // Lines of memory are rows of A, and columns of B as the instruction wants them, or else transposed.
        let is_transposed = match tile.role {
            TileRole::A => layout == TileLayout::ColMajor,
            _ => layout == TileLayout::RowMajor,
        };
        let (row, col) = match (tile.role, is_transposed) {
            // Blocks go down first, then right.
            (TileRole::A, false) => (self.sum(within, first), second),
            (TileRole::A, true) => (first, self.sum(within, second)),
            (_, false) if tile.cols == 8 => (first, within),
            (_, true) if tile.cols == 8 => (self.sum(within, first), self.zero()),
            (_, false) => (first, self.sum(within, second)),
            (_, true) => (self.sum(within, first), second),
        };
        let at = self.at(place, layout, (row, col));
        let (_, from) = self.element(mem, at);
        self.push(Inst::LoadMatrix { dst, transposed: is_transposed, from });
    }

    pub(super) fn tile_store(
        &mut self,
        inst: &kernel::Inst,
        mem: Mem,
        (index, stride): (Reg, Reg),
        layout: TileLayout,
        src: Reg,
    ) -> Result<(), PtxError> {
        match tile_of(self, src).map(|tile| tile.role) {
            Some(TileRole::Acc) => {}
            Some(TileRole::A) if layout == TileLayout::RowMajor => {
                self.store_factor(mem, (index, stride), src);
                return Ok(());
            }
            _ => return self.unsupported(inst),
        }
        if layout == TileLayout::RowMajor
            && let Some(pitch) = self.offsets.constant(stride)
        {
            self.store_rows(mem, index, pitch, src);
            return Ok(());
        }
        let (src, place) = (self.vars(src), (self.scalar(index), self.scalar(stride)));
        for (i, var) in src.into_iter().enumerate() {
            let element = self.first_element(TileRole::Acc, i as i64);
            let at = self.at(place, layout, element);
            let (space, to) = self.element(mem, at);
            self.push(Inst::Store { space, ty: Ty::F32, src: vec![var], to });
        }
        Ok(())
    }

    /// Loads an accumulator from one address: its rows or columns are `stride` elements apart.
    fn load_accumulator(&mut self, mem: Mem, index: Reg, (stride, layout): (i64, TileLayout), dst: Vec<Var>) {
        let (down, right) = match layout {
            TileLayout::RowMajor | TileLayout::Interleaved => (stride, 1),
            TileLayout::ColMajor => (1, stride),
        };
        let pairs = right == 1 && down % 2 == 0 && self.alignment.exponent(index) >= 1;
        let (row, col) = self.first_element(TileRole::Acc, 0);
        let mut at = self.scalar(index);
        for (place, step) in [(row, down), (col, right)] {
            let moved = self.var(Class::B64);
            self.binary(Binary::Mul, Ty::S64, moved, place, Src::Int(step));
            at = self.sum(at, moved);
        }
        let (space, first) = self.element(mem, at);
        let size = Elem::F32.size() as i64;
        for (i, pair) in (0..).zip(dst.chunks_exact(2)) {
            let offset = first.offset + size * (8 * down * (i % 2) + 8 * right * (i / 2));
            let from = Address { offset, ..first };
            if pairs {
                self.push(Inst::Load { space, ty: Ty::F32, dst: pair.to_vec(), from });
                continue;
            }
            for (j, var) in (0..).zip(pair) {
                let from = Address { offset: offset + j * right * size, ..from };
                self.push(Inst::Load { space, ty: Ty::F32, dst: vec![*var], from });
            }
        }
    }

    /// Stores a left factor row by row.
    fn store_factor(&mut self, mem: Mem, (index, stride): (Reg, Reg), src: Reg) {
        if self.is_swizzled(mem)
            && self.offsets.constant(stride) == Some(SWIZZLED_ROW)
            && self.alignment.exponent(index) >= SWIZZLED_ROWS_EXPONENT
        {
            self.store_swizzled(mem, index, src);
            return;
        }
        let is_even = self.alignment.exponent(index).min(self.alignment.exponent(stride)) >= 1;
        let place = (self.scalar(index), self.scalar(stride));
        for (i, var) in self.vars(src).into_iter().enumerate() {
            let (row, col) = self.first_element(TileRole::A, i as i64);
            let at = self.at(place, TileLayout::RowMajor, (row, col));
            let (space, to) = self.element(mem, at);
            if is_even {
                self.push(Inst::Store { space, ty: Ty::B32, src: vec![var], to });
                continue;
            }
            let (low, high) = (self.var(Class::B16), self.var(Class::B16));
            self.push(Inst::Unpack { ty: Ty::B32, low, high, src: var });
            let next = self.sum(at, Src::Int(1));
            let (_, next) = self.element(mem, next);
            self.push(Inst::Store { space, ty: Ty::B16, src: vec![low], to });
            self.push(Inst::Store { space, ty: Ty::B16, src: vec![high], to: next });
        }
    }

    /// Stores a left factor in a swizzled array, from a row on with which the order of memory begins: words of 16 bytes
    /// differ in three bits of their address.
    fn store_swizzled(&mut self, mem: Mem, index: Reg, src: Reg) {
        let (g, q) = (self.of_lane(4, 8, 1), self.of_lane(1, 4, 2));
        let row = self.of_lane(4, 8, SWIZZLED_ROW);
        let (at, size) = (self.scalar(index), self.kernel.mem_elem(mem).size() as i64);
        let at = self.sum(at, row);
        let at = self.sum(at, q);
        let (space, base) = self.array(mem);
        let (bytes, word, first) = (self.var(Class::B64), self.var(Class::B64), self.var(Class::B64));
        self.binary(Binary::Shl, Ty::B64, bytes, at, Src::Int(size.trailing_zeros().into()));
        self.binary(Binary::Shl, Ty::B64, word, g, Src::Int(4));
        let address = self.sum(base, bytes);
        self.binary(Binary::Add, Ty::S64, first, address, word);
        for (i, pair) in (0..).zip(self.vars(src).chunks(2)) {
            let base = self.var(Class::B64);
            self.binary(Binary::Xor, Ty::B64, base, first, Src::Int((i % 8) << 4));
            for (down, var) in (0..).zip(pair) {
                let offset = down * 8 * SWIZZLED_ROW * size;
                let to = Address { base, offset };
                self.push(Inst::Store { space, ty: Ty::B32, src: vec![*var], to });
            }
        }
    }

    pub(super) fn tile_binary(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        op: BinaryOp,
        (lhs, rhs): (Reg, Reg),
    ) -> Result<(), PtxError> {
        let op = match op {
            BinaryOp::Add => Binary::Add,
            BinaryOp::Sub => Binary::Sub,
            BinaryOp::Mul => Binary::Mul,
            _ => return self.unsupported(inst),
        };
        let operands = self.vars(lhs).into_iter().zip(self.vars(rhs));
        for (dst, (a, b)) in self.vars(dst).into_iter().zip(operands) {
            self.binary(op, Ty::F32, dst, a, b);
        }
        Ok(())
    }

    /// The pairs of an accumulator are those of a factor of its size, in the same order.
    pub(super) fn tile_cast(&mut self, inst: &kernel::Inst, dst: Reg, src: Reg) -> Result<(), PtxError> {
        let is_whole = tile_of(self, src).is_some_and(|tile| tile.rows == 16 && tile.cols.is_multiple_of(16));
        if !is_whole || !self.elem(dst).is_half() {
            return self.unsupported(inst);
        }
        let ty = super::arith(self.elem(dst));
        for (dst, pair) in self.vars(dst).into_iter().zip(self.vars(src).chunks_exact(2)) {
            self.push(Inst::PackRounded { ty, dst, low: pair[0], high: pair[1] });
        }
        Ok(())
    }

    /// Stores an accumulator in rows that are `pitch` elements apart, from one address.
    fn store_rows(&mut self, mem: Mem, index: Reg, pitch: i64, src: Reg) {
        let pairs = self.alignment.exponent(index) >= 1 && pitch % 2 == 0;
        let (src, index) = (self.vars(src), self.scalar(index));
        let (row, col) = self.first_element(TileRole::Acc, 0);
        let at = self.var(Class::B64);
        self.binary(Binary::Mul, Ty::S64, at, row, Src::Int(pitch));
        let at = self.sum(at, col);
        let at = self.sum(at, index);
        let (space, first) = self.element(mem, at);
        let size = Elem::F32.size() as i64;
        for (i, pair) in (0..).zip(src.chunks_exact(2)) {
            let offset = first.offset + size * (8 * pitch * (i % 2) + 8 * (i / 2));
            let to = Address { offset, ..first };
            if pairs {
                self.push(Inst::Store { space, ty: Ty::F32, src: pair.to_vec(), to });
                continue;
            }
            for (to, var) in [to, Address { offset: offset + size, ..to }].into_iter().zip(pair) {
                self.push(Inst::Store { space, ty: Ty::F32, src: vec![*var], to });
            }
        }
    }

    pub(super) fn mma(
        &mut self,
        inst: &kernel::Inst,
        dst: Reg,
        (a, b, acc): (Reg, Reg, Reg),
    ) -> Result<(), PtxError> {
        let (elem, b_elem) = (self.elem(a), self.elem(b));
        let ty = super::arith(elem);
        let (dst, a, b, acc) = (self.vars(dst), self.vars(a), self.vars(b), self.vars(acc));
        let [a0, a1, a2, a3] = a[..] else { return self.unsupported(inst) };
        if b_elem != elem {
            return self.unsupported(inst);
        }
        for ((dst, acc), b) in dst.chunks(4).zip(acc.chunks(4)).zip(b.chunks(2)) {
            let (&[d0, d1, d2, d3], &[c0, c1, c2, c3], &[b0, b1]) = (dst, acc, b) else {
                return self.unsupported(inst);
            };
            let (dst, acc) = ([d0, d1, d2, d3], [c0, c1, c2, c3]);
            self.push(Inst::Mma { ty, dst, a: [a0, a1, a2, a3], b: [b0, b1], acc });
        }
        Ok(())
    }
}
