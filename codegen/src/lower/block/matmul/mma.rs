//! Matrix tiles of 16x16x16 with `f32` accumulators.
//!
//! ```text
//! tiles of 64 x 64     4 warps = 2 x 2, each with 32 x 32: 2 x 2 accumulators of 16 x 16
//! tiles of 128 x 128   8 warps = 2 x 4, each with 64 x 32: 4 x 2 accumulators
//!
//! x  [16 x 16] row-major from a tile [m, k], column-major from a deep tile [k, m]
//! w  [16 x 16] column-major from a tile [n, k], row-major from a deep tile [k, n]
//! ```
//!
//! The threads of a warp do not know which elements of an accumulator they hold, so the accumulators go through shared
//! memory; then each thread takes elements of its own through the epilogue.

use super::{Block, Compute, Layout, Tile, Tiles};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg, TileLayout, TileRole, TileTy, WARP_SIZE};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::sink::Sink;

/// How large the tile of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lower::block) enum Size {
    /// More blocks, for results of few rows or columns.
    Small,
    /// More products for each element that is fetched.
    Large,
}

impl Size {
    /// Rows and columns from which large tiles pay.
    pub(super) const LARGE: i64 = 256;

    pub(super) fn tile(self) -> i64 {
        match self {
            Size::Small => 64,
            Size::Large => 128,
        }
    }

    /// Rows and columns of warps.
    fn warps(self) -> (i64, i64) {
        match self {
            Size::Small => (2, 2),
            Size::Large => (2, 4),
        }
    }

    pub(super) fn threads(self) -> u32 {
        let (rows, cols) = self.warps();
        (rows * cols) as u32 * WARP_SIZE
    }
}

/// Rows are 40 elements (20 words) apart, deep ones 72 or 136 (36 or 68 words): eight of each lie in distinct banks.
const LAYOUT: Layout =
    Layout { depth: 32, pad: 8, may_be_deep: true, buffers: 4, ahead: 3, is_joint: true, is_swizzled: false };

/// Extents of one matrix instruction of the kernel IR.
const M: i64 = 16;
const N: i64 = 16;
const K: i64 = 16;

/// Padding of the rows of the result in shared memory: pairs of columns of four rows lie in distinct banks.
const PAD: i64 = 8;

pub(super) fn lower<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    sink: &mut Sink<'a>,
    block: &Block<'_>,
    size: Size,
) -> Result<(), LowerError> {
    let tiles = block.tiles(cx, b, LAYOUT)?;
    let elem = b.mem_elem(tiles.x.stage.shared());
    let ty = |rows: i64, cols: i64, elem, role| TileTy { rows: rows as u16, cols: cols as u16, elem, role };
    let acc_ty = ty(M, N, Elem::F32, TileRole::Acc);
    let thread = b.thread_idx(Axis::X);
    let warp = b.div(thread, WARP_SIZE);
    let (warp_rows, warp_cols) = size.warps();
    let (warp_row, warp_col) = (b.div(warp, warp_cols), b.rem(warp, warp_cols));
    let mut places = |at: Reg, share: i64, step: i64| -> Vec<Reg> {
        let first = b.mul(at, share);
        (0..share).step_by(step as usize).map(|i| b.add(first, i)).collect()
    };
    let rows = places(warp_row, size.tile() / warp_rows, M);
    let cols = places(warp_col, size.tile() / warp_cols, N);
    let zero = b.tile_fill(acc_ty, 0.0);
    let acc: Vec<Vec<Reg>> = rows.iter().map(|_| cols.iter().map(|_| b.var_init(zero)).collect()).collect();
    let mut sums = Sums {
        tiles: &tiles,
        x: (&rows, ty(M, K, elem, TileRole::A)),
        w: (&cols, ty(K, N, elem, TileRole::B)),
        acc: &acc,
    };
    block.for_tiles(cx, b, &tiles, &mut sums)?;
    let pitch = size.tile() + PAD;
    let result = block.result(b, &tiles, pitch);
    for (acc, row) in acc.iter().zip(&rows) {
        for (acc, col) in acc.iter().zip(&cols) {
            let at = b.mul(*row, pitch);
            let at = b.add(at, *col);
            b.tile_store(result, at, pitch, TileLayout::RowMajor, *acc);
        }
    }
    block.store(cx, b, sink, (result, pitch))
}

/// The sums of a warp: where its tiles of x and w begin, and their types.
struct Sums<'s> {
    tiles: &'s Tiles,
    x: (&'s [Reg], TileTy),
    w: (&'s [Reg], TileTy),
    acc: &'s [Vec<Reg>],
}

impl Compute for Sums<'_> {
    fn begin(&mut self, _: &mut KernelBuilder, _: Reg, _: Reg) {}

    fn end(&mut self, b: &mut KernelBuilder, x_buffer: Reg, w_buffer: Reg) {
        for k in (0..LAYOUT.depth).step_by(K as usize) {
            let mut load = |tile: &Tile, buffer: Reg, (own, ty): (&[Reg], TileTy)| -> Vec<Reg> {
                let is_row_major = (ty.role == TileRole::A) != tile.is_deep;
                let layout = if is_row_major { TileLayout::RowMajor } else { TileLayout::ColMajor };
                let load = |own: &Reg| {
                    let at = tile.at(b, buffer, *own, k);
                    b.tile_load(ty, tile.stage.shared(), at, tile.stage.pitch(), layout)
                };
                own.iter().map(load).collect()
            };
            let x = load(&self.tiles.x, x_buffer, self.x);
            let w = load(&self.tiles.w, w_buffer, self.w);
            for (acc, x) in self.acc.iter().zip(&x) {
                for (acc, w) in acc.iter().zip(&w) {
                    let sum = b.mma(*x, *w, *acc);
                    b.assign(*acc, sum);
                }
            }
        }
    }
}
