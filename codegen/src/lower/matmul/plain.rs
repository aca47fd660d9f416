//! Weights as numbers: rows are copied, then multiplied with panel after panel.
//!
//! A copy costs a load and a store for each element and some hundred columns, and pays for them: its rows lie in few
//! pages, at places that do not compete for one set of the first-level cache, and whatever is fused into the element is
//! computed once. Rows that lack in the last register block are zeros in the copy and not stored.
//!
//! Few rows, as in a step, are multiplied one by one with several panels at once: what then counts is how many streams of
//! the weight are under way.

use super::{BLOCK_ROWS, PANEL, Put, ROWS, Shape, Span, for_rows};
use crate::assemble::Packing;
use crate::kernel::{KernelBuilder, LocalId, ParamId, Reg};
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::sums::{multiply_add, sums};
use crate::lower::{LowerError, Lowering};
use ssmc_ir::Dim;

/// Bytes of copied rows: they stay in the second-level cache together with a panel.
const COPIED_BYTES: i64 = 400 << 10;

/// Elements between the end of a copied row and the next row: lines of different rows then end at different elements.
const GAP: i64 = 20;

/// Rows from which on whole register blocks are multiplied.
const MANY: i64 = 4;

/// Panels that a single row is multiplied with at once.
const STREAMS: i64 = 4;

/// The grid of the product.
pub(super) fn lower(l: &mut Lowering<'_>, shape: &Shape<'_>, m: &Dim) -> Result<Dim, LowerError> {
    let (b, cx, sink) = l.parts();
    cx.narrow(&Dim::from(shape.n));
    let packing = Packing::Panels { k_axes: shape.p.k_axes.clone(), n_axis: shape.p.n_axis };
    let weight = cx.packed_param(b, shape.p.weight, packing)?;
    let size = shape.acc.size() as i64;
    let stride = shape.k + GAP;
    let fits = |rows: i64| rows * stride * size <= COPIED_BYTES;
    let block_rows = if fits(BLOCK_ROWS) { BLOCK_ROWS } else { ROWS };
    let span = Span::new(cx, b, shape, size * shape.k * PANEL, (m, block_rows))?;
    let copied = fits(block_rows).then(|| b.local("rows", shape.acc, (block_rows * stride) as u32));
    let product = Plain { shape, weight, span: &span, stride };
    let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
    match copied {
        Some(copied) => product.with_copies(cx, b, copied, put)?,
        None => product.in_place(cx, b, put)?,
    }
    Ok(span.grid.clone())
}

struct Plain<'p> {
    shape: &'p Shape<'p>,
    weight: ParamId,
    span: &'p Span,
    /// From one copied row to the next.
    stride: i64,
}

/// Where the rows of a register block are.
enum Source<'r> {
    /// Copies from this slot on.
    Copies(LocalId, Reg),
    /// Rows by their indices.
    Rows(&'r [Vec<Idx>]),
}

