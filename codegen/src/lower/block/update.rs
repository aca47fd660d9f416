//! One step of a scan whose states lie in memory: read, advanced, read out and written once, at the speed of memory.
//!
//! ```text
//! h[n] = decay * h[n] + factor * x * b[n]        y = sum over n of c[n] * h[n], skip, gate
//!
//! group of lanes = a row of states (a channel, or a row of a head); a lane has 16 bytes of it
//! ```
//!
//! Groups of a block have neighboring rows. A group has all states of its rows under way before it uses the first. Step
//! sizes that a product makes can be computed here, by the group of the channel.

use super::matmul::group_sum;
use super::scalar;
use crate::kernel::{Axis, Elem, KernelBuilder, ReduceOp, Reg, WARP_SIZE};
use crate::lower::access::Cx;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::scan::discretize;
use crate::lower::selective_scan::step_size;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{Discretization, F64, Op, ReadOut};
use ssmc_ir::{Dim, Graph, Node, ValueId};

pub(super) const THREADS: u32 = 128;

/// Rows of a group where a head has many of them.
const ROWS: i64 = 4;

/// Bytes of states that a lane has of a row.
const BYTES: i64 = 16;

/// A step that has this schedule.
pub(super) struct Update {
    x: ValueId,
    dt: ValueId,
    a: ValueId,
    b: ValueId,
    c: ValueId,
    d: Option<ValueId>,
    z: Option<ValueId>,
    dt_bias: Option<ValueId>,
    h0: ValueId,
    h_last: ValueId,
    /// Whether a head of rows shares step size and decay, rather than each row having its own.
    has_heads: bool,
    softplus: bool,
    limits: (F64, F64),
    rule: Discretization,
    read_out: ReadOut,
    states: i64,
    /// States of a lane, and lanes of a row.
    lanes: i64,
    group: i64,
    elem: Elem,
    state_elem: Elem,
}

/// A product of one row that makes the step sizes of channels: `dt[n] = sum over k of x[k] * w[n, k]`.
pub(super) struct StepSizes {
    pub(super) x: ValueId,
    /// Axes of x; k is the last one, the others have one element.
    pub(super) rank: usize,
    pub(super) w: ValueId,
    pub(super) w_elem: Elem,
    pub(super) depth: i64,
}

/// Most loads of a step size that a lane has under way.
const LOADS: i64 = 8;

impl StepSizes {
    /// Elements of a load, and loads of a group of lanes until all of a row are under way.
    fn loads(&self, group: i64) -> (i64, i64) {
        let lanes = BYTES / self.w_elem.size() as i64;
        (lanes, (self.depth / lanes + group - 1) / group)
    }

    /// Asks for the weights of a channel. With each load: where it is along k, what came, and whether it counts.
    fn fetch(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (channel, lane, group): (Reg, Reg, i64),
    ) -> Result<Vec<(Reg, Reg, Option<Reg>)>, LowerError> {
        let (lanes, loads) = self.loads(group);
        let vectors = self.depth / lanes;
        let outer = std::mem::replace(&mut cx.lanes, lanes as u16);
        let mut all = Vec::new();
        for i in 0..loads {
            let vector = b.add(lane, i * group);
            let counts = ((i + 1) * group > vectors).then(|| b.lt(vector, vectors));
            let vector = if counts.is_some() { b.min(vector, vectors - 1) } else { vector };
            let at = b.mul(vector, lanes);
            let k = cx.lanes_from(at);
            let w = cx.get_wide(b, self.w, &[Idx::Uniform(channel), k])?;
            all.push((at, w, counts));
        }
        cx.lanes = outer;
        Ok(all)
    }

    /// The step size of a channel, in every lane of its group.
    fn sum(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        fetched: Vec<(Reg, Reg, Option<Reg>)>,
        group: i64,
    ) -> Result<Reg, LowerError> {
        let (lanes, _) = self.loads(group);
        let outer = std::mem::replace(&mut cx.lanes, lanes as u16);
        let zero = Idx::Uniform(b.const_i64(0));
        let mut xs = Vec::new();
        for (at, ..) in &fetched {
            let k = cx.lanes_from(*at);
            let at = [&vec![zero; self.rank - 1][..], &[k]].concat();
            xs.push(cx.get_wide_as(b, (self.x, Elem::F32), &at)?);
        }
        cx.lanes = outer;
        let nothing = b.const_f32(0.0);
        let mut total: Option<Reg> = None;
        for ((_, w, counts), x) in fetched.into_iter().zip(xs) {
            let w = b.cast(w, Elem::F32);
            let products = b.mul(x, w);
            let sum = b.reduce(ReduceOp::Add, products);
            let sum = counts.map_or(sum, |counts| b.select(counts, sum, nothing));
            total = Some(total.map_or(sum, |total| b.add(total, sum)));
        }
        Ok(group_sum(b, total.unwrap_or(nothing), group))
    }
}

