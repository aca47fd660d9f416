//! Products of warp groups, whose matrix units read both operands from swizzled shared memory.
//!
//! ```text
//! 2 groups of 4 warps, each with 64 rows of the tile; warp w of a group holds rows 16*w ..
//! ```
//!
//! The accumulators go through shared memory, as those of [`super::mma`] do.
//!
//! Wide tiles fetch fewer bytes for each product, narrow ones share the work more evenly. Which shape is taken depends on
//! the tiles of rows, by how many turns the multiprocessors need.
//!
//! Few rows, those of one group, are bound by reading w, for which all multiprocessors have to ask. Then tiles are narrow,
//! and if there are fewer of them than multiprocessors, k is split too: blocks leave their sums in memory, and a second
//! launch adds them up and takes them through the epilogue ([`add_up`]).

use super::{Block, Compute, Layout, Tiles};
use crate::kernel::{
    Axis, Elem, GroupFactor, GroupLeft, KernelBuilder, ParamId, Reg, TileLayout, TileRole, TileTy, WARP_SIZE,
};
use crate::lower::LowerError;
use crate::lower::access::Cx;
use crate::lower::block::share::reaches;
use crate::lower::sink::Sink;
use ssmc_ir::Dim;

/// Warp groups, one below the other, where there are many rows.
const GROUPS: i64 = 2;

/// Threads and rows of a group.
const GROUP_THREADS: i64 = 4 * WARP_SIZE as i64;
const GROUP_ROWS: i64 = 64;

/// Rows of the result that a block computes, where there are many.
pub(super) const ROWS: i64 = GROUPS * GROUP_ROWS;

/// Most rows that count as few.
pub(super) const FEW_ROWS: i64 = GROUP_ROWS;

/// Columns of a tile of few rows, and tiles of k that a block takes at least if k is split.
const FEW_COLS: i64 = 64;
const FEW_TILES: i64 = 8;

/// Elements that a thread adds up together.
pub(super) const SUM_LANES: i64 = 4;

/// Threads of a block that does.
const SUM_THREADS: i64 = 128;

/// Multiples of so many elements lie together in memory: copies are of 16 bytes.
pub(super) const RUN: i64 = 8;

/// Steps of k in a tile: rows of 128 bytes.
pub(super) const DEPTH: i64 = 64;

/// Steps of one instruction.
const K: i64 = 16;

/// Padding of the rows of the result in shared memory: pairs of columns of four rows lie in distinct banks.
const PAD: i64 = 8;

/// Multiprocessors that the shapes are weighed for.
const PROCESSORS: i64 = 132;

/// Columns of the tile of a block, and how it is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lower::block) struct Shape {
    cols: i64,
    /// Buffers of the operands.
    buffers: i64,
    /// Tiles of k whose products may be under way when those of the next one begin; each keeps a buffer.
    pending: u16,
    /// Blocks that share a multiprocessor.
    together: i64,
    /// What a multiprocessor reaches, as measured on an H100, in TFLOP/s of all.
    rate: i64,
    /// Warp groups.
    groups: i64,
    /// Blocks that share k.
    splits: i64,
}

/// A shape for many rows.
const fn many(cols: i64, buffers: i64, pending: u16, together: i64, rate: i64) -> Shape {
    Shape { cols, buffers, pending, together, rate, groups: GROUPS, splits: 1 }
}

/// From the fastest to the one that divides best.
pub(in crate::lower::block) const SHAPES: [Shape; 4] =
    [many(256, 4, 1, 1, 660), many(160, 6, 1, 1, 600), many(128, 3, 0, 2, 550), many(128, 6, 1, 1, 540)];

/// For products of fewer columns than two of the others have, which one tile takes.
const NARROW: [Shape; 4] =
    [many(64, 8, 1, 1, 300), many(96, 7, 1, 1, 400), many(128, 6, 1, 1, 540), many(192, 5, 1, 1, 600)];

/// Fewest columns for which a tile is taken.
pub(super) const FEWEST: i64 = 48;

/// From how many tiles of rows on one tile of columns is enough work.
pub(super) const MANY_ROWS: i64 = 48;

/// Tiles of rows up to which shapes are weighed.
const MANY: i64 = 1 << 8;

impl Shape {
    /// Rows and columns of the result that a block computes.
    pub(super) fn tile(self) -> (i64, i64) {
        (self.groups * GROUP_ROWS, self.cols)
    }

    pub(super) fn threads(self) -> u32 {
        (self.groups * GROUP_THREADS) as u32
    }

    /// Whether all rows are in one tile.
    pub(super) fn has_few_rows(self) -> bool {
        self.groups == 1
    }

    /// Blocks that share k.
    pub(super) fn splits(self) -> i64 {
        self.splits
    }

    /// The tiles of k of a part: the first one, and the one behind the last.
    pub(super) fn share(self, b: &mut KernelBuilder, depth: Reg, part: Reg) -> (Reg, Reg) {
        let all = b.ceil_div(depth, DEPTH);
        let each = b.ceil_div(all, self.splits);
        let first = b.mul(part, each);
        let first = b.min(first, all);
        let end = b.add(first, each);
        (first, b.min(end, all))
    }

