//! Sums of products of a few rows with a few vectors, kept in registers.

use crate::kernel::{Elem, KernelBuilder, Reg};

/// Rows of a tile: with [`VECTORS`] it takes half of 32 vector registers and hides the latency of multiply-adds.
pub(super) const ROWS: i64 = 4;
/// Vectors of a row.
pub(super) const VECTORS: i64 = 4;

/// Sums, row after row.
pub(super) struct Tile {
    lanes: u16,
    vectors: usize,
    sums: Vec<Reg>,
}

impl Tile {
    /// Sums that begin at zero.
    pub(super) fn zero(
        b: &mut KernelBuilder,
        (rows, vectors): (i64, i64),
        (elem, lanes): (Elem, u16),
    ) -> Self {
        let zero = b.zero(elem.x(lanes));
        let sums = (0..rows * vectors).map(|_| b.var_init(zero)).collect();
        Self { lanes, vectors: vectors as usize, sums }
    }

    /// Adds `left(k, row) * right(k, vector)` for `k` from `lo` to below `hi`; `left` gives one number.
    pub(super) fn add_products(
        &self,
        b: &mut KernelBuilder,
        (lo, hi): (Reg, Reg),
        left: &dyn Fn(&mut KernelBuilder, Reg, i64) -> Reg,
        right: &dyn Fn(&mut KernelBuilder, Reg, i64) -> Reg,
    ) {
        b.for_("k", lo, hi, 1, |b, k| {
            let vectors: Vec<Reg> = (0..self.vectors).map(|v| right(b, k, v as i64)).collect();
            for (row, sums) in self.sums.chunks_exact(self.vectors).enumerate() {
                let x = left(b, k, row as i64);
                self.add_row(b, sums, x, &vectors);
            }
        });
    }

    /// Adds `x * vectors` to a row.
    pub(super) fn add_to_row(&self, b: &mut KernelBuilder, row: i64, x: Reg, vectors: &[Reg]) {
        self.add_row(b, self.row(row), x, vectors);
    }

    fn add_row(&self, b: &mut KernelBuilder, sums: &[Reg], x: Reg, vectors: &[Reg]) {
        let x = widen(b, x, self.lanes);
        for (sum, vector) in sums.iter().zip(vectors) {
            let next = b.fma(x, *vector, *sum);
            b.assign(*sum, next);
        }
    }

    /// Multiplies a row by one number.
    pub(super) fn scale_row(&self, b: &mut KernelBuilder, row: i64, x: Reg) {
        let x = widen(b, x, self.lanes);
        for sum in self.row(row) {
            let scaled = b.mul(x, *sum);
            b.assign(*sum, scaled);
        }
    }

    /// The sums of a row.
    pub(super) fn row(&self, row: i64) -> &[Reg] {
        &self.sums[row as usize * self.vectors..][..self.vectors]
    }
}

/// A number in every lane.
pub(super) fn widen(b: &mut KernelBuilder, x: Reg, lanes: u16) -> Reg {
    if lanes > 1 { b.splat(x, lanes) } else { x }
}
