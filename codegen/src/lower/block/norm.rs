//! Norms of rows that the threads of a block keep in registers: a row is read once.
//!
//! ```text
//! block = row; thread = some vectors of 16 bytes, as far apart as the block has threads
//!
//! load the vectors -> sum their squares over the block -> scale and store them
//! ```
//!
//! Rows of unknown or odd lengths have the loops of CPUs, which read them twice.

use super::block_sum;
use crate::kernel::{Axis, Elem, ReduceOp, Reg, WARP_SIZE};
use crate::lower::access::unwidened;
use crate::lower::elementwise::row_index;
use crate::lower::norm::inverse_deviation;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{GatedRmsNorm, Op, RmsNorm};
use ssmc_ir::{Dim, Graph, Group};

/// Most threads of a block, and most elements that one of them keeps.
const THREADS_MAX: i64 = 256;
const KEPT_MAX: i64 = 48;

/// How a row is shared among threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Elements of a vector.
    lanes: i64,
    /// Vectors of a thread.
    each: i64,
    threads: i64,
}

impl Schedule {
    /// The schedule for a node; `None` if it is no such norm, or its rows do not fit.
    pub(super) fn of(graph: &Graph, group: &Group) -> Option<Self> {
        let node = graph.node(group.root);
        let x = match &node.op {
            Op::RmsNorm(_) | Op::GatedRmsNorm(_) => node.operands.first().copied().flatten()?,
            _ => return None,
        };
        let computed = elem_of(graph.ty(x).dtype).ok()?;
        let loaded = graph.ty(unwidened(graph, &|id| group.members.contains(&id), x)).dtype;
        let lanes = 16 / elem_of(loaded).ok()?.size() as i64;
        let extent = graph.ty(x).shape.last()?.as_const().filter(|n| *n > 0 && n % lanes == 0)?;
        let vectors = extent / lanes;
        let fits = |each: &i64| {
            vectors % each == 0
                && (vectors / each) % i64::from(WARP_SIZE) == 0
                && vectors / each <= THREADS_MAX
        };
        let each = (1..=KEPT_MAX / lanes).find(fits)?;
        let is_float = computed == Elem::F32 || computed.is_half();
        is_float.then_some(Self { lanes, each, threads: vectors / each })
    }

    pub(super) fn threads(self) -> u32 {
        self.threads as u32
    }
}

pub(super) fn lower(l: &mut Lowering<'_>, s: Schedule) -> Result<Launch, LowerError> {
    let (eps, gate, weight) = match &l.node.op {
        Op::RmsNorm(RmsNorm { eps }) => (eps.get(), None, l.optional(1)),
        Op::GatedRmsNorm(GatedRmsNorm { eps, norm_before_gate }) => {
            (eps.get(), Some((l.operand(1)?, *norm_before_gate)), l.optional(2))
        }
        _ => return l.unsupported("it is no norm by the mean square"),
    };
    let x = l.operand(0)?;
    let shape = l.shape(x);
    let Some((last, rows)) = shape.split_last() else { return l.unsupported("a scalar has no row") };
    let elem = elem_of(l.graph.ty(x).dtype)?;
    let (b, cx, sink) = l.parts();
    cx.lanes = s.lanes as u16;
    let row = row_index(cx, b, rows);
    let thread = b.thread_idx(Axis::X);
    let first = b.mul(thread, s.lanes);
    let places: Vec<_> = (0..s.each)
        .map(|i| {
            let at = b.add(first, i * s.threads * s.lanes);
            cx.lanes_from(at)
        })
        .collect();
    // What never changes is asked for first, and all of the row before anything is used.
    let mut weights = Vec::new();
    for at in &places {
        weights.push(weight.map(|weight| cx.get_wide(b, weight, &[*at])).transpose()?);
    }
    let mut kept = Vec::new();
    for at in &places {
        let idx = [row.as_slice(), &[*at]].concat();
        let x = cx.get_wide_as(b, (x, Elem::F32), &idx)?;
        let z = gate.map(|(z, _)| cx.get_wide_as(b, (z, Elem::F32), &idx)).transpose()?;
        kept.push((idx, x, z));
    }
    let gates_first = matches!(gate, Some((_, false)));
    let mut sum: Option<Reg> = None;
    for (_, x, z) in &mut kept {
        if let (Some(gate), true) = (*z, gates_first) {
            let gate = b.silu(gate);
            *x = b.mul(*x, gate);
        }
        sum = Some(match sum {
            None => b.mul(*x, *x),
            Some(sum) => b.fma(*x, *x, sum),
        });
    }
    let sum = sum.expect("a thread has a vector");
    let sum = b.reduce(ReduceOp::Add, sum);
    let squares = block_sum(b, sum, s.threads());
    let n = cx.dim(b, last);
    let n = b.cast(n, Elem::F32);
    let scale = inverse_deviation(b, squares, n, eps);
    let scale = cx.widen(b, scale);
    for ((idx, x, z), weight) in kept.into_iter().zip(weights) {
        let mut y = b.mul(x, scale);
        if let Some(weight) = weight {
            let weight = b.cast(weight, Elem::F32);
            y = b.mul(y, weight);
        }
        if let (Some(gate), false) = (z, gates_first) {
            let gate = b.silu(gate);
            y = b.mul(y, gate);
        }
        let y = b.cast(y, elem);
        sink.put(cx, b, &idx, y)?;
    }
    let elems = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: rows.iter().fold(Dim::from(1), |n, d| n * d), flops: elems * 4 })
}