    /// The shape for few rows; k may be split if its length is given.
    pub(in crate::lower::block) fn of_few_rows(cols: i64, depth: Option<i64>) -> Shape {
        let blocks = (cols + FEW_COLS - 1).div_euclid(FEW_COLS);
        let most = depth.map_or(1, |depth| depth / (DEPTH * FEW_TILES));
        let splits = (PROCESSORS / blocks.max(1)).min(most).max(1);
        Shape { cols: FEW_COLS, buffers: 6, pending: 1, together: 2, rate: 300, groups: 1, splits }
    }

    fn layout(self) -> Layout {
        let ahead = self.buffers - 1 - i64::from(self.pending);
        Layout {
            depth: DEPTH,
            pad: 0,
            may_be_deep: false,
            buffers: self.buffers,
            ahead,
            is_joint: true,
            is_swizzled: true,
        }
    }

    /// How long so many tiles of rows take, in some unit, for each step of k.
    fn cost(self, row_tiles: i64, cols: i64) -> i64 {
        let tiles = row_tiles * (cols + self.cols - 1).div_euclid(self.cols);
        let turns = (tiles + PROCESSORS - 1).div_euclid(PROCESSORS);
        // A block that was to share a multiprocessor leaves it idle at times when it is alone.
        let idle = if turns < self.together { 5 } else { 4 };
        1_000_000 * turns * self.cols * idle / self.rate
    }

    /// The shape for so many tiles of rows.
    fn choose(row_tiles: i64, cols: i64) -> Shape {
        let cheapest = SHAPES.into_iter().min_by_key(|shape| shape.cost(row_tiles, cols));
        cheapest.expect("there are shapes")
    }

    /// The shape for so many columns, fewer than those of two of the others.
    pub(in crate::lower::block) fn of_few(cols: i64) -> Shape {
        NARROW.into_iter().find(|shape| shape.cols >= cols).unwrap_or(SHAPES[0])
    }

    /// The shapes for a product, each with 1 where it runs and 0 where another one does. `row_tiles` are those of all
    /// batches.
    pub(super) fn alternatives(row_tiles: &Dim, cols: i64) -> Vec<(Shape, Dim)> {
        if let Some(n) = row_tiles.as_const() {
            return vec![(Shape::choose(n, cols), Dim::from(1))];
        }
        let at_least = |n: i64| reaches(row_tiles, n);
        let mut all: Vec<(Shape, Dim)> = Vec::new();
        let mut from = 1;
        while from <= MANY {
            let shape = Shape::choose(from, cols);
            let start = if from == 1 { Dim::from(1) } else { at_least(from) };
            while from <= MANY && Shape::choose(from, cols) == shape {
                from *= 2;
            }
            let share = if from > MANY { start } else { start - &at_least(from) };
            match all.iter_mut().find(|(known, _)| *known == shape) {
                Some((_, sum)) => *sum = sum.clone() + &share,
                None => all.push((shape, share)),
            }
        }
        all
    }
}

pub(super) fn lower<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    sink: &mut Sink<'a>,
    block: &Block<'_>,
    shape: Shape,
) -> Result<(), LowerError> {
    let tiles = block.tiles(cx, b, shape.layout())?;
    let thread = b.thread_idx(Axis::X);
    let group = b.div(thread, GROUP_THREADS);
    let acc_ty = TileTy { rows: 16, cols: shape.cols as u16, elem: Elem::F32, role: TileRole::Acc };
    let zero = b.tile_fill(acc_ty, 0.0);
    let acc = b.var_init(zero);
    let rows = b.mul(group, GROUP_ROWS * DEPTH);
    block.for_tiles(cx, b, &tiles, &mut Sums { tiles: &tiles, rows, acc, pending: shape.pending })?;
    b.group_wait(0);
    if let Some(parts) = &block.parts {
        let warp = b.div(thread, WARP_SIZE);
        let row = b.mul(warp, 16);
        let at = parts.at(b, (parts.own, row, block.first_col));
        b.tile_store(parts.sums, at, parts.pitch, TileLayout::RowMajor, acc);
        return Ok(());
    }
    let pitch = shape.cols + PAD;
    let result = block.result(b, &tiles, pitch);
    let warp = b.div(thread, WARP_SIZE);
    let at = b.mul(warp, 16 * pitch);
    b.tile_store(result, at, pitch, TileLayout::RowMajor, acc);
    block.store(cx, b, sink, (result, pitch))
}

/// The sums that blocks which share k leave in memory: those of each part row by row.
pub(super) struct Parts {
    sums: ParamId,
    /// Elements from row to row.
    pitch: i64,
    /// The part of the block.
    own: Reg,
}

