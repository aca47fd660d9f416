//! Weights in `bf16`: half the bytes to stream, and dot products where the level has them.
//!
//! On levels with matrix tiles or dot products of `bf16` rows are rounded to `bf16` first, each in the same way whatever
//! rows stand beside it. Elsewhere they are multiplied with the exact numbers of the weight, which are the upper halves
//! of `f32`.

use super::tiles::Tiles;
use super::{BLOCK_ROWS, PANEL, Put, ROWS, Shape, Span};
use crate::assemble::Packing;
use crate::kernel::{Elem, KernelBuilder, LocalId, ParamId, Reg};
use crate::lower::access::Cx;
use crate::lower::index::Idx;
use crate::lower::sums::{multiply_add, sums};
use crate::lower::{LowerError, Lowering};
use crate::target::CpuTarget;
use ssmc_ir::Dim;

/// Most inputs of a product whose rows are rounded beforehand: a tile of them has to stay in the cache.
const MOST_ROUNDED: i64 = 16 << 10;

/// The grid of the product.
pub(super) fn lower(
    l: &mut Lowering<'_>,
    shape: &Shape<'_>,
    target: &CpuTarget,
    m: &Dim,
) -> Result<Dim, LowerError> {
    let (b, cx, sink) = l.parts();
    cx.narrow(&Dim::from(shape.n));
    let packing = Packing::Pairs { k_axes: shape.p.k_axes.clone(), n_axis: shape.p.n_axis };
    let weight = cx.packed_param(b, shape.p.weight, packing)?;
    let span = Span::new(cx, b, shape, 2 * shape.k * PANEL, (m, BLOCK_ROWS))?;
    let has_dots = target.has_dot_bf16 && cx.lanes >= 4 && shape.k <= MOST_ROUNDED;
    let rows_at_once = if cx.lanes >= 16 { ROWS } else { ROWS / 2 } as usize;
    let product = Halves { shape, weight };
    let mut result = Ok(());
    if target.has_tiles && target.has_dot_bf16 && Tiles::fit(Elem::Bf16, shape.k) {
        let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
        product.tiles(cx, b, &span, put)?;
        return Ok(span.grid);
    }
    let n_rounded = if has_dots { ROWS * shape.k } else { 0 };
    let rounded = b.local("rounded", Elem::Bf16, n_rounded as u32);
    span.for_rows(cx, b, &mut |cx, b, rows| {
        let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
        result = result.clone().and(cx.scope(|cx| {
            if has_dots {
                for (slot, row) in rows.iter().enumerate() {
                    let to = b.const_i64(slot as i64 * shape.k);
                    product.shape.copy_row(cx, b, *row, (rounded, to, Elem::Bf16))?;
                }
                return product.dots(cx, b, (rows, rounded), span.panels, put);
            }
            let mut result = Ok(());
            b.for_("panel", span.panels.0, span.panels.1, 1, |b, panel| {
                for rows in rows.chunks(rows_at_once) {
                    result = result.clone().and(cx.scope(|cx| product.widened(cx, b, rows, panel, put)));
                }
            });
            result
        }));
    });
    result?;
    Ok(span.grid)
}

struct Halves<'p> {
    shape: &'p Shape<'p>,
    weight: ParamId,
}

