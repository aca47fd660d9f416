//! Quantized weights: rows are rounded to 8 bits with a scale of their own, and bytes multiplied exactly.
//!
//! ```text
//! s = max |x[k]| / 127,  q[k] = round(x[k] / s)                 for each row
//! y[n] = s * sum over groups (scale[n, group] * sum q[k] * w[n, k])
//! ```
//!
//! Integer sums are exact, so that a row has the same bits on every level that computes in `f32`, alone or in a tile.
//! Weights are stored as unsigned bytes or half bytes with their zero in the middle; sums begin with what that adds too
//! much. A row with NaN or infinity gives NaN.

use super::{Columns, PANEL, Put, ROWS, Shape, Span, for_rows};
use crate::assemble::Packing;
use crate::kernel::{Elem, KernelBuilder, LocalId, ParamId, ReduceOp, Reg};
use crate::lower::access::Cx;
use crate::lower::sums::sums;
use crate::lower::{LowerError, Lowering};
use crate::target::CpuTarget;
use ssmc_ir::ops::Dequantize;
use ssmc_ir::{Dim, ValueId};

/// Most inputs of such a product: a tile of rounded rows has to stay in the cache, and a sum in 32 bits.
const MOST: i64 = 16 << 10;

/// Whether products over `k` elements with such a weight are computed here.
pub(super) fn fits(k: i64, op: &Dequantize) -> bool {
    let group = op.group as i64;
    k <= MOST && if op.bits == 4 { group % 32 == 0 } else { group == k }
}

/// The grid of the product.
pub(super) fn lower(
    l: &mut Lowering<'_>,
    shape: &Shape<'_>,
    (scale, op): (ValueId, &Dequantize),
    target: &CpuTarget,
    (panels, m): (&Dim, &Dim),
) -> Result<Dim, LowerError> {
    let (b, cx, sink) = l.parts();
    cx.narrow(&Dim::from(shape.n));
    let (k_axes, n_axis) = (shape.p.k_axes.clone(), shape.p.n_axis);
    let packing = Packing::Quads { k_axes: k_axes.clone(), n_axis, bits: op.bits as u32 };
    let weight = cx.packed_bytes(b, shape.p.weight, packing);
    let scale = cx.packed_param(b, scale, Packing::Panels { k_axes, n_axis })?;
    let span = Span::new(cx, b, shape.n, (panels, m))?;
    let (bits, per_group) = (op.bits as i64, op.group as i64);
    let n_groups = shape.k / per_group;
    let quads = (shape.k + 3) / 4;
    let product = Integers {
        shape,
        weight,
        scale,
        bits,
        per_group,
        n_groups,
        stride: 4 * quads,
        row: b.local("row", Elem::F32, shape.k as u32),
        q: b.local("q", Elem::I8, (ROWS * 4 * quads) as u32),
        row_scale: b.local("row_scale", Elem::F32, ROWS as u32),
        begin: b.local("begin", Elem::I32, (ROWS * n_groups) as u32),
    };
    // Accumulators, and for 4 bits as many sums of groups, fill the registers.
    let rows_at_once = match (cx.lanes >= 16, bits) {
        (true, 4) => 4,
        (true, _) => 12,
        (false, 4) => 2,
        (false, _) if target.has_dot_u8 => 6,
        (false, _) => 4,
    };
    let mut result = Ok(());
    for_rows(cx, b, (m, span.m_tile), &mut |cx, b, rows| {
        let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
        result = result.clone().and(cx.scope(|cx| {
            for (slot, row) in rows.iter().enumerate() {
                product.quantize(cx, b, *row, slot as i64)?;
            }
            let mut result = Ok(());
            b.for_("panel", span.panels.0, span.panels.1, 1, |b, panel| {
                for (i, rows) in rows.chunks(rows_at_once).enumerate() {
                    let first = (i * rows_at_once) as i64;
                    result = result.clone().and(cx.scope(|cx| product.run(cx, b, (rows, first), panel, put)));
                }
            });
            result
        }));
    });
    result?;
    Ok(span.grid)
}

struct Integers<'p> {
    shape: &'p Shape<'p>,
    weight: ParamId,
    scale: ParamId,
    bits: i64,
    /// Elements of a row that share a scale of the weight.
    per_group: i64,
    n_groups: i64,
    /// From one rounded row to the next.
    stride: i64,
    /// One row as it is.
    row: LocalId,
    /// Rounded rows.
    q: LocalId,
    /// The scale of each rounded row.
    row_scale: LocalId,
    /// What the sum over each group of each row begins with.
    begin: LocalId,
}