impl Parts {
    /// `cols` are all columns of the result.
    pub(super) fn declare(
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (shape, cols): (Shape, i64),
        own: Option<Reg>,
    ) -> Parts {
        let pitch = (cols + shape.cols - 1).div_euclid(shape.cols) * shape.cols;
        let size = Dim::from(shape.splits * GROUP_ROWS * pitch);
        let sums = cx.scratch_param(b, (0, Elem::F32, &size), own.is_some());
        let own = own.unwrap_or_else(|| b.const_i64(0));
        Parts { sums, pitch, own }
    }

    fn at(&self, b: &mut KernelBuilder, (part, row, col): (Reg, Reg, Reg)) -> Reg {
        let first = b.mul(part, GROUP_ROWS * self.pitch);
        let row = b.mul(row, self.pitch);
        let at = b.add(first, row);
        b.add(at, col)
    }
}

/// Threads of a block that adds up.
pub(super) fn sum_threads() -> u32 {
    SUM_THREADS as u32
}

/// Adds up what the parts of k gave for some columns of a row, and takes it through the epilogue.
pub(super) fn add_up<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    sink: &mut Sink<'a>,
    (block, shape): (&Block<'_>, Shape),
) -> Result<(), LowerError> {
    let parts = block.parts.as_ref().expect("the schedule of sums is that of products with parts");
    let thread = b.thread_idx(Axis::X);
    let col = b.mul(thread, SUM_LANES);
    let col = b.add(block.first_col, col);
    let exists = b.lt(col, block.cols);
    let before = std::mem::replace(&mut cx.lanes, SUM_LANES as u16);
    let mut result = Ok(());
    b.if_(exists, |b| {
        result = cx.scope(|cx| {
            let idx = block.index(cx, b, (block.first_row, col));
            sink.fetch(cx, b, &idx)?;
            let loaded: Vec<Reg> = (0..shape.splits)
                .map(|part| {
                    let part = b.const_i64(part);
                    let at = parts.at(b, (part, block.first_row, col));
                    b.load(parts.sums, at, SUM_LANES as u16)
                })
                .collect();
            let sum = loaded.into_iter().reduce(|sum, part| b.add(sum, part)).expect("k has a part");
            let sum = b.cast(sum, block.elem);
            sink.put(cx, b, &idx, sum)
        });
    });
    cx.lanes = before;
    result
}

/// The sums of a group, whose rows of x begin `rows` elements into a tile.
struct Sums<'s> {
    tiles: &'s Tiles,
    rows: Reg,
    acc: Reg,
    pending: u16,
}

impl Compute for Sums<'_> {
    fn begin(&mut self, b: &mut KernelBuilder, x: Reg, w: Reg) {
        let mem = self.tiles.x.stage.shared().into();
        let x = b.add(x, self.rows);
        let [x, w] = [x, w].map(|index| GroupFactor { mem, index, is_turned: false });
        b.group_mma(self.acc, GroupLeft::Shared(x), w, (DEPTH / K) as u16);
    }

    fn end(&mut self, b: &mut KernelBuilder, _: Reg, _: Reg) {
        b.group_wait(self.pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssmc_ir::{Bindings, Symbol};

    /// Blocks that share k are at most as many as multiprocessors, and each has enough of it.
    #[test]
    fn few_rows_fill_the_multiprocessors() {
        let splits = |cols, depth| Shape::of_few_rows(cols, Some(depth)).splits;
        assert_eq!(
            [splits(10576, 2560), splits(2560, 5120), splits(768, 1536), splits(64, 512)],
            [1, 3, 3, 1]
        );
        assert_eq!(Shape::of_few_rows(2560, None).splits, 1);
    }

    #[test]
    fn one_shape_runs_for_any_number_of_rows() {
        let mut seen = Vec::new();
        for cols in [256, 768, 2560, 10240, 1 << 20] {
            let all = Shape::alternatives(&Dim::symbol("tiles"), cols);
            for tiles in [1, 2, 3, 4, 7, 8, 16, 31, 64, 100, 128, 255, 256, 10_000] {
                let bindings = Bindings::from([(Symbol::new("tiles"), tiles)]);
                let runs = |(_, share): &&(Shape, Dim)| share.eval(&bindings).unwrap() != 0;
                let [(shape, share)] = all.iter().filter(runs).collect::<Vec<_>>()[..] else {
                    panic!("{cols} columns, {tiles} tiles of rows: {all:?}")
                };
                assert_eq!(share.eval(&bindings), Ok(1));
                seen.push(*shape);
            }
        }
        assert!(SHAPES.iter().all(|shape| seen.contains(shape)), "{seen:?}");
    }

    /// The shapes that were fastest on an H100, by tiles of rows and columns.
    #[test]
    fn shapes_for_known_sizes() {
        let cols = |tiles, cols| Shape::choose(tiles, cols).cols;
        assert_eq!([cols(16, 10240), cols(128, 10240), cols(128, 3072)], [256; 3]);
        assert_eq!([cols(16, 3072), cols(16, 768)], [128; 2]);
    }
}
