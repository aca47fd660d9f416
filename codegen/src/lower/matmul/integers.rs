//! Quantized weights: rows are rounded to 8 bits with scales of their own, and bytes multiplied exactly.
//!
//! ```text
//! s = max |x[k]| / 127,  q[k] = round(x[k] / s)
//! 8 bits, s for every 64 elements of a row:  y[n] = scale[n] * sum over s (s * sum q[k] * w[n, k])
//! 4 bits, s for every row:                   y[n] = s * sum over groups (scale[n, group] * sum q[k] * w[n, k])
//! ```
//!
//! With one scale for a whole row, the rounding of rows is most of the error of 8 bits: gated rows have few large
//! elements. With 4 bits the rounding of the weight is most of it.
//!
//! Integer sums are exact, so that a row has the same bits on every level that computes in `f32`, alone or in a tile.
//! Weights are stored as unsigned bytes or half bytes with their zero in the middle; sums begin with what that adds too
//! much. A row with NaN or infinity gives NaN.

use super::tiles::Tiles;
use super::{BLOCK_ROWS, Columns, PANEL, Put, ROWS, Shape, Span};
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

/// Elements of a row that share a scale, with weights of 8 bits.
const SCALED: i64 = 64;

/// 1.5 * 2^23: adding it to a small number rounds that to an integer, which then stands in the low bits. A conversion of
/// floats to bytes would have to be made number by number.
const MAGIC: f64 = 12_582_912.0;
const MAGIC_BITS: i64 = 0x4b40_0000;

