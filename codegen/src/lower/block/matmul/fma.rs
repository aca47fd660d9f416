//! A block of the result per thread, in registers.
//!
//! ```text
//! 128 threads = 8 rows x 16 columns of threads; thread (r, c) has rows r, r+8, .. and columns c, c+16, .. of the tile
//! ```
//!
//! Neighboring threads read rows of w that are 20 words apart, whose 16-byte loads hit distinct banks, and store
//! neighboring columns.

use super::{Block, Compute, Layout, Tile, Tiles};
use crate::kernel::{Axis, Elem, KernelBuilder, Reg};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::sink::Sink;

/// Rows and columns of threads.
const THREAD_ROWS: i64 = 8;
const THREAD_COLS: i64 = 16;

pub(super) const THREADS: u32 = (THREAD_ROWS * THREAD_COLS) as u32;

/// Rows and columns of the result that a block computes.
pub(super) const TILE: i64 = 64;

const LAYOUT: Layout = Layout {
    depth: 16,
    pad: 4,
    may_be_deep: false,
    buffers: 3,
    ahead: 2,
    is_joint: false,
    is_swizzled: false,
};

/// Steps of k in one load.
const STEP: i64 = 4;

pub(super) fn lower<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    sink: &mut Sink<'a>,
    block: &Block<'_>,
) -> Result<(), LowerError> {
    let tiles = block.tiles(cx, b, LAYOUT)?;
    let thread = b.thread_idx(Axis::X);
    let (thread_row, thread_col) = (b.div(thread, THREAD_COLS), b.rem(thread, THREAD_COLS));
    let rows: Vec<Reg> = (0..TILE).step_by(THREAD_ROWS as usize).map(|r| b.add(thread_row, r)).collect();
    let cols: Vec<Reg> = (0..TILE).step_by(THREAD_COLS as usize).map(|c| b.add(thread_col, c)).collect();
    let zero = b.zero(crate::kernel::RegTy::scalar(Elem::F32));
    let acc: Vec<Vec<Reg>> = rows.iter().map(|_| cols.iter().map(|_| b.var_init(zero)).collect()).collect();
    block.for_tiles(cx, b, &tiles, &mut Sums { tiles: &tiles, rows: &rows, cols: &cols, acc: &acc })?;
    for (acc, row) in acc.iter().zip(&rows) {
        for (acc, col) in acc.iter().zip(&cols) {
            // A copy: the epilogue must not see an accumulator as a value that lasts.
            block.put(cx, b, sink, (*row, *col), |b| b.cast(*acc, Elem::F32))?;
        }
    }
    Ok(())
}

/// The sums of a thread.
struct Sums<'s> {
    tiles: &'s Tiles,
    rows: &'s [Reg],
    cols: &'s [Reg],
    acc: &'s [Vec<Reg>],
}

impl Compute for Sums<'_> {
    fn begin(&mut self, _: &mut KernelBuilder, _: Reg, _: Reg) {}

    fn end(&mut self, b: &mut KernelBuilder, x_buffer: Reg, w_buffer: Reg) {
        b.for_("k", 0, LAYOUT.depth, STEP, |b, k| {
            let mut load = |tile: &Tile, buffer: Reg, own: &[Reg]| -> Vec<Vec<Reg>> {
                let load = |own: &Reg| {
                    let at = tile.at(b, buffer, *own, k);
                    let v = tile.stage.load(b, at, STEP as u16);
                    (0..STEP).map(|i| b.extract(v, i as u16)).collect()
                };
                own.iter().map(load).collect()
            };
            let x = load(&self.tiles.x, x_buffer, self.rows);
            let w = load(&self.tiles.w, w_buffer, self.cols);
            for i in 0..STEP as usize {
                for (acc, x) in self.acc.iter().zip(&x) {
                    for (acc, w) in acc.iter().zip(&w) {
                        let sum = b.fma(x[i], w[i], *acc);
                        b.assign(*acc, sum);
                    }
                }
            }
        });
    }
}
