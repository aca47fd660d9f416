//! Thread-block schedules: groups of graph nodes -> kernels for GPUs.
//!
//! The same elements on demand ([`super::access`]) and the same sink as on CPUs, with one lane per thread; the roots
//! have loops of their own here. The kernel interpreter runs these kernels, races and all, on any machine.
//!
//! A launch binds every tensor at an address that is a multiple of 16 bytes, so that rows whose length allows it are
//! copied into shared memory 16 bytes at a time.

mod matmul;
mod selective_scan;
mod staging;
#[cfg(test)]
mod tests;

use super::access::Cx;
use super::index::Idx;
use super::sink::Sink;
use super::{Launch, LowerError, Lowered, Lowering, elem_of, kernel_name};
use crate::kernel::{KernelBuilder, Reg};
use crate::target::GpuTarget;
use ssmc_ir::ops::Op;
use ssmc_ir::{Graph, Group, ValueId};
use std::collections::BTreeSet;

/// The kernel of one group on a GPU.
///
/// `grid` of the result counts thread blocks; their size is the kernel's `block`.
///
/// # Errors
/// The root is neither `ssm.selective_scan` nor a product of two tensors, or an element type or a symbolic extent has
/// no kernel.
pub fn lower_block(graph: &Graph, group: &Group, target: &GpuTarget) -> Result<Lowered, LowerError> {
    let node = graph.node(group.root);
    match &node.op {
        Op::SelectiveScan(op) => {
            let schedule = selective_scan::Schedule::choose(graph, node, target)?;
            in_block(graph, group, schedule.threads(), |l| selective_scan::lower(l, op, schedule))
        }
        Op::Contract(op) => {
            let schedule = matmul::Schedule::choose(graph, group)?;
            in_block(graph, group, schedule.threads(), |l| matmul::lower(l, op, group, schedule))
        }
        op => Err(LowerError::Unsupported {
            op: op.name(),
            reason: format!("it has no thread-block schedule for {}", target.arch.name()),
        }),
    }
}

/// A kernel with this many threads per block, filled in by `body`.
fn in_block<'a>(
    graph: &'a Graph,
    group: &'a Group,
    threads: u32,
    body: impl FnOnce(&mut Lowering<'a>) -> Result<Launch, LowerError>,
) -> Result<Lowered, LowerError> {
    let node = graph.node(group.root);
    let Some(result) = node.results.first() else {
        return Err(LowerError::Unsupported { op: node.op.name(), reason: "it has no result".into() });
    };
    let name = kernel_name(node, elem_of(graph.ty(*result).dtype)?);
    let inside: BTreeSet<ValueId> = group
        .members
        .iter()
        .filter(|id| **id != group.root)
        .flat_map(|id| graph.node(*id).results.first().copied())
        .collect();
    let mut lowering = Lowering {
        graph,
        node,
        cx: Cx::new(graph, inside, 1),
        b: KernelBuilder::new(&name, [threads, 1, 1]),
        sink: Sink::new(graph, group),
    };
    let launch = body(&mut lowering)?;
    let (args, dims) = lowering.cx.into_args();
    Ok(Lowered { kernel: lowering.b.finish(), args, dims, grid: launch.grid, flops: launch.flops })
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