/// The element type of states as they lie in memory.
fn loaded_elem(graph: &Graph, states: ValueId) -> Option<Elem> {
    let widened = graph.def_node(states).and_then(|node| graph.widened(node));
    elem_of(graph.ty(widened.unwrap_or(states)).dtype).ok()
}

/// Where a group works.
struct Place {
    batch: Idx,
    /// Group, and head if there are heads.
    outer: Vec<Idx>,
    lane: Reg,
    /// Number of the group in its block.
    own: Reg,
    /// First row of the block, and how many there are.
    first: Reg,
    rows: Reg,
}

impl Update {
    /// The step of a node that is one and whose states can be shared among lanes.
    pub(super) fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let (has_heads, softplus, limits, rule, read_out) = match &node.op {
            Op::SelectiveScan(op) => {
                (false, op.dt_softplus, (op.dt_min, op.dt_max), op.discretization, op.read_out)
            }
            Op::Ssd(op) => (true, op.dt_softplus, (op.dt_min, op.dt_max), op.discretization, op.read_out),
            _ => return None,
        };
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let (x, h0, h_last) = (operand(0)?, operand(8)?, *node.results.get(1)?);
        let is_step = graph.ty(x).shape.get(1)?.is(1) && operand(9).is_none() && operand(10).is_none();
        let elem = elem_of(graph.ty(x).dtype).ok()?;
        let state_elem = elem_of(graph.ty(h_last).dtype).ok()?;
        let is_float = |elem: Elem| elem == Elem::F32 || elem.is_half();
        let states = graph.ty(h0).shape.last()?.as_const()?;
        // Rows of heads are long, so that a lane has as much of them as it can load; those of channels may be short, and
        // lanes share the product of their step size.
        let loaded = if has_heads { loaded_elem(graph, h0)? } else { state_elem };
        let lanes = BYTES / loaded.size() as i64;
        let group = states / lanes;
        let is_shared = states > 0
            && states % lanes == 0
            && (group as u64).is_power_of_two()
            && group <= i64::from(WARP_SIZE);
        if !is_step || !is_float(elem) || !is_float(state_elem) || !is_shared {
            return None;
        }
        Some(Self {
            x,
            dt: operand(1)?,
            a: operand(2)?,
            b: operand(3)?,
            c: operand(4)?,
            d: operand(5),
            z: operand(6),
            dt_bias: operand(7),
            h0,
            h_last,
            has_heads,
            softplus,
            limits,
            rule,
            read_out,
            states,
            lanes,
            group,
            elem,
            state_elem,
        })
    }

    /// The step sizes before bias, softplus and limits.
    pub(super) fn dt(&self) -> ValueId {
        self.dt
    }

    /// Whether step sizes can be computed by the groups of channels.
    pub(super) fn takes(&self, sizes: &StepSizes) -> bool {
        let (lanes, loads) = sizes.loads(self.group);
        !self.has_heads && lanes > 1 && sizes.depth > 0 && sizes.depth % lanes == 0 && loads <= LOADS
    }

    /// Rows that a group has under way.
    fn together(&self) -> i64 {
        if self.has_heads { ROWS.min(self.group) } else { 1 }
    }

    /// The kernel; with `sizes` the product that makes the step sizes of one row is part of it.
    pub(super) fn lower(
        &self,
        l: &mut Lowering<'_>,
        sizes: Option<&StepSizes>,
    ) -> Result<Launch, LowerError> {
        let shape = l.shape(self.x);
        let (outer, extent) = (&shape[2..shape.len() - 1], &shape[shape.len() - 1]);
        let groups = i64::from(THREADS) / self.group;
        let per_block = groups * self.together();
        let mut grid = vec![shape[0].clone()];
        grid.extend(outer.iter().cloned());
        grid.push(extent.ceildiv(&Dim::from(per_block)));
        let (b, cx, sink) = l.parts();
        cx.lanes = self.lanes as u16;
        let at = row_index(cx, b, &grid);
        let tile = scalar(at[at.len() - 1])?;
        let thread = b.thread_idx(Axis::X);
        let place = Place {
            batch: at[0],
            outer: at[1..at.len() - 1].to_vec(),
            lane: b.rem(thread, self.group),
            own: b.div(thread, self.group),
            first: b.mul(tile, per_block),
            rows: cx.dim(b, extent),
        };
        let are_whole = extent.as_const().is_some_and(|n| n % per_block == 0);
        self.step(cx, b, sink, (&place, sizes), are_whole)?;
        let rows = shape.iter().fold(Dim::from(1), |n, d| n * d);
        let depth = sizes.map_or(0, |sizes| sizes.depth);
        let flops = rows * Dim::from(5 * self.states + 20 + 2 * depth);
        Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
    }

    fn step<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        (place, sizes): (&Place, Option<&StepSizes>),
        are_whole: bool,
    ) -> Result<(), LowerError> {
        let groups = i64::from(THREADS) / self.group;
        let first_n = b.mul(place.lane, self.lanes);
        let n = cx.lanes_from(first_n);
        let last = b.sub(place.rows, 1);
        let zero = Idx::Uniform(b.const_i64(0));
        let mut rows = Vec::new();
        for i in 0..self.together() {
            let row = b.add(place.first, i * groups);
            let row = b.add(row, place.own);
            let exists = (!are_whole).then(|| b.lt(row, place.rows));
            rows.push((if are_whole { row } else { b.min(row, last) }, exists));
        }
        // Lane i finishes the i-th row.
        let offset = b.mul(place.lane, groups);
        let finished = b.add(place.first, offset);
        let finished = b.add(finished, place.own);
        let nearest = b.min(finished, last);
        // What never changes is asked for first, everything else before anything is used.
        let fetched = match sizes {
            None => None,
            Some(sizes) => {
                let channel = self.channel(cx, b, place, rows[0].0);
                Some((sizes, sizes.fetch(cx, b, (channel, place.lane, self.group))?))
            }
        };
        let dynamics = if self.has_heads { None } else { Some(rows[0].0) };
        let (a, bias) = self.constants(cx, b, place, dynamics, n)?;
        let skip = self.skip(cx, b, place, nearest)?;
        let mut old = Vec::new();
        let mut xs = Vec::new();
        let states = cx.unwidened(self.h0);
        for (row, _) in &rows {
            old.push(cx.get_wide(b, states, &place.state(*row, n))?);
        }
        let dt = match fetched {
            Some((sizes, fetched)) => Some(sizes.sum(cx, b, fetched, self.group)?),
            None => None,
        };
        for (row, _) in &rows {
            xs.push(cx.get(b, self.x, &place.element(*row, zero))?);
        }
        let pair = [place.batch, zero, place.outer[0], n];
        let b_n = cx.get_wide_as(b, (self.b, Elem::F32), &pair)?;
        let c_n = cx.get_wide_as(b, (self.c, Elem::F32), &pair)?;
        let finish = Finish {
            skip,
            x: cx.get(b, self.x, &place.element(nearest, zero))?,
            z: self.z.map(|z| cx.get(b, z, &place.element(nearest, zero))).transpose()?,
        };
        let lanes = std::mem::replace(&mut cx.lanes, 1);
        sink.fetch(cx, b, &place.element(nearest, zero))?;
        cx.lanes = lanes;
        let (decay, factor) = self.discretized(cx, b, place, (dynamics, dt), (a, bias))?;
        let mut mine: Option<Reg> = None;
        for (i, ((row, exists), (old, x))) in rows.iter().zip(old.into_iter().zip(xs)).enumerate() {
            let x = b.cast(x, Elem::F32);
            let x = cx.widen(b, x);
            let input = b.mul(factor, x);
            let input = b.mul(input, b_n);
            let old = b.cast(old, Elem::F32);
            let new = b.fma(decay, old, input);
            let seen = if self.read_out == ReadOut::After { new } else { old };
            let products = b.mul(seen, c_n);
            let total = group_sum(b, products, self.group);
            mine = Some(match mine {
                None => total,
                Some(others) => {
                    let is_mine = b.eq(place.lane, i as i64);
                    b.select(is_mine, total, others)
                }
            });
            if sink.wants(self.h_last) {
                let kept = b.cast(new, self.state_elem);
                let at = place.state(*row, n);
                let mut result = Ok(());
                match exists {
                    Some(exists) => b.if_(*exists, |b| {
                        result = cx.scope(|cx| sink.put_extra(cx, b, self.h_last, &at, kept));
                    }),
                    None => result = sink.put_extra(cx, b, self.h_last, &at, kept),
                }
                result?;
            }
        }
        let sum = mine.expect("a group has a row");
        let (is_lane, is_row) = (b.lt(place.lane, self.together()), b.lt(finished, place.rows));
        let finishes = b.and(is_lane, is_row);
        let lanes = std::mem::replace(&mut cx.lanes, 1);
        let mut result = Ok(());
        b.if_(finishes, |b| {
            result = cx.scope(|cx| {
                let y = finish.element(b, sum);
                let y = b.cast(y, self.elem);
                sink.put(cx, b, &place.element(nearest, zero), y)
            });
        });
        cx.lanes = lanes;
        result
    }

    /// Where a channel is among all channels.
    fn channel(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, place: &Place, row: Reg) -> Reg {
        let own: Vec<Idx> = place.outer.iter().copied().chain([Idx::Uniform(row)]).collect();
        let shape = &cx.graph.ty(self.x).shape;
        let extents = cx.extents(b, &shape[2..]);
        match cx.index(b).linear(&own, &extents) {
            Idx::Uniform(at) => at,
            Idx::Lanes { .. } | Idx::Vector(_) => unreachable!("every part of the index is a scalar"),
        }
    }

    /// The decay rates of a row, or of all rows of a head, and the bias of the step size.
    fn constants(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        place: &Place,
        row: Option<Reg>,
        n: Idx,
    ) -> Result<(Reg, Option<Reg>), LowerError> {
        let own: Vec<Idx> = place.outer.iter().copied().chain(row.map(Idx::Uniform)).collect();
        let a = match row {
            None => cx.get(b, self.a, &own)?,
            Some(_) => cx.get_wide(b, self.a, &[&own[..], &[n]].concat())?,
        };
        let bias = self.dt_bias.map(|bias| cx.get(b, bias, &own)).transpose()?;
        Ok((a, bias))
    }

    /// The factor of x in the result of a row.
    fn skip(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        place: &Place,
        row: Reg,
    ) -> Result<Option<Reg>, LowerError> {
        let Some(d) = self.d else { return Ok(None) };
        let zero = Idx::Uniform(b.const_i64(0));
        let is_scalar = self.has_heads && cx.graph.ty(d).shape[2].is(1);
        let own = if is_scalar { zero } else { Idx::Uniform(row) };
        cx.get(b, d, &[&place.outer[..], &[own]].concat()).map(Some)
    }

    /// Decay and the factor of the input, as vectors: of a row, or of all rows of a head. The step size may be known.
    fn discretized(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        place: &Place,
        (row, dt): (Option<Reg>, Option<Reg>),
        (a, bias): (Reg, Option<Reg>),
    ) -> Result<(Reg, Reg), LowerError> {
        let dt = match dt {
            Some(dt) => dt,
            None => {
                let zero = Idx::Uniform(b.const_i64(0));
                let own: Vec<Idx> = place.outer.iter().copied().chain(row.map(Idx::Uniform)).collect();
                cx.get(b, self.dt, &[&[place.batch, zero], &own[..]].concat())?
            }
        };
        let dt = b.cast(dt, Elem::F32);
        let bias = bias.map(|bias| b.cast(bias, Elem::F32));
        let dt = step_size(b, dt, bias, self.softplus, self.limits);
        let a = b.cast(a, Elem::F32);
        let dt = if row.is_some() { cx.widen(b, dt) } else { dt };
        let (decay, factor) = discretize(b, self.rule, dt, a);
        Ok((cx.widen(b, decay), cx.widen(b, factor)))
    }
}

/// What makes the result of a row of its sum.
struct Finish {
    skip: Option<Reg>,
    x: Reg,
    z: Option<Reg>,
}

impl Finish {
    /// Skip and gate.
    fn element(&self, b: &mut KernelBuilder, sum: Reg) -> Reg {
        let mut y = sum;
        if let Some(d) = self.skip {
            let (d, x) = (b.cast(d, Elem::F32), b.cast(self.x, Elem::F32));
            y = b.fma(d, x, y);
        }
        if let Some(z) = self.z {
            let z = b.cast(z, Elem::F32);
            let gate = b.silu(z);
            y = b.mul(y, gate);
        }
        y
    }
}

impl Place {
    /// Index of a row at the only step.
    fn element(&self, row: Reg, step: Idx) -> Vec<Idx> {
        [&[self.batch, step], &self.outer[..], &[Idx::Uniform(row)]].concat()
    }

    /// Index of states of a row.
    fn state(&self, row: Reg, n: Idx) -> Vec<Idx> {
        [&[self.batch], &self.outer[..], &[Idx::Uniform(row), n]].concat()
    }
}