/// Elements that are all smaller count as zeros: the inverse of their scale could be infinite.
const LEAST: f64 = 1e-36;

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
    m: &Dim,
) -> Result<Dim, LowerError> {
    let (b, cx, sink) = l.parts();
    cx.narrow(&Dim::from(shape.n));
    let (k_axes, n_axis) = (shape.p.k_axes.clone(), shape.p.n_axis);
    let packing = Packing::Quads { k_axes: k_axes.clone(), n_axis, bits: op.bits as u32 };
    let weight = cx.packed_bytes(b, shape.p.weight, packing);
    let scale = cx.packed_param(b, scale, Packing::Panels { k_axes, n_axis })?;
    let (bits, per_group) = (op.bits as i64, op.group as i64);
    let span = Span::new(cx, b, shape, shape.k * PANEL * bits / 8, (m, BLOCK_ROWS))?;
    let n_groups = shape.k / per_group;
    let quads = (shape.k + 3) / 4;
    let (n_scales, n_sums) = match bits {
        4 => (1, n_groups),
        _ => ((shape.k + SCALED - 1) / SCALED, (shape.k + SCALED - 1) / SCALED),
    };
    let in_tiles = target.has_tiles && bits == 8 && Tiles::fit(Elem::I8, shape.k);
    let tiles = in_tiles.then(|| Tiles::new(b, (Elem::I8, Elem::U8, Elem::I32), shape.k, span.rows));
    let n_rows = if in_tiles { BLOCK_ROWS } else { ROWS };
    let (q, q_stride) = match &tiles {
        Some(tiles) => (tiles.rows, tiles.stride),
        None => (b.local("q", Elem::I8, (ROWS * 4 * quads) as u32), 4 * quads),
    };
    let product = Integers {
        is_signed: target.has_dot_i8 && !target.has_dot_u8,
        shape,
        weight,
        scale,
        bits,
        per_group,
        n_groups,
        n_scales,
        n_sums,
        stride: 4 * quads,
        row: b.local("row", Elem::F32, shape.k as u32),
        q,
        q_stride,
        row_scale: b.local("row_scale", Elem::F32, (n_rows * n_scales) as u32),
        begin: b.local("begin", Elem::I32, (n_rows * n_sums) as u32),
    };
    if let Some(tiles) = &tiles {
        let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
        product.tiles(cx, b, tiles, &span, put)?;
        return Ok(span.grid);
    }
    // Sums of groups, and as many of rows, fill the registers.
    let rows_at_once = match (cx.lanes >= 16, bits) {
        (true, 4) => 4,
        (true, _) => 6,
        (false, 4) => 2,
        (false, _) if target.has_dot_u8 || target.has_dot_i8 => 3,
        (false, _) => 2,
    };
    let mut result = Ok(());
    span.for_rows(cx, b, &mut |cx, b, rows| {
        let put: &mut Put<'_, '_> = &mut |cx, b, idx, x| sink.put(cx, b, idx, x);
        result = result.clone().and(cx.scope(|cx| {
            for (slot, row) in rows.iter().enumerate() {
                let slot = b.const_i64(slot as i64);
                product.quantize(cx, b, *row, slot)?;
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
    /// Whether weights are multiplied as signed bytes, with their zero at 0 if they have 8 bits.
    is_signed: bool,
    shape: &'p Shape<'p>,
    weight: ParamId,
    scale: ParamId,
    bits: i64,
    /// Elements of a row that share a scale of the weight.
    per_group: i64,
    n_groups: i64,
    /// Scales of a row.
    n_scales: i64,
    /// Integer sums that a row times a column takes.
    n_sums: i64,
    /// Elements of a row that are multiplied: whole quads.
    stride: i64,
    /// One row as it is.
    row: LocalId,
    /// Rounded rows, and from one to the next.
    q: LocalId,
    q_stride: i64,
    /// The scales of each rounded row.
    row_scale: LocalId,
    /// What each integer sum of each row begins with.
    begin: LocalId,
}

impl Integers<'_> {
    /// What is added to every weight as it is multiplied.
    fn zero_point(&self) -> i64 {
        if self.is_signed && self.bits == 8 { 0 } else { 1 << (self.bits - 1) }
    }

    /// Stored weights as the bytes that are multiplied.
    fn bytes(&self, b: &mut KernelBuilder, w: Reg) -> Reg {
        match (self.is_signed, self.bits) {
            (false, _) => w,
            (true, 8) => {
                let moved = b.xor(w, 0x80);
                b.recast(moved, Elem::I8)
            }
            (true, _) => b.recast(w, Elem::I8),
        }
    }

    /// The block in matrix tiles, with weights of 8 bits.
    fn tiles<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        tiles: &Tiles,
        span: &Span,
        put: &mut Put<'_, 'a>,
    ) -> Result<(), LowerError> {
        let (shape, lanes) = (self.shape, cx.lanes);
        let (vectors, step) = (PANEL / i64::from(lanes), i64::from(lanes));
        let total = b.local("total", Elem::F32, (BLOCK_ROWS * PANEL) as u32);
        let mut result = Ok(());
        b.for_("slot", 0, tiles.n_rows, 1, |b, slot| {
            let row = b.add(span.rows.0, slot);
            result = cx.scope(|cx| self.quantize(cx, b, row, slot));
        });
        result?;
        tiles.fill(b);
        let mut result = Ok(());
        b.for_("panel", span.panels.0, span.panels.1, 1, |b, panel| {
            let zero = b.zero(Elem::F32.x(lanes));
            let n_total = b.mul(tiles.n_rows, PANEL);
            b.for_("at", 0, n_total, step, |b, at| b.store(total, at, zero));
            let base = b.mul(panel, self.stride * PANEL);
            b.for_("group", 0, self.n_sums, 1, |b, group| {
                let first = b.mul(group, SCALED);
                let offset = b.mul(first, PANEL);
                let at = b.add(base, offset);
                tiles.multiply(b, (self.weight, at), SCALED, Some(first));
                b.for_("slot", 0, tiles.n_rows, 1, |b, slot| {
                    let at = b.mul(slot, self.n_sums);
                    let at = b.add(at, group);
                    let (begin, scale) = (b.load(self.begin, at, 1), b.load(self.row_scale, at, 1));
                    let (begin, scale) = (b.splat(begin, lanes), b.splat(scale, lanes));
                    let first = b.mul(slot, PANEL);
                    for v in 0..vectors {
                        let at = b.add(first, v * step);
                        let sum = b.load(tiles.sums, at, lanes);
                        let sum = b.add(sum, begin);
                        let sum = b.cast(sum, Elem::F32);
                        let before = b.load(total, at, lanes);
                        let next = b.fma(sum, scale, before);
                        b.store(total, at, next);
                    }
                });
            });
            let at = b.mul(panel, PANEL);
            let scales: Vec<Reg> = (0..vectors)
                .map(|v| {
                    let at = b.add(at, v * step);
                    let scale = b.load(self.scale, at, lanes);
                    b.cast(scale, Elem::F32)
                })
                .collect();
            b.for_("slot", 0, tiles.n_rows, 1, |b, slot| {
                let first = b.mul(slot, PANEL);
                for (v, scale) in (0..).zip(&scales) {
                    let at = b.add(first, v * step);
                    let sum = b.load(total, at, lanes);
                    let scaled = b.mul(sum, *scale);
                    b.store(total, at, scaled);
                }
                let row = b.add(span.rows.0, slot);
                result = cx.scope(|cx| shape.put_row(cx, b, row, (panel, total, slot), put));
            });
        });
        result
    }

    /// Rounds a row to its slot of the tile.
    fn quantize(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        row: Reg,
        slot: Reg,
    ) -> Result<(), LowerError> {
        let (shape, lanes) = (self.shape, cx.lanes);
        let k_extents = cx.extents(b, &shape.k_extents);
        let row_idx = shape.row_idx(cx, b, row);
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
                Ok(())
            });
        });
        result?;
        if self.bits == 4 {
            let zero = b.const_i64(0);
            let inverse = self.scale(b, (zero, shape.k), slot, lanes);
            b.for_("group", 0, self.n_sums, 1, |b, group| {
                let first = b.mul(group, self.per_group);
                self.round(b, (first, self.per_group), (group, slot), inverse, lanes);
            });
        } else {
            self.for_scaled(b, |b, group, n| {
                let first = b.mul(group, SCALED);
                let base = b.mul(slot, self.n_scales);
                let to = b.add(group, base);
                let inverse = self.scale(b, (first, n), to, lanes);
                self.round(b, (first, n), (group, slot), inverse, lanes);
            });
        }
        for k in shape.k..self.stride {
            let zero = b.zero(Elem::I8.x(1));
            let base = b.mul(slot, self.q_stride);
            let at = b.add(base, k);
            b.store(self.q, at, zero);
        }
        Ok(())
    }

    /// Runs `body` for each group of a row that shares a scale; the last may have fewer elements.
    fn for_scaled(&self, b: &mut KernelBuilder, mut body: impl FnMut(&mut KernelBuilder, Reg, i64)) {
        let (whole, rest) = (self.shape.k / SCALED, self.shape.k % SCALED);
        if whole > 0 {
            b.for_("group", 0, whole, 1, |b, group| body(b, group, SCALED));
        }
        if rest > 0 {
            let last = b.const_i64(whole);
            body(b, last, rest);
        }
    }

    /// Stores the scale of `n` elements of the row at `to`. Returns its inverse.
    fn scale(&self, b: &mut KernelBuilder, (first, n): (Reg, i64), to: Reg, lanes: u16) -> Reg {
        let zero = b.zero(Elem::I32.x(lanes));
        let peak = b.var_init(zero);
        b.for_("k", 0, n, i64::from(lanes), |b, k| {
            let at = b.add(first, k);
            let mask = self.mask(b, (n, k), lanes);
            let x = self.load(b, at, mask, lanes);
            // As integers, magnitudes are ordered with NaN above all.
            let bits = b.bitcast(x, Elem::I32);
            let magnitude = b.and(bits, 0x7fff_ffff);
            let larger = b.max(magnitude, peak);
            b.assign(peak, larger);
        });
        let peak = b.reduce(ReduceOp::Max, peak);
        let peak = b.bitcast(peak, Elem::F32);
        let scale = b.div(peak, 127.0);
        let is_finite = b.lt(peak, f64::INFINITY);
        let scale = b.select(is_finite, scale, f64::NAN);
        b.store(self.row_scale, to, scale);
        let is_some = b.gt(peak, LEAST);
        let inverse = b.div(127.0, peak);
        let inverse = b.select(is_some, inverse, 0.0);
        b.splat(inverse, lanes)
    }

    /// Rounds `n` elements of the row, and stores what their integer sum begins with.
    fn round(
        &self,
        b: &mut KernelBuilder,
        (first, n): (Reg, i64),
        (group, slot): (Reg, Reg),
        inverse: Reg,
        lanes: u16,
    ) {
        let zero = b.zero(Elem::I32.x(lanes));
        let sum = b.var_init(zero);
        b.for_("k", 0, n, i64::from(lanes), |b, k| {
            let at = b.add(first, k);
            let mask = self.mask(b, (n, k), lanes);
            let x = self.load(b, at, mask, lanes);
            let shifted = b.fma(x, inverse, MAGIC);
            let bits = b.bitcast(shifted, Elem::I32);
            let q = b.cast(bits, Elem::I8);
            let base = b.mul(slot, self.q_stride);
            let to = b.add(at, base);
            store(b, (self.q, to), q, mask);
            let next = b.add(sum, bits);
            b.assign(sum, next);
        });
        let sum = b.reduce(ReduceOp::Add, sum);
        // Lanes that are masked off are zeros, shifted like the others.
        let shifted = (n + i64::from(lanes) - 1) / i64::from(lanes) * i64::from(lanes) * MAGIC_BITS;
        let sum = b.sub(sum, i64::from(shifted as i32));
        let begin = b.mul(sum, -self.zero_point());
        let base = b.mul(slot, self.n_sums);
        let to = b.add(group, base);
        b.store(self.begin, to, begin);
    }

    /// Elements of the row; those that are masked off are 0.
    fn load(&self, b: &mut KernelBuilder, at: Reg, mask: Option<Reg>, lanes: u16) -> Reg {
        match mask {
            Some(mask) => b.load_masked(self.row, at, lanes, mask),
            None => b.load(self.row, at, lanes),
        }
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
            for (row, sums) in rows.iter().zip(sums) {
                let row_idx = shape.row_idx(cx, b, *row);
                shape.put(cx, b, &row_idx, (column, &sums), put)?;
            }
        }
        Ok(())
    }

    /// Sums over whole rows with 8 bits: each group's exact sum times its scale, times the scale of the weight.
    fn whole(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (n_rows, slot): (usize, i64),
        panel: Reg,
        (start, columns): (i64, &Columns),
    ) -> Vec<Vec<Reg>> {
        let zero = b.zero(Elem::F32.x(cx.lanes));
        let total = sums(b, (n_rows, columns.vectors), zero);
        let base = b.mul(panel, self.stride * PANEL);
        self.for_scaled(b, |b, group, n| {
            let acc = self.begin(cx, b, (n_rows, slot), group, columns);
            let first = b.mul(group, SCALED);
            let quads = (n + 3) / 4;
            let unrolled = if quads % 4 == 0 { 4 } else { 1 };
            b.for_("quad", 0, quads, unrolled, |b, quad| {
                for i in 0..unrolled {
                    let k = b.mul(quad, 4);
                    let k = b.add(k, 4 * i);
                    let k = b.add(first, k);
                    let offset = b.mul(k, PANEL);
                    let at = b.add(base, offset);
                    let w = columns.load(b, (self.weight, at), start, 4);
                    self.multiply(cx, b, (slot, k), &w, &acc);
                }
            });
            for (i, (total, acc)) in total.iter().zip(&acc).enumerate() {
                let at = b.add(group, (slot + i as i64) * self.n_scales);
                let scale = b.load(self.row_scale, at, 1);
                let scale = b.splat(scale, cx.lanes);
                for (total, sum) in total.iter().zip(acc) {
                    let sum = b.cast(*sum, Elem::F32);
                    let next = b.fma(sum, scale, *total);
                    b.assign(*total, next);
                }
            }
        });
        let scales = self.scales(b, panel, None, (start, columns));
        let scaled = |b: &mut KernelBuilder, total: &[Reg]| -> Vec<Reg> {
            total.iter().zip(&scales).map(|(sum, scale)| b.mul(*sum, *scale)).collect()
        };
        total.iter().map(|total| scaled(b, total)).collect()
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
            let acc = self.begin(cx, b, (n_rows, slot), group, columns);
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
        let scaled = |(i, total): (usize, Vec<Reg>)| -> Vec<Reg> {
            let scale = b.load(self.row_scale, slot + i as i64, 1);
            let scale = b.splat(scale, cx.lanes);
            total.into_iter().map(|sum| b.mul(sum, scale)).collect()
        };
        total.into_iter().enumerate().map(scaled).collect()
    }

    /// Sums of rows by vectors of columns, as they begin.
    fn begin(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (n_rows, slot): (usize, i64),
        group: Reg,
        columns: &Columns,
    ) -> Vec<Vec<Reg>> {
        let mut all = Vec::new();
        for i in 0..n_rows as i64 {
            let at = b.add(group, (slot + i) * self.n_sums);
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
        let w: Vec<Reg> = w.iter().map(|w| self.bytes(b, *w)).collect();
        for (i, acc) in acc.iter().enumerate() {
            let from = b.add(k, (slot + i as i64) * self.q_stride);
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
