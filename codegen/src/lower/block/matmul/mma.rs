//! Matrix tiles of 16x8x16 with `f32` accumulators.
//!
//! ```text
//! 4 warps = 2 x 2; a warp has 32 x 32 of the tile: 2 x 4 accumulators of 16 x 8
//!
//! x  [16 x 16] row-major from a tile [m, k], column-major from a deep tile [k, m]
//! w  [16 x 8] column-major from a tile [n, k], row-major from a deep tile [k, n]
//! ```
//!
//! The threads of a warp do not know which elements of an accumulator they hold, so the accumulators go through shared
//! memory; then each thread takes elements of its own through the epilogue.

use super::{Block, Layout, TILE, Tile};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg, TileLayout, TileRole, TileTy, WARP_SIZE};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::sink::Sink;

/// Rows and columns of warps.
const WARP_ROWS: i64 = 2;
const WARP_COLS: i64 = 2;

pub(super) const THREADS: u32 = (WARP_ROWS * WARP_COLS) as u32 * WARP_SIZE;

/// Rows are 40 elements (20 words) apart, deep ones 72 (36 words): eight of either lie in distinct banks.
const LAYOUT: Layout = Layout { depth: 32, pad: 8, may_be_deep: true };

/// Extents of one matrix instruction.
const M: i64 = 16;
const N: i64 = 8;
const K: i64 = 16;

/// Padding of the rows of the result in shared memory.
const PAD: i64 = 4;

pub(super) fn lower<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    sink: &mut Sink<'a>,
    block: &Block<'_>,
) -> Result<(), LowerError> {
    let tiles = block.tiles(cx, b, LAYOUT, THREADS)?;
    let elem = b.mem_elem(tiles.x.stage.shared());
    let ty = |rows: i64, cols: i64, elem, role| TileTy { rows: rows as u16, cols: cols as u16, elem, role };
    let (x_ty, w_ty) = (ty(M, K, elem, TileRole::A), ty(K, N, elem, TileRole::B));
    let acc_ty = ty(M, N, Elem::F32, TileRole::Acc);
    let thread = b.thread_idx(Axis::X);
    let warp = b.div(thread, WARP_SIZE);
    let (warp_row, warp_col) = (b.div(warp, WARP_COLS), b.rem(warp, WARP_COLS));
    let mut places = |at: Reg, share: i64, step: i64| -> Vec<Reg> {
        let first = b.mul(at, share);
        (0..share).step_by(step as usize).map(|i| b.add(first, i)).collect()
    };
    let rows = places(warp_row, TILE / WARP_ROWS, M);
    let cols = places(warp_col, TILE / WARP_COLS, N);
    let zero = b.tile_fill(acc_ty, 0.0);
    let acc: Vec<Vec<Reg>> = rows.iter().map(|_| cols.iter().map(|_| b.var_init(zero)).collect()).collect();
    block.for_tiles(cx, b, &tiles, &mut |b, x_buffer, w_buffer| {
        for k in (0..LAYOUT.depth).step_by(K as usize) {
            let mut load = |tile: &Tile, buffer: Reg, own: &[Reg], ty: TileTy| -> Vec<Reg> {
                let is_row_major = (ty.role == TileRole::A) != tile.is_deep;
                let layout = if is_row_major { TileLayout::RowMajor } else { TileLayout::ColMajor };
                let load = |own: &Reg| {
                    let at = tile.at(b, buffer, *own, k);
                    b.tile_load(ty, tile.stage.shared(), at, tile.stage.pitch(), layout)
                };
                own.iter().map(load).collect()
            };
            let x = load(&tiles.x, x_buffer, &rows, x_ty);
            let w = load(&tiles.w, w_buffer, &cols, w_ty);
            for (acc, x) in acc.iter().zip(&x) {
                for (acc, w) in acc.iter().zip(&w) {
                    let sum = b.mma(*x, *w, *acc);
                    b.assign(*acc, sum);
                }
            }
        }
    })?;
    let pitch = TILE + PAD;
    let result = b.shared("y_tile", Elem::F32, (TILE * pitch) as u32);
    for (acc, row) in acc.iter().zip(&rows) {
        for (acc, col) in acc.iter().zip(&cols) {
            let at = b.mul(*row, pitch);
            let at = b.add(at, *col);
            b.tile_store(result, at, pitch, TileLayout::RowMajor, *acc);
        }
    }
    b.barrier();
    let mut stored = Ok(());
    b.for_("i", thread, TILE * TILE, THREADS.into(), |b, i| {
        let (row, col) = (b.div(i, TILE), b.rem(i, TILE));
        stored = cx.scope(|cx| {
            block.put(cx, b, sink, (row, col), |b| {
                let at = b.mul(row, pitch);
                let at = b.add(at, col);
                b.load(result, at, 1)
            })
        });
    });
    stored
}