impl Integers<'_> {
    /// What is added to every stored weight.
    fn zero_point(&self) -> i64 {
        1 << (self.bits - 1)
    }

    /// Rounds a row to its slot of the tile.
    fn quantize(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        row: Reg,
        slot: i64,
    ) -> Result<(), LowerError> {
        let (shape, lanes) = (self.shape, cx.lanes);
        let k_extents = cx.extents(b, &shape.k_extents);
        let row_idx = shape.row_idx(cx, b, row);
        // As integers, magnitudes are ordered with NaN above all.
        let zero = b.zero(Elem::I32.x(lanes));
        let peak = b.var_init(zero);
        let mut result = Ok(());
        b.for_("k", 0, shape.k, i64::from(lanes), |b, k| {
            let mask = self.mask(b, (shape.k, k), lanes);
            result = cx.masked(mask, |cx| {
                let at = cx.lanes_from(k);
                let k_idx = cx.index(b).unravel(at, &k_extents);
                let x = shape.x(cx, b, &row_idx, &k_idx)?;
                let x = b.cast(x, Elem::F32);
                let x = cx.widen(b, x);
                store(b, (self.row, k), x, mask);
                let bits = b.bitcast(x, Elem::I32);
                let magnitude = b.and(bits, 0x7fff_ffff);
                // Lanes beyond the row may hold anything if they were not loaded.
                let magnitude = match mask {
                    Some(mask) => b.select(mask, magnitude, zero),
                    None => magnitude,
                };
                let larger = b.max(magnitude, peak);
                b.assign(peak, larger);
                Ok(())
            });
        });
        result?;
        let peak = b.reduce(ReduceOp::Max, peak);
        let peak = b.bitcast(peak, Elem::F32);
        let scale = b.div(peak, 127.0);
        let is_some = b.gt(peak, 0.0);
        let inverse = b.div(127.0, peak);
        let inverse = b.select(is_some, inverse, 0.0);
        b.store(self.row_scale, slot, scale);
        let inverse = b.splat(inverse, lanes);
        b.for_("group", 0, self.n_groups, 1, |b, group| {
            let first = b.mul(group, self.per_group);
            let sum = b.var_init(zero);
            b.for_("k", 0, self.per_group, i64::from(lanes), |b, k| {
                let mask = self.mask(b, (self.per_group, k), lanes);
                let at = b.add(first, k);
                let x = match mask {
                    Some(mask) => b.load_masked(self.row, at, lanes, mask),
                    None => b.load(self.row, at, lanes),
                };
                let scaled = b.mul(x, inverse);
                let rounded = b.round(scaled);
                let q = b.cast(rounded, Elem::I8);
                let to = b.add(at, slot * self.stride);
                store(b, (self.q, to), q, mask);
                let q = b.cast(q, Elem::I32);
                let next = b.add(sum, q);
                b.assign(sum, next);
            });
            let sum = b.reduce(ReduceOp::Add, sum);
            let begin = b.mul(sum, -self.zero_point());
            let to = b.add(group, slot * self.n_groups);
            b.store(self.begin, to, begin);
        });
        for k in shape.k..self.stride {
            let zero = b.zero(Elem::I8.x(1));
            b.store(self.q, slot * self.stride + k, zero);
        }
        Ok(())
    }

    fn mask(&self, b: &mut KernelBuilder, (n, k): (i64, Reg), lanes: u16) -> Option<Reg> {
        (n % i64::from(lanes) != 0).then(|| {
            let left = b.sub(n, k);
            b.lane_mask(left, lanes)
        })
    }

    /// Some rounded rows, the first of them in slot `slot`, times a panel.
    fn run<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        (rows, slot): (&[Reg], i64),
        panel: Reg,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let shape = self.shape;
        let columns = shape.columns(cx.lanes);
        for start in (0..PANEL.min(shape.n)).step_by((columns.vectors * columns.lanes) as usize) {
            let sums = if self.bits == 4 {
                self.groups(cx, b, (rows.len(), slot), panel, (start, &columns))
            } else {
                self.whole(cx, b, (rows.len(), slot), panel, (start, &columns))
            };
            let column = b.mul(panel, PANEL);
            let column = b.add(column, start);
            for (i, (row, sums)) in rows.iter().zip(sums).enumerate() {
                let row_idx = shape.row_idx(cx, b, *row);
                let scale = b.load(self.row_scale, slot + i as i64, 1);
                let scale = b.splat(scale, cx.lanes);
                let sums: Vec<Reg> = sums.into_iter().map(|sum| b.mul(sum, scale)).collect();
                shape.put(cx, b, &row_idx, (column, &sums), put)?;
            }
        }
        Ok(())
    }

    /// Sums over whole rows with 8 bits, times the scales of the weight.
    fn whole(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (n_rows, slot): (usize, i64),
        panel: Reg,
        (start, columns): (i64, &Columns),
    ) -> Vec<Vec<Reg>> {
        let acc = self.begin(cx, b, (n_rows, slot), None, columns);
        let base = b.mul(panel, self.stride * PANEL);
        b.for_("quad", 0, self.stride / 4, 1, |b, quad| {
            let offset = b.mul(quad, 4 * PANEL);
            let at = b.add(base, offset);
            let w = columns.load(b, (self.weight, at), start, 4);
            let k = b.mul(quad, 4);
            self.multiply(cx, b, (slot, k), &w, &acc);
        });
        let scales = self.scales(b, panel, None, (start, columns));
        let scaled = |b: &mut KernelBuilder, acc: &[Reg]| -> Vec<Reg> {
            let pairs = acc.iter().zip(&scales);
            pairs
                .map(|(sum, scale)| {
                    let sum = b.cast(*sum, Elem::F32);
                    b.mul(sum, *scale)
                })
                .collect()
        };
        acc.iter().map(|acc| scaled(b, acc)).collect()
    }

    /// Sums over whole rows with 4 bits: each group's exact sum times its scale.
    fn groups(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (n_rows, slot): (usize, i64),
        panel: Reg,
        (start, columns): (i64, &Columns),
    ) -> Vec<Vec<Reg>> {
        let zero = b.zero(Elem::F32.x(cx.lanes));
        let total = sums(b, (n_rows, columns.vectors), zero);
        let base = b.mul(panel, self.shape.k / 2 * PANEL);
        b.for_("group", 0, self.n_groups, 1, |b, group| {
            let acc = self.begin(cx, b, (n_rows, slot), Some(group), columns);
            let first = b.mul(group, self.per_group);
            for octet in 0..self.per_group / 8 {
                let k = b.add(first, 8 * octet);
                // Eight inputs of a column take four bytes.
                let offset = b.mul(k, PANEL / 2);
                let at = b.add(base, offset);
                let both = columns.load(b, (self.weight, at), start, 4);
                let low: Vec<Reg> = both.iter().map(|w| b.and(*w, 0xf)).collect();
                self.multiply(cx, b, (slot, k), &low, &acc);
                let high: Vec<Reg> = both.iter().map(|w| b.shr(*w, 4)).collect();
                let k = b.add(k, 4);
                self.multiply(cx, b, (slot, k), &high, &acc);
            }
            let scales = self.scales(b, panel, Some(group), (start, columns));
            for (total, acc) in total.iter().zip(&acc) {
                for ((total, sum), scale) in total.iter().zip(acc).zip(&scales) {
                    let sum = b.cast(*sum, Elem::F32);
                    let next = b.fma(sum, *scale, *total);
                    b.assign(*total, next);
                }
            }
        });
        total
    }

    /// Sums of rows by vectors of columns, as they begin.
    fn begin(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (n_rows, slot): (usize, i64),
        group: Option<Reg>,
        columns: &Columns,
    ) -> Vec<Vec<Reg>> {
        let mut all = Vec::new();
        for i in 0..n_rows as i64 {
            let at = (slot + i) * self.n_groups;
            let at = match group {
                Some(group) => b.add(group, at),
                None => b.const_i64(at),
            };
            let begin = b.load(self.begin, at, 1);
            let begin = b.splat(begin, cx.lanes);
            all.push((0..columns.vectors).map(|_| b.var_init(begin)).collect());
        }
        all
    }

    /// Adds the products of four elements of each row, from `k` on, with vectors of weights.
    fn multiply(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (slot, k): (i64, Reg),
        w: &[Reg],
        acc: &[Vec<Reg>],
    ) {
        for (i, acc) in acc.iter().enumerate() {
            let from = b.add(k, (slot + i as i64) * self.stride);
            let q = b.load(self.q, from, 4);
            let q = b.recast(q, Elem::I32);
            let q = b.splat(q, cx.lanes);
            let q = b.recast(q, Elem::I8);
            for (w, acc) in w.iter().zip(acc) {
                let sum = b.dot(*w, q, *acc);
                b.assign(*acc, sum);
            }
        }
    }

    /// Vectors of the weight's scales.
    fn scales(
        &self,
        b: &mut KernelBuilder,
        panel: Reg,
        group: Option<Reg>,
        (start, columns): (i64, &Columns),
    ) -> Vec<Reg> {
        let base = b.mul(panel, self.n_groups * PANEL);
        let base = match group {
            Some(group) => {
                let offset = b.mul(group, PANEL);
                b.add(base, offset)
            }
            None => base,
        };
        let scales = columns.load(b, (self.scale, base), start, 1);
        scales.into_iter().map(|scale| b.cast(scale, Elem::F32)).collect()
    }
}

/// Stores the lanes that exist.
fn store(b: &mut KernelBuilder, (array, at): (LocalId, Reg), x: Reg, mask: Option<Reg>) {
    match mask {
        Some(mask) => b.store_masked(array, at, x, mask),
        None => b.store(array, at, x),
    }
}
