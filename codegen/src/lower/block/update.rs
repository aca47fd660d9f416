//! One step of a scan whose states lie in memory: read, advanced, read out and written once, at the speed of memory.
//!
//! ```text
//! h[n] = decay * h[n] + factor * x * b[n]        y = sum over n of c[n] * h[n], skip, gate
//!
//! group of lanes = a row of states (a channel, or a row of a head); a lane has 16 bytes of it
//! ```
//!
//! Groups of a block have neighboring rows. A group has all states of its rows under way before it uses the first.

use super::matmul::group_sum;
use super::scalar;
use crate::kernel::{Axis, Elem, KernelBuilder, Reg, WARP_SIZE};
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
        let lanes = BYTES / state_elem.size() as i64;
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

    /// Rows that a group has under way.
    fn together(&self) -> i64 {
        if self.has_heads { ROWS.min(self.group) } else { 1 }
    }

    pub(super) fn lower(&self, l: &mut Lowering<'_>) -> Result<Launch, LowerError> {
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
        self.step(cx, b, sink, &place, are_whole)?;
        let rows = shape.iter().fold(Dim::from(1), |n, d| n * d);
        let flops = rows * Dim::from(5 * self.states + 20);
        Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
    }

    fn step<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        place: &Place,
        are_whole: bool,
    ) -> Result<(), LowerError> {
        let groups = i64::from(THREADS) / self.group;
        let first_n = b.mul(place.lane, self.lanes);
        let n = cx.lanes_from(first_n);
        let last = b.sub(place.rows, 1);
        let mut rows = Vec::new();
        let mut old = Vec::new();
        for i in 0..self.together() {
            let row = b.add(place.first, i * groups);
            let row = b.add(row, place.own);
            let exists = (!are_whole).then(|| b.lt(row, place.rows));
            let row = if are_whole { row } else { b.min(row, last) };
            let at = place.state(row, n);
            old.push(cx.get_wide(b, self.h0, &at)?);
            rows.push((row, exists));
        }
        let zero = Idx::Uniform(b.const_i64(0));
        let pair = [place.batch, zero, place.outer[0], n];
        let b_n = cx.get_wide_as(b, (self.b, Elem::F32), &pair)?;
        let c_n = cx.get_wide_as(b, (self.c, Elem::F32), &pair)?;
        let shared = if self.has_heads { Some(self.discretized(cx, b, place, None, n)?) } else { None };
        let mut mine: Option<Reg> = None;
        for (i, ((row, exists), old)) in rows.iter().zip(old).enumerate() {
            let (decay, factor) = match shared {
                Some(shared) => shared,
                None => self.discretized(cx, b, place, Some(*row), n)?,
            };
            let x = cx.get(b, self.x, &place.element(*row, zero))?;
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
        // Lane i finishes the i-th row.
        let offset = b.mul(place.lane, groups);
        let row = b.add(place.first, offset);
        let row = b.add(row, place.own);
        let (is_lane, is_row) = (b.lt(place.lane, self.together()), b.lt(row, place.rows));
        let finishes = b.and(is_lane, is_row);
        let lanes = std::mem::replace(&mut cx.lanes, 1);
        let mut result = Ok(());
        b.if_(finishes, |b| result = cx.scope(|cx| self.finish(cx, b, sink, place, (row, sum))));
        cx.lanes = lanes;
        result
    }

    /// Decay and the factor of the input, as vectors: of a row, or of all rows of a head.
    fn discretized(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        place: &Place,
        row: Option<Reg>,
        n: Idx,
    ) -> Result<(Reg, Reg), LowerError> {
        let zero = Idx::Uniform(b.const_i64(0));
        let own: Vec<Idx> = place.outer.iter().copied().chain(row.map(Idx::Uniform)).collect();
        let dt = cx.get(b, self.dt, &[&[place.batch, zero], &own[..]].concat())?;
        let dt = b.cast(dt, Elem::F32);
        let bias = self.dt_bias.map(|bias| cx.get(b, bias, &own)).transpose()?;
        let bias = bias.map(|bias| b.cast(bias, Elem::F32));
        let dt = step_size(b, dt, bias, self.softplus, self.limits);
        let (decay, factor) = match row {
            None => {
                let a = cx.get(b, self.a, &own)?;
                let a = b.cast(a, Elem::F32);
                discretize(b, self.rule, dt, a)
            }
            Some(_) => {
                let a = cx.get_wide_as(b, (self.a, Elem::F32), &[&own[..], &[n]].concat())?;
                let dt = cx.widen(b, dt);
                discretize(b, self.rule, dt, a)
            }
        };
        Ok((cx.widen(b, decay), cx.widen(b, factor)))
    }

    /// Skip, gate and store of one row.
    fn finish<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        place: &Place,
        (row, sum): (Reg, Reg),
    ) -> Result<(), LowerError> {
        let zero = Idx::Uniform(b.const_i64(0));
        let at = place.element(row, zero);
        let mut y = sum;
        if let Some(d) = self.d {
            let is_scalar = self.has_heads && cx.graph.ty(d).shape[2].is(1);
            let own = if is_scalar { zero } else { Idx::Uniform(row) };
            let d = cx.get(b, d, &[&place.outer[..], &[own]].concat())?;
            let (d, x) = (b.cast(d, Elem::F32), cx.get(b, self.x, &at)?);
            let x = b.cast(x, Elem::F32);
            y = b.fma(d, x, y);
        }
        if let Some(z) = self.z {
            let z = cx.get(b, z, &at)?;
            let z = b.cast(z, Elem::F32);
            let gate = b.silu(z);
            y = b.mul(y, gate);
        }
        let y = b.cast(y, self.elem);
        sink.put(cx, b, &at, y)
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
