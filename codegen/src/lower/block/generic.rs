//! Schedules for every op: the loops of the CPU lowerings, shared out among threads.
//!
//! | work | for | threads |
//! |---|---|---|
//! | rows | norms, SSD | a block per row (or tile of channels), its threads take turns along it |
//! | elements | elementwise ops, reductions, contractions, scans that keep every state, convolutions | one per element |
//! | serial | everything else | one per block of the CPU's grid |

use super::Lowering;
use crate::kernel::{If, Stmt};
use crate::lower::access::Work;
use crate::lower::elementwise::item;
use crate::lower::{Launch, LowerError, Lowered, root};
use ssmc_ir::ops::Op;
use ssmc_ir::{Dim, Graph, Group, Node};

/// Threads of a block where every thread has an element of its own.
const ELEMENT_THREADS: u32 = 128;

/// Threads of a block where every thread walks through a row of its own: few, so that short grids use many
/// multiprocessors.
const SERIAL_THREADS: u32 = 32;

/// Most threads that share a row, and how many share one of unknown length.
const ROW_THREADS_MAX: i64 = 256;
const ROW_THREADS: u32 = 128;

/// Elements of a row that a thread takes at once where rows allow it: 16 bytes of `f32`.
const ROW_LANES: u16 = 4;

/// The kernel of one group by the loops of its CPU lowering.
pub(super) fn lower(graph: &Graph, group: &Group) -> Result<Lowered, LowerError> {
    let work = work(graph, graph.node(group.root));
    let threads = match work {
        Work::Vectors => 1,
        Work::Serial { threads } | Work::Elements { threads, .. } | Work::Rows { threads } => threads,
    };
    let mut l = Lowering::new(graph, group, threads, lanes(graph, graph.node(group.root)))?;
    l.b.add_constants_last();
    l.cx.work = work;
    l.b.open_list();
    let launch = root(&mut l);
    let body = l.b.close_list();
    let launch = launch?;
    let grid = match l.cx.work.clone() {
        Work::Vectors | Work::Rows { .. } => {
            body.into_iter().for_each(|stmt| l.b.push_stmt(stmt));
            launch.grid.clone()
        }
        Work::Serial { .. } => only_existing(&mut l, threads, launch.grid.clone(), body),
        Work::Elements { last, .. } => only_existing(&mut l, threads, launch.grid.clone() * &last, body),
    };
    Ok(l.finish(Launch { grid, ..launch }))
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
        Some(n) => ((n / i64::from(row_lanes(extent))).clamp(32, ROW_THREADS_MAX) as u32).next_power_of_two(),
        None => ROW_THREADS,
    }
}

/// Elements of a row that a thread takes at once.
fn row_lanes(extent: &Dim) -> u16 {
    match extent.as_const() {
        Some(n) if n > 0 && n % i64::from(ROW_LANES) == 0 => ROW_LANES,
        Some(_) | None => 1,
    }
}

/// Lanes of a thread: norms take elements together, everything else one by one.
fn lanes(graph: &Graph, node: &Node) -> u16 {
    match &node.op {
        Op::RmsNorm(_) | Op::LayerNorm(_) | Op::GatedRmsNorm(_) => {
            node.results.first().and_then(|y| graph.ty(*y).shape.last()).map_or(1, row_lanes)
        }
        _ => 1,
    }
}

fn work(graph: &Graph, node: &Node) -> Work {
    let elements = || Work::Elements { threads: ELEMENT_THREADS, last: Dim::from(1), at: None };
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
        | Op::Constant(_) => elements(),
        op if op.is_elementwise() => elements(),
        _ => Work::Serial { threads: SERIAL_THREADS },
    }
}
