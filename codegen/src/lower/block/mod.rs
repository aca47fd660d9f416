//! Thread-block schedules: groups of graph nodes -> kernels for GPUs.
//!
//! The same elements on demand ([`super::access`]) and the same sink as on CPUs, with one lane per thread; the roots
//! have loops of their own here. The kernel interpreter runs these kernels, races and all, on any machine.
//!
//! A launch binds every tensor at an address that is a multiple of 16 bytes, so that rows whose length allows it are
//! copied into shared memory 16 bytes at a time.

mod argmax;
mod chain;
mod conv1d;
mod generic;
mod matmul;
mod norm;
mod reduce;
mod rows;
mod selective_scan;
mod share;
mod ssd;
mod staging;
#[cfg(test)]
mod tests;
mod update;

pub use chain::{Chain, chains, lower_chain};
pub use matmul::library::LibraryProduct;
pub(crate) use reduce::block_sum;

use super::access::Cx;
use super::index::Idx;
use super::{Launch, LowerError, Lowered, Lowering, root};
use crate::kernel::{KernelBuilder, Reg};
use crate::target::GpuTarget;
use ssmc_ir::ops::{Op, SelectiveScan};
use ssmc_ir::{Dim, Graph, Group, Node};

/// The kernels of one group on a GPU, in the order in which they run. Most are alternatives, of which one runs: the grids
/// of the others are empty.
///
/// # Errors
/// As [`lower_block`].
pub fn lower_alternatives(
    graph: &Graph,
    group: &Group,
    target: &GpuTarget,
) -> Result<Vec<Lowered>, LowerError> {
    lower_from(1, graph, group, target)
}

/// As [`lower_alternatives`], where a group of a [`Chain`] runs alone: kernels for products of one row are left out.
///
/// # Errors
/// As [`lower_block`].
pub fn lower_unchained(graph: &Graph, group: &Group, target: &GpuTarget) -> Result<Vec<Lowered>, LowerError> {
    lower_from(2, graph, group, target)
}

/// The kernels of one group; products of them for at least so many rows.
fn lower_from(
    least: i64,
    graph: &Graph,
    group: &Group,
    target: &GpuTarget,
) -> Result<Vec<Lowered>, LowerError> {
    let node = graph.node(group.root);
    let shared = |lowered: Lowered, share: &Dim| Lowered {
        grid: lowered.grid * share,
        flops: lowered.flops * share,
        ..lowered
    };
    match &node.op {
        Op::Contract(op)
            if let Ok(schedules) = matmul::Schedule::alternatives_from(least, graph, group, target) =>
        {
            let library = LibraryProduct::of(graph, group);
            let lower = |(schedule, share): (matmul::Schedule, Dim)| {
                let lower = |l: &mut Lowering<'_>| matmul::lower(l, op, group, schedule);
                let lowered = shared(in_block(graph, group, schedule.threads(), lower)?, &share);
                Ok(Lowered { product: library.clone().filter(|_| schedule.has_many_rows()), ..lowered })
            };
            schedules.into_iter().map(lower).collect()
        }
        _ if update::Update::of(graph, node).is_some() => Ok(vec![lower_block(graph, group, target)?]),
        Op::SelectiveScan(op) if let Some(schedules) = scan_schedules(graph, node, op, target) => {
            let lower = |(schedule, share): (selective_scan::Schedule, Dim)| {
                let lowered =
                    in_block(graph, group, schedule.threads(), |l| selective_scan::lower(l, op, schedule))?;
                Ok(shared(lowered, &share))
            };
            schedules.into_iter().map(lower).collect()
        }
        Op::Ssd(op)
            if let Some(schedule) = ssd::Schedule::choose(graph, group, op, target)
                && let Some(split) = schedule.split(graph, node)
                && !split.segments.is(1) =>
        {
            let lower = |work| {
                in_block(graph, group, schedule.threads(), |l| ssd::lower(l, op, schedule, (work, &split)))
            };
            Ok(vec![lower(ssd::Work::Ends)?, lower(ssd::Work::Whole)?])
        }
        _ => Ok(vec![lower_block(graph, group, target)?]),
    }
}

