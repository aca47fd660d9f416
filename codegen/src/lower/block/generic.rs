//! Schedules for every op: the loops of the CPU lowerings, shared out among threads.
//!
//! | work | for | threads |
//! |---|---|---|
//! | rows | norms, short convolutions, SSD | a block per row (or tile of channels), its threads take turns along it |
//! | elements | elementwise ops, reductions, contractions, scans that keep every state, convolutions | one per element |
//! | serial | everything else | one per block of the CPU's grid |

use super::Lowering;
use crate::kernel::{If, KernelBuilder, Stmt};
use crate::lower::access::{Cx, Work};
use crate::lower::elementwise::item;
use crate::lower::sink::Sink;
use crate::lower::{LowerError, Lowered, elem_of, kernel_name, root};
use ssmc_ir::ops::Op;
use ssmc_ir::{Dim, Graph, Group, Node, ValueId};
use std::collections::BTreeSet;

/// Threads of a block where every thread has an element of its own.
const ELEMENT_THREADS: u32 = 128;

/// Threads of a block where every thread walks through a row of its own: few, so that short grids use many
/// multiprocessors.
const SERIAL_THREADS: u32 = 32;

/// Most threads that share a row, and how many share one of unknown length.
const ROW_THREADS_MAX: i64 = 256;
const ROW_THREADS: u32 = 128;

/// The kernel of one group by the loops of its CPU lowering.
pub(super) fn lower(graph: &Graph, group: &Group) -> Result<Lowered, LowerError> {
    let node = graph.node(group.root);
    let Some(result) = node.results.first() else {
        return Err(LowerError::Unsupported { op: node.op.name(), reason: "it has no result".into() });
    };
    let name = kernel_name(node, elem_of(graph.ty(*result).dtype)?);
    let is_elementwise = node.op.is_elementwise();
    let inside: BTreeSet<ValueId> = group
        .members
        .iter()
        .filter(|id| **id != group.root || is_elementwise)
        .flat_map(|id| graph.node(*id).results.first().copied())
        .collect();
    let work = work(graph, node);
    let threads = match work {
        Work::Vectors => 1,
        Work::Serial { threads } | Work::Elements { threads, .. } | Work::Rows { threads } => threads,
    };
    let mut l = Lowering {
        graph,
        node,
        cx: Cx::new(graph, inside, 1),
        b: KernelBuilder::new(&name, [threads, 1, 1]),
        sink: Sink::new(graph, group),
    };
    l.cx.work = work;
    l.b.open_list();
    let launch = root(&mut l);
    let body = l.b.close_list();
    let launch = launch?;
    let grid = match l.cx.work.clone() {
        Work::Vectors | Work::Rows { .. } => {
            body.into_iter().for_each(|stmt| l.b.push_stmt(stmt));
            launch.grid
        }
        Work::Serial { .. } => only_existing(&mut l, threads, launch.grid, body),
        Work::Elements { last, .. } => only_existing(&mut l, threads, launch.grid * &last, body),
    };
    let (args, dims) = l.cx.into_args();
    Ok(Lowered { kernel: l.b.finish(), args, dims, grid, flops: launch.flops })
}

/// Runs `body` in the threads that have one of `n` items. Returns the grid.
fn only_existing(l: &mut Lowering<'_>, threads: u32, n: Dim, body: Vec<Stmt>) -> Dim {
    let limit = l.cx.dim(&mut l.b, &n);
    let item = item(&mut l.b, threads);
    let exists = l.b.lt(item, limit);
    l.b.push_stmt(Stmt::If(If { cond: exists, on_true: body, on_false: Vec::new() }));
    n.ceildiv(&Dim::from(i64::from(threads)))
}

/// Threads for a row of this extent: a power of two, whole warps.
fn row_threads(extent: &Dim) -> u32 {
    match extent.as_const() {
        Some(n) => (n.clamp(32, ROW_THREADS_MAX) as u32).next_power_of_two(),
        None => ROW_THREADS,
    }
}

fn work(graph: &Graph, node: &Node) -> Work {
    match &node.op {
        Op::RmsNorm(_) | Op::LayerNorm(_) | Op::GatedRmsNorm(_) => {
            let last = node.results.first().and_then(|y| graph.ty(*y).shape.last());
            Work::Rows { threads: last.map_or(ROW_THREADS, row_threads) }
        }
        Op::CausalConv1d(_) => Work::Rows { threads: crate::lower::conv1d::CHANNEL_TILE as u32 },
        Op::Ssd(_) => Work::Rows { threads: SERIAL_THREADS },
        Op::Contract(_)
        | Op::Reduce(_)
        | Op::ArgMax(_)
        | Op::CumSum(_)
        | Op::Scan(_)
        | Op::ComplexScan(_)
        | Op::Dft(_)
        | Op::DiscretizedScan(_)
        | Op::Conv(_)
        | Op::Constant(_)
        | Op::DimValue(_)
        | Op::Iota(_)
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Compare(_)
        | Op::Select(_)
        | Op::Cast(_)
        | Op::Broadcast(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Reverse(_)
        | Op::Concat(_)
        | Op::Pad(_)
        | Op::Gather(_) => Work::Elements { threads: ELEMENT_THREADS, last: Dim::from(1), at: None },
        _ => Work::Serial { threads: SERIAL_THREADS },
    }
}