impl Halves<'_> {
    /// Where the pair `pair` of a panel begins.
    fn place(&self, b: &mut KernelBuilder, panel: Reg, pair: Reg) -> Reg {
        let base = b.mul(panel, self.shape.k * PANEL);
        let offset = b.mul(pair, 2 * PANEL);
        b.add(base, offset)
    }

    /// Some rows times a panel in `f32`.
    fn widened<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        rows: &[Reg],
        panel: Reg,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let shape = self.shape;
        let columns = shape.columns(cx.lanes);
        let k_extents = cx.extents(b, &shape.k_extents);
        let row_idx: Vec<Vec<Idx>> = rows.iter().map(|row| shape.row_idx(cx, b, *row)).collect();
        for start in (0..PANEL.min(shape.n)).step_by((columns.vectors * columns.lanes) as usize) {
            let zero = b.zero(Elem::F32.x(cx.lanes));
            let acc = sums(b, (rows.len(), columns.vectors), zero);
            let mut result = Ok(());
            b.for_("pair", 0, shape.k / 2, 1, |b, pair| {
                result = cx.scope(|cx| {
                    let at = self.place(b, panel, pair);
                    let pairs = columns.load(b, (self.weight, at), start, 2);
                    let bits: Vec<Reg> = pairs.into_iter().map(|w| b.recast(w, Elem::U32)).collect();
                    let even = b.mul(pair, 2);
                    for (i, k) in [even, b.add(even, 1)].into_iter().enumerate() {
                        let w: Vec<Reg> = bits
                            .iter()
                            .map(|bits| {
                                let upper =
                                    if i == 0 { b.shl(*bits, 16) } else { b.and(*bits, 0xffff_0000u32) };
                                b.bitcast(upper, Elem::F32)
                            })
                            .collect();
                        let k_idx = cx.index(b).unravel(Idx::Uniform(k), &k_extents);
                        for (row, acc) in row_idx.iter().zip(&acc) {
                            let x = shape.x(cx, b, row, &k_idx)?;
                            multiply_add(cx, b, x, &w, acc);
                        }
                    }
                    Ok(())
                });
            });
            result?;
            let column = b.mul(panel, PANEL);
            let column = b.add(column, start);
            for (row, acc) in row_idx.iter().zip(&acc) {
                shape.put(cx, b, row, (column, acc), put)?;
            }
        }
        Ok(())
    }

    /// The block in matrix tiles.
    fn tiles<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        span: &Span,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let shape = self.shape;
        let tiles = Tiles::new(b, (Elem::Bf16, Elem::Bf16, Elem::F32), shape.k, span.rows);
        let mut result = Ok(());
        b.for_("slot", 0, tiles.n_rows, 1, |b, slot| {
            let row = b.add(span.rows.0, slot);
            let to = b.mul(slot, tiles.stride);
            result = cx.scope(|cx| shape.copy_row(cx, b, row, (tiles.rows, to, Elem::Bf16)));
        });
        result?;
        tiles.fill(b);
        let mut result = Ok(());
        b.for_("panel", span.panels.0, span.panels.1, 1, |b, panel| {
            let base = b.mul(panel, shape.k * PANEL);
            tiles.multiply(b, (self.weight, base), shape.k, None);
            b.for_("slot", 0, tiles.n_rows, 1, |b, slot| {
                let row = b.add(span.rows.0, slot);
                result = cx.scope(|cx| shape.put_row(cx, b, row, (panel, tiles.sums, slot), put));
            });
        });
        result
    }

    /// A rounded tile of rows times panels.
    fn dots<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (rows, rounded): (&[Reg], LocalId),
        (first, end): (Reg, Reg),
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let shape = self.shape;
        let columns = shape.columns(cx.lanes);
        let mut result = Ok(());
        b.for_("panel", first, end, 1, |b, panel| {
            for start in (0..PANEL.min(shape.n)).step_by((columns.vectors * columns.lanes) as usize) {
                let zero = b.zero(Elem::F32.x(cx.lanes));
                let acc = sums(b, (rows.len(), columns.vectors), zero);
                b.for_("pair", 0, shape.k / 2, 1, |b, pair| {
                    let at = self.place(b, panel, pair);
                    let w = columns.load(b, (self.weight, at), start, 2);
                    let even = b.mul(pair, 2);
                    for (slot, acc) in acc.iter().enumerate() {
                        let from = b.add(even, slot as i64 * shape.k);
                        let x = b.load(rounded, from, 2);
                        let x = b.recast(x, Elem::U32);
                        let x = b.splat(x, cx.lanes);
                        let x = b.recast(x, Elem::Bf16);
                        for (w, acc) in w.iter().zip(acc) {
                            let sum = b.dot(x, *w, *acc);
                            b.assign(*acc, sum);
                        }
                    }
                });
                let column = b.mul(panel, PANEL);
                let column = b.add(column, start);
                result = result.clone().and(cx.scope(|cx| {
                    for (row, acc) in rows.iter().zip(&acc) {
                        let row_idx = shape.row_idx(cx, b, *row);
                        shape.put(cx, b, &row_idx, (column, acc), put)?;
                    }
                    Ok(())
                }));
            }
        });
        result
    }
}
