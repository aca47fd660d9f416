//! Blocks of rows times panels in matrix tiles of 16 rows of 64 bytes.
//!
//! Rows that are missing from a tile are zeros; a single row, as in a step, is read 16 times instead. Three tiles of
//! rows by two of columns are accumulated together, and one by two where fewer are left.

use super::{BLOCK_ROWS, PANEL};
use crate::kernel::{
    CompareOp, Elem, KernelBuilder, LocalId, ParamId, Reg, RegTy, TileLayout, TileRole, TileTy,
};

/// Rows of a tile, and columns of sums.
const TILE: i64 = 16;
/// Bytes of a row of a tile.
const ROW_BYTES: i64 = 64;
/// Most inputs of a product: so many that a block of rows stays in the second-level cache.
const MOST: i64 = 4 << 10;

/// A block of rows in the form that tiles take, and its sums with a panel.
pub(super) struct Tiles {
    /// The rows, one every [`Tiles::stride`] elements.
    pub(super) rows: LocalId,
    /// From one row to the next: not a multiple of a power of two that would put all rows into one set of the cache.
    pub(super) stride: i64,
    /// The sums of a panel, [`PANEL`] for each row.
    pub(super) sums: LocalId,
    /// Rows that exist.
    pub(super) n_rows: Reg,
    elem: Elem,
    /// From one row to the next where tiles are loaded.
    load_stride: Reg,
    /// Rows that are not stored before tiles are loaded, up to whole tiles.
    missing: (Reg, Reg),
    a: Reg,
    b: Reg,
    acc: Vec<[Reg; 2]>,
}

impl Tiles {
    /// Elements of a row of a tile.
    fn step(elem: Elem) -> i64 {
        ROW_BYTES / elem.size() as i64
    }

    /// Whether products over `k` elements can be computed in tiles.
    pub(super) fn fit(elem: Elem, k: i64) -> bool {
        k > 0 && k <= MOST && k % Self::step(elem) == 0
    }

    /// For rows of `k` elements; the element types are those of rows, weight and sums.
    pub(super) fn new(
        b: &mut KernelBuilder,
        (elem, weight, sum): (Elem, Elem, Elem),
        k: i64,
        (first, end): (Reg, Reg),
    ) -> Self {
        let step = Self::step(elem);
        let stride = k + step;
        let rows = b.local("rows", elem, (BLOCK_ROWS * stride) as u32);
        let sums = b.local("sums", sum, (BLOCK_ROWS * PANEL) as u32);
        let n_rows = b.sub(end, first);
        let is_single = b.compare(CompareOp::Eq, n_rows, 1);
        let (none, some) = (b.const_i64(0), b.const_i64(stride));
        let load_stride = b.select(is_single, none, some);
        let whole = b.add(n_rows, TILE - 1);
        let whole = b.div(whole, TILE);
        let whole = b.mul(whole, TILE);
        let begin = b.select(is_single, whole, n_rows);
        let mut tile = |role, rows: i64, cols: i64, elem| {
            b.var(RegTy::Tile(TileTy { rows: rows as u16, cols: cols as u16, elem, role }))
        };
        let left = tile(TileRole::A, TILE, step, elem);
        let right = tile(TileRole::B, step, TILE, weight);
        let mut acc = || tile(TileRole::Acc, TILE, TILE, sum);
        let acc = (0..BLOCK_ROWS / TILE).map(|_| [acc(), acc()]).collect();
        Self {
            rows,
            stride,
            sums,
            n_rows,
            elem,
            load_stride,
            missing: (begin, whole),
            a: left,
            b: right,
            acc,
        }
    }

    /// Zeros for the rows that tiles hold beyond those that exist.
    pub(super) fn fill(&self, b: &mut KernelBuilder) {
        let step = Self::step(self.elem);
        let zero = b.zero(self.elem.x(step as u16));
        b.for_("slot", self.missing.0, self.missing.1, 1, |b, slot| {
            let first = b.mul(slot, self.stride);
            b.for_("k", 0, self.stride, step, |b, k| {
                let at = b.add(first, k);
                b.store(self.rows, at, zero);
            });
        });
    }

    /// Stores the sums over `k` elements of all rows, from element `from` of each on (else from the first), times the
    /// elements of a panel that begin at `at`.
    pub(super) fn multiply(
        &self,
        b: &mut KernelBuilder,
        (weight, at): (ParamId, Reg),
        k: i64,
        from: Option<Reg>,
    ) {
        let is_whole = b.gt(self.n_rows, BLOCK_ROWS - TILE);
        b.if_else(
            is_whole,
            |b| {
                let first = b.const_i64(0);
                self.some(b, (weight, at), k, from, (first, self.acc.len()));
            },
            |b| {
                b.for_("first", 0, self.missing.1, TILE, |b, first| {
                    self.some(b, (weight, at), k, from, (first, 1));
                });
            },
        );
    }

    /// As [`Tiles::multiply`], for `n` tiles of rows from row `first` on.
    fn some(
        &self,
        b: &mut KernelBuilder,
        (weight, at): (ParamId, Reg),
        k: i64,
        from: Option<Reg>,
        (first, n): (Reg, usize),
    ) {
        let acc = &self.acc[..n];
        for acc in acc.iter().flatten() {
            b.tile_clear(*acc);
        }
        let row_place = |b: &mut KernelBuilder, i: usize| b.add(first, i as i64 * TILE);
        // Interleaved rows of all columns of a panel.
        let beside = 4 / self.elem.size() as i64;
        let weight_stride = b.const_i64(PANEL * beside);
        b.for_("k", 0, k, Self::step(self.elem), |b, k| {
            let offset = b.mul(k, PANEL);
            let panel = b.add(at, offset);
            let column = match from {
                Some(from) => b.add(from, k),
                None => k,
            };
            for half in 0..2 {
                let at = b.add(panel, half as i64 * TILE * beside);
                b.tile_load_to(self.b, weight, (at, weight_stride), TileLayout::Interleaved);
                for (i, acc) in acc.iter().enumerate() {
                    let row = row_place(b, i);
                    let row = b.mul(row, self.stride);
                    let at = b.add(row, column);
                    b.tile_load_to(self.a, self.rows, (at, self.load_stride), TileLayout::RowMajor);
                    b.mma_to(self.a, self.b, acc[half]);
                }
            }
        });
        let stride = b.const_i64(PANEL);
        for (i, acc) in acc.iter().enumerate() {
            let row = row_place(b, i);
            let row = b.mul(row, PANEL);
            for (half, acc) in acc.iter().enumerate() {
                let at = b.add(row, half as i64 * TILE);
                b.tile_store(self.sums, at, stride, TileLayout::RowMajor, *acc);
            }
        }
    }
}
