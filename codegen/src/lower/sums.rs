//! Sums of products of a few rows with a few vectors, kept in registers.

use super::access::Cx;
use crate::kernel::{KernelBuilder, Reg};

/// For each row as many sums as it has vectors; all begin with `init`.
pub(super) fn sums(b: &mut KernelBuilder, (rows, vectors): (usize, i64), init: Reg) -> Vec<Vec<Reg>> {
    (0..rows).map(|_| (0..vectors).map(|_| b.var_init(init)).collect()).collect()
}

/// Adds the products of a number with vectors to the sums of a row.
pub(super) fn multiply_add(cx: &Cx<'_>, b: &mut KernelBuilder, x: Reg, vectors: &[Reg], row: &[Reg]) {
    let x = cx.widen(b, x);
    for (vector, sum) in vectors.iter().zip(row) {
        let next = b.fma(x, *vector, *sum);
        b.assign(*sum, next);
    }
}