impl Plain<'_> {
    fn with_copies<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        copied: LocalId,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let (first, end) = self.span.rows;
        let n_rows = b.sub(end, first);
        let mut result = Ok(());
        b.for_("slot", 0, n_rows, 1, |b, slot| {
            let row = b.add(first, slot);
            let to = b.mul(slot, self.stride);
            result = cx.scope(|cx| self.shape.copy_row(cx, b, row, (copied, to, self.shape.acc)));
        });
        result?;
        let are_many = b.ge(n_rows, MANY);
        let mut result = Ok(());
        b.if_(are_many, |b| {
            result = cx.scope(|cx| {
                self.fill(cx, b, n_rows, copied);
                self.blocks(cx, b, n_rows, copied, put)
            });
        });
        result?;
        let mut result = Ok(());
        let are_few = b.not(are_many);
        b.if_(are_few, |b| {
            b.for_("slot", 0, n_rows, 1, |b, slot| {
                result = cx.scope(|cx| self.single(cx, b, slot, copied, put));
            });
        });
        result
    }

    /// Zeros for the rows that lack in the last register block.
    fn fill(&self, cx: &Cx<'_>, b: &mut KernelBuilder, n_rows: Reg, copied: LocalId) {
        let whole = b.add(n_rows, ROWS - 1);
        let whole = b.div(whole, ROWS);
        let whole = b.mul(whole, ROWS);
        let zero = b.zero(self.shape.acc.x(cx.lanes));
        let lanes = i64::from(cx.lanes);
        b.for_("slot", n_rows, whole, 1, |b, slot| {
            let base = b.mul(slot, self.stride);
            b.for_("k", 0, self.shape.k, lanes, |b, k| {
                let left = b.sub(self.shape.k, k);
                let to = b.add(base, k);
                match self.shape.k % lanes {
                    0 => b.store(copied, to, zero),
                    _ => {
                        let mask = b.lane_mask(left, cx.lanes);
                        b.store_masked(copied, to, zero, mask);
                    }
                }
            });
        });
    }

    /// All rows in register blocks, panel by panel.
    fn blocks<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        n_rows: Reg,
        copied: LocalId,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let rows_at_once = rows_at_once(cx);
        let mut result = Ok(());
        b.for_("panel", self.span.panels.0, self.span.panels.1, 1, |b, panel| {
            b.for_("slot", 0, n_rows, rows_at_once, |b, slot| {
                let row = b.add(self.span.rows.0, slot);
                let rows: Vec<Reg> = (0..rows_at_once).map(|i| b.add(row, i)).collect();
                result =
                    result.clone().and(cx.scope(|cx| {
                        self.multiply(cx, b, (&rows, Source::Copies(copied, slot)), &[panel], put)
                    }));
            });
        });
        result
    }

    /// One row times several panels at once.
    fn single<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        slot: Reg,
        copied: LocalId,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let row = b.add(self.span.rows.0, slot);
        let (first, end) = self.span.panels;
        let n = b.sub(end, first);
        let whole = b.div(n, STREAMS);
        let whole = b.mul(whole, STREAMS);
        let middle = b.add(first, whole);
        let mut result = Ok(());
        for (from, to, at_once) in [(first, middle, STREAMS), (middle, end, 1)] {
            b.for_("panel", from, to, at_once, |b, panel| {
                let panels: Vec<Reg> = (0..at_once).map(|i| b.add(panel, i)).collect();
                result =
                    result.clone().and(cx.scope(|cx| {
                        self.multiply(cx, b, (&[row], Source::Copies(copied, slot)), &panels, put)
                    }));
            });
        }
        result
    }

    /// Rows that are too long to be copied.
    fn in_place<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let rows_at_once = rows_at_once(cx) as usize;
        let mut result = Ok(());
        b.for_("panel", self.span.panels.0, self.span.panels.1, 1, |b, panel| {
            for_rows(cx, b, self.span.rows, &mut |cx, b, rows| {
                for rows in rows.chunks(rows_at_once) {
                    result = result.clone().and(cx.scope(|cx| {
                        let idx: Vec<Vec<Idx>> =
                            rows.iter().map(|row| self.shape.row_idx(cx, b, *row)).collect();
                        self.multiply(cx, b, (rows, Source::Rows(&idx)), &[panel], put)
                    }));
                }
            });
        });
        result
    }

    /// Some rows times some panels. Rows beyond those of the block are not stored.
    fn multiply<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (rows, source): (&[Reg], Source<'_>),
        panels: &[Reg],
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let shape = self.shape;
        let columns = shape.columns(cx.lanes);
        let k_extents = cx.extents(b, &shape.k_extents);
        let starts: Vec<Reg> = panels.iter().map(|panel| b.mul(*panel, shape.k * PANEL)).collect();
        for start in (0..PANEL.min(shape.n)).step_by((columns.vectors * columns.lanes) as usize) {
            let zero = b.zero(shape.acc.x(cx.lanes));
            let acc: Vec<Vec<Vec<Reg>>> =
                panels.iter().map(|_| sums(b, (rows.len(), columns.vectors), zero)).collect();
            let mut result = Ok(());
            b.for_("k", 0, shape.k, 1, |b, k| {
                result = cx.scope(|cx| {
                    let offset = b.mul(k, PANEL);
                    let load = |panel: &Reg| -> Vec<Reg> {
                        let at = b.add(*panel, offset);
                        let w = columns.load(b, (self.weight, at), start, 1);
                        w.into_iter().map(|w| b.cast(w, shape.acc)).collect()
                    };
                    let weights: Vec<Vec<Reg>> = starts.iter().map(load).collect();
                    let k_idx = match source {
                        Source::Copies(..) => Vec::new(),
                        Source::Rows(_) => cx.index(b).unravel(Idx::Uniform(k), &k_extents),
                    };
                    for i in 0..rows.len() {
                        let x = match source {
                            Source::Copies(copied, slot) => {
                                let at = b.mul(slot, self.stride);
                                let at = b.add(at, k);
                                let at = b.add(at, i as i64 * self.stride);
                                b.load(copied, at, 1)
                            }
                            Source::Rows(idx) => shape.x(cx, b, &idx[i], &k_idx)?,
                        };
                        for (w, acc) in weights.iter().zip(&acc) {
                            multiply_add(cx, b, x, w, &acc[i]);
                        }
                    }
                    Ok(())
                });
            });
            result?;
            for (panel, acc) in panels.iter().zip(&acc) {
                let column = b.mul(*panel, PANEL);
                let column = b.add(column, start);
                for (row, acc) in rows.iter().zip(acc) {
                    let exists = b.lt(*row, self.span.rows.1);
                    let mut result = Ok(());
                    b.if_(exists, |b| {
                        result = cx.scope(|cx| {
                            let row_idx = shape.row_idx(cx, b, *row);
                            shape.put(cx, b, &row_idx, (column, acc), put)
                        });
                    });
                    result?;
                }
            }
        }
        Ok(())
    }
}

/// Rows of a register block.
fn rows_at_once(cx: &Cx<'_>) -> i64 {
    if cx.lanes >= 16 { ROWS } else { ROWS / 2 }
}