/// The schedules of a selective scan that has some.
fn scan_schedules(
    graph: &Graph,
    node: &Node,
    op: &SelectiveScan,
    target: &GpuTarget,
) -> Option<Vec<(selective_scan::Schedule, Dim)>> {
    let found = selective_scan::applies(node, op)
        .then(|| selective_scan::Schedule::alternatives(graph, node, target));
    found?.ok()
}

/// The kernel of one group on a GPU that does everything, for any size.
///
/// `grid` of the result counts thread blocks; their size is the kernel's `block`.
///
/// # Errors
/// An element type or a symbolic extent has no kernel.
pub fn lower_block(graph: &Graph, group: &Group, target: &GpuTarget) -> Result<Lowered, LowerError> {
    let node = graph.node(group.root);
    if let Some(update) = update::Update::of(graph, node) {
        return in_block(graph, group, update::THREADS, |l| update.lower(l, None));
    }
    match &node.op {
        Op::SelectiveScan(op) if let Some(schedules) = scan_schedules(graph, node, op, target) => {
            let (schedule, _) = schedules[0];
            in_block(graph, group, schedule.threads(), |l| selective_scan::lower(l, op, schedule))
        }
        Op::Contract(op) if let Ok(schedule) = matmul::Schedule::choose(graph, group, target) => {
            in_block(graph, group, schedule.threads(), |l| matmul::lower(l, op, group, schedule))
        }
        Op::Ssd(op) if let Some(schedule) = ssd::Schedule::choose(graph, group, op, target) => {
            in_block(graph, group, schedule.threads(), |l| {
                let split = ssd::Split::none(&l.shape(l.operand(0)?)[1]);
                ssd::lower(l, op, schedule, (ssd::Work::Whole, &split))
            })
        }
        Op::ArgMax(_) if let Some(op) = argmax::of(graph, node) => {
            in_block(graph, group, argmax::THREADS, |l| argmax::lower(l, op))
        }
        Op::CausalConv1d(op) => {
            in_block(graph, group, conv1d::threads(graph, group), |l| conv1d::lower(l, op))
        }
        Op::RmsNorm(_) | Op::GatedRmsNorm(_) if let Some(schedule) = norm::Schedule::of(graph, group) => {
            in_block(graph, group, schedule.threads(), |l| norm::lower(l, schedule))
        }
        Op::Reduce(op) if let Some(schedule) = rows::Schedule::of(graph, group) => {
            in_block(graph, group, schedule.threads(), |l| rows::lower(l, op, schedule))
        }
        Op::Loop(_) => in_block(graph, group, 1, root),
        _ => generic::lower(graph, group),
    }
}

/// A kernel with this many threads per block, filled in by `body`.
fn in_block<'a>(
    graph: &'a Graph,
    group: &'a Group,
    threads: u32,
    body: impl FnOnce(&mut Lowering<'a>) -> Result<Launch, LowerError>,
) -> Result<Lowered, LowerError> {
    let mut lowering = Lowering::new(graph, group, threads, 1)?;
    lowering.b.add_constants_last();
    let launch = body(&mut lowering)?;
    Ok(lowering.finish(launch))
}

/// An index of one thread: threads have one lane.
fn scalar(i: Idx) -> Result<Reg, LowerError> {
    match i {
        Idx::Uniform(r) => Ok(r),
        Idx::Lanes { .. } | Idx::Vector(_) => {
            Err(LowerError::Unsupported { op: "index", reason: "a thread has one lane".into() })
        }
    }
}

/// Runs `body` where the condition holds.
fn only_if<'a>(
    cx: &mut Cx<'a>,
    b: &mut KernelBuilder,
    cond: Reg,
    body: impl FnOnce(&mut Cx<'a>, &mut KernelBuilder) -> Result<(), LowerError>,
) -> Result<(), LowerError> {
    let mut result = Ok(());
    b.if_(cond, |b| result = cx.scope(|cx| body(cx, b)));
    result
}
