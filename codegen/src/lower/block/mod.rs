//! Thread-block schedules: groups of graph nodes -> kernels for GPUs.
//!
//! The same elements on demand ([`super::access`]) and the same sink as on CPUs, with one lane per thread; the roots
//! have loops of their own here. The kernel interpreter runs these kernels, races and all, on any machine.
//!
//! A launch binds every tensor at an address that is a multiple of 16 bytes, so that rows whose length allows it are
//! copied into shared memory 16 bytes at a time.

mod generic;
mod matmul;
mod reduce;
mod selective_scan;
mod staging;
#[cfg(test)]
mod tests;

pub(crate) use reduce::block_sum;

use super::index::Idx;
use super::{Launch, LowerError, Lowered, Lowering};
use crate::kernel::Reg;
use crate::target::GpuTarget;
use ssmc_ir::ops::Op;
use ssmc_ir::{Dim, Graph, Group};

/// The kernels of one group on a GPU, of which one runs: the grids of the others are empty.
///
/// # Errors
/// As [`lower_block`].
pub fn lower_alternatives(
    graph: &Graph,
    group: &Group,
    target: &GpuTarget,
) -> Result<Vec<Lowered>, LowerError> {
    let node = graph.node(group.root);
    let Op::Contract(op) = &node.op else { return Ok(vec![lower_block(graph, group, target)?]) };
    let Ok(schedules) = matmul::Schedule::alternatives(graph, group) else {
        return Ok(vec![lower_block(graph, group, target)?]);
    };
    let lower = |(schedule, share): (matmul::Schedule, Dim)| {
        let lowered = in_block(graph, group, schedule.threads(), |l| matmul::lower(l, op, group, schedule))?;
        Ok(Lowered { grid: lowered.grid * &share, flops: lowered.flops * &share, ..lowered })
    };
    schedules.into_iter().map(lower).collect()
}

/// The kernel of one group on a GPU, for any size.
///
/// `grid` of the result counts thread blocks; their size is the kernel's `block`.
///
/// # Errors
/// An element type or a symbolic extent has no kernel.
pub fn lower_block(graph: &Graph, group: &Group, target: &GpuTarget) -> Result<Lowered, LowerError> {
    let node = graph.node(group.root);
    match &node.op {
        Op::SelectiveScan(op) if selective_scan::applies(node, op) => {
            let schedule = selective_scan::Schedule::choose(graph, node, target)?;
            in_block(graph, group, schedule.threads(), |l| selective_scan::lower(l, op, schedule))
        }
        Op::Contract(op) if let Ok(schedule) = matmul::Schedule::choose(graph, group) => {
            in_block(graph, group, schedule.threads(), |l| matmul::lower(l, op, group, schedule))
        }
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
