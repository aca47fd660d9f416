//! Few rows: the columns of w stream past them once, at the speed of memory.
//!
//! ```text
//! group of 8, 16 or 32 lanes = some columns; its lanes split k, neighbors in memory to neighboring lanes, and add up
//! ```
//!
//! Where k is one axis that lies together in both operands, a lane loads 16 bytes of w at once, and those of several
//! places before it uses the first. One row alone, the case of decoding one sequence, has a variant of its own ([`one`]);
//! otherwise rows are taken four at a time.
//!
//! One row may be normalized on its way, and a column may advance the channel of a convolution that it is the next step of
//! ([`Around`]).

mod around;
mod one;

pub(in crate::lower::block) use around::{Around, Norm, Tail};

use super::product::{Factor, Product};
use super::{Axes, pick, recognize};
use crate::kernel::{Axis, Elem, KernelBuilder, ReduceOp, Reg, WARP_SIZE, WarpShuffleOp};
use crate::lower::access::Cx;
use crate::lower::block::scalar;
use crate::lower::elementwise::row_index;
use crate::lower::index::Idx;
use crate::lower::sink::Sink;
use crate::lower::{Launch, LowerError, Lowering, elem_of};
use ssmc_ir::ops::{Contract, Label};
use ssmc_ir::{Dim, Graph, Group};

/// Most rows for which this variant is taken.
pub(super) const ROWS_MAX: i64 = 8;

/// Rows that are accumulated together, if there may be several.
const ROWS: i64 = 4;

/// From how many columns on blocks are larger.
const SOME_COLUMNS: i64 = 4096;

/// Up to how many steps of k, and from how many columns on, a row alone has blocks of eight warps.
const SHORT: i64 = 2048;
const WIDE: i64 = 512;

/// Most loads of a column that a lane has under way.
const LOADS: i64 = 10;

/// How products of few rows are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lower::block) struct Few {
    /// Rows that are accumulated together.
    rows: i64,
    /// Columns of a group of lanes.
    columns: i64,
    warps: u32,
}

impl Few {
    /// The layout for as many columns, and steps of k; for one row, or for any number.
    pub(in crate::lower::block) fn of(is_one: bool, [columns, depth]: [&Dim; 2]) -> Self {
        let at_least = |n: i64| columns.as_const().is_some_and(|columns| columns >= n);
        let is_short = depth.as_const().is_some_and(|depth| depth <= SHORT);
        Self {
            rows: if is_one { 1 } else { ROWS },
            columns: if is_one { 1 } else { 2 },
            warps: match () {
                () if is_one && is_short && at_least(WIDE) => 8,
                () if at_least(SOME_COLUMNS) => 4,
                () => 2,
            },
        }
    }

    pub(in crate::lower::block) fn threads(self) -> u32 {
        self.warps * WARP_SIZE
    }
}

/// How k is shared among the lanes of a group.
struct Depth {
    /// Elements of one load; 1 where neighbors along k do not lie together.
    lanes: i64,
    /// Lanes of a group.
    group: i64,
    /// Steps of the whole group that are taken together, and how often.
    together: i64,
    rounds: i64,
}

impl Depth {
    fn of(k: &Axes, factors: [&Factor; 2], elems: [Elem; 2], rows: i64) -> Self {
        let widest = elems.iter().map(|elem| elem.size()).min().unwrap_or(4).max(2);
        let lanes = 16 / widest as i64;
        let last = |factor: &&Factor| factor.labels.last() == k.labels.first();
        let depth = k
            .n()
            .as_const()
            .filter(|n| k.labels.len() == 1 && *n > 0 && n % lanes == 0 && factors.iter().all(last));
        let Some(depth) = depth else {
            return Self { lanes: 1, group: WARP_SIZE.into(), together: 1, rounds: 0 };
        };
        let vectors = depth / lanes;
        let group = (vectors as u64).next_power_of_two().clamp(8, WARP_SIZE.into()) as i64;
        let whole = vectors / group;
        let most = if rows == 1 { LOADS } else { 2 };
        let together = (1..=most).rev().find(|n| whole % n == 0).unwrap_or(1);
        Self { lanes, group, together, rounds: whole / together }
    }
}

/// How many rows, columns and steps of k a product has, if it is one.
pub(in crate::lower::block) fn extents(graph: &Graph, group: &Group) -> Option<[Dim; 3]> {
    let node = graph.node(group.root);
    let p = recognize(graph, node, &|id| group.members.contains(&id)).ok()?;
    let shape = &graph.ty(*node.results.first()?).shape;
    let extent = |label: &Label| p.output.iter().position(|l| l == label).map(|axis| shape[axis].clone());
    let all = |own: &[Label]| own.iter().try_fold(Dim::from(1), |n, label| Some(n * &extent(label)?));
    let of_k = |label: &Label| {
        let axis = p.w.labels.iter().position(|l| l == label)?;
        Some(&graph.ty(p.w.value).shape[axis])
    };
    let depth = p.k.iter().try_fold(Dim::from(1), |n, label| Some(n * of_k(label)?))?;
    Some([all(&p.x.own)?, all(&p.w.own)?, depth])
}

pub(in crate::lower::block) fn lower<'a>(
    l: &mut Lowering<'a>,
    op: &Contract,
    group: &Group,
    (few, around): (Few, Around<'a>),
) -> Result<Launch, LowerError> {
    let p = recognize(l.graph, l.node, &|id| group.members.contains(&id))?;
    let [batch, m, n, k] = Axes::of(l, op, &p)?;
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let elems = [elem_of(l.graph.ty(p.x.value).dtype)?, elem_of(l.graph.ty(p.w.value).dtype)?];
    let split = Depth::of(&k, [&p.x, &p.w], elems, few.rows);
    let (b, cx, sink) = l.parts();
    cx.lanes = split.lanes as u16;
    let groups = i64::from(few.threads()) / split.group;
    let per_block = few.columns * groups;
    let loads = split.rounds * split.together;
    let grid = [batch.n(), n.n().ceildiv(&Dim::from(per_block))];
    let flops = grid[0].clone() * &m.n() * &n.n() * &k.n() * Dim::from(2);
    let place = row_index(cx, b, &grid);
    let batch_at = scalar(place[0])?;
    let batch_at = batch.unravel(cx, b, batch_at);
    let thread = b.thread_idx(Axis::X);
    let (own, lane) = (b.div(thread, split.group), b.rem(thread, split.group));
    let tile = scalar(place[1])?;
    let (first_col, within) = (b.mul(tile, per_block), b.mul(own, few.columns));
    let first_col = b.add(first_col, within);
    let first_k = b.mul(lane, split.lanes);
    let Around { norm, mut tail } = around;
    let body = Body {
        p: &p,
        few,
        split,
        axes: [&m, &n, &k, &batch],
        batch_at,
        first_col,
        first_k,
        lane,
        elem,
        norm,
    };
    if few.rows == 1 {
        // There is one, so that weights are asked for before it is known.
        let written_out = if loads <= one::WRITTEN_OUT { loads } else { 0 };
        body.run_one(cx, b, (sink, tail.as_mut()), written_out)?;
    } else {
        let rows = cx.dim(b, &m.n());
        let mut result = Ok(());
        b.for_("row", 0, rows, few.rows, |b, first_row| {
            result = cx.scope(|cx| body.run(cx, b, sink, first_row));
        });
        result?;
    }
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops })
}

/// Some rows of all columns of a group.
struct Body<'r> {
    p: &'r Product,
    few: Few,
    split: Depth,
    /// Those of rows, columns, k and the batch.
    axes: [&'r Axes; 4],
    batch_at: Vec<Idx>,
    first_col: Reg,
    /// First step of k of this lane.
    first_k: Reg,
    lane: Reg,
    elem: Elem,
    /// How the row is normalized.
    norm: Option<Norm>,
}

/// Where sums are accumulated.
struct Sums {
    /// Those of some rows and columns.
    products: Vec<Reg>,
    /// Those of the squares of a row that is normalized.
    squares: Option<Reg>,
}

impl Body<'_> {
    fn run<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &mut Sink<'a>,
        first_row: Reg,
    ) -> Result<(), LowerError> {
        let Self { few, split, axes: [m, n, k, _], .. } = self;
        let [rows, cols, depth] = [m, n, k].map(|axes| cx.dim(b, &axes.n()));
        let clamped = |cx: &mut Cx<'_>, b: &mut KernelBuilder, first, count, limit, axes: &Axes| {
            let last = b.sub(limit, 1);
            (0..count)
                .map(|i: i64| {
                    let at = b.add(first, i);
                    let at = b.min(at, last);
                    axes.unravel(cx, b, at)
                })
                .collect::<Vec<_>>()
        };
        let row_at = clamped(cx, b, first_row, few.rows, rows, m);
        let col_at = clamped(cx, b, self.first_col, few.columns, cols, n);
        let zero = b.zero(Elem::F32.x(cx.lanes));
        let products: Vec<Reg> = (0..few.rows * few.columns).map(|_| b.var_init(zero)).collect();
        let sums = Sums { products, squares: None };
        let step = split.lanes * split.group;
        let round = split.together * step;
        let whole = split.rounds * round;
        let at = (row_at.as_slice(), col_at.as_slice());
        let add = |cx: &mut Cx<'a>, b: &mut KernelBuilder, first: Reg, count: i64| {
            let places: Vec<Reg> = (0..count).map(|i| b.add(first, i * step)).collect();
            cx.scope(|cx| {
                let fetched = self.fetch(cx, b, at.1, &places)?;
                self.add(cx, b, at, fetched, &sums)
            })
        };
        let mut result = Ok(());
        if split.rounds > 0 {
            add(cx, b, self.first_k, split.together)?;
        }
        if split.rounds > 1 {
            let second = b.add(self.first_k, round);
            b.for_("k", second, whole, round, |b, at| result = add(cx, b, at, split.together));
        }
        result?;
        if k.n().as_const() != Some(whole) {
            let mut result = Ok(());
            let rest = b.add(self.first_k, whole);
            b.for_("k", rest, depth, step, |b, at| result = add(cx, b, at, 1));
            result?;
        }
        // Lane i of a group takes the i-th sum.
        let mut mine: Option<Reg> = None;
        for (i, sum) in sums.products.iter().enumerate() {
            let total = group_sum(b, *sum, split.group);
            mine = Some(match mine {
                None => total,
                Some(others) => {
                    let is_mine = b.eq(self.lane, i);
                    b.select(is_mine, total, others)
                }
            });
        }
        let value = mine.expect("there are sums");
        let (own_row, own_col) = (b.div(self.lane, few.columns), b.rem(self.lane, few.columns));
        let (row, col) = (b.add(first_row, own_row), b.add(self.first_col, own_col));
        let has_sum = b.lt(self.lane, few.rows * few.columns);
        let (in_rows, in_cols) = (b.lt(row, rows), b.lt(col, cols));
        let exists = b.and(has_sum, in_rows);
        let exists = b.and(exists, in_cols);
        let vectors = std::mem::replace(&mut cx.lanes, 1);
        let mut stored = Ok(());
        b.if_(exists, |b| {
            stored = cx.scope(|cx| {
                let (m_at, n_at) = (m.unravel(cx, b, row), n.unravel(cx, b, col));
                let value = b.cast(value, self.elem);
                sink.put(cx, b, &self.at(&self.p.output, &m_at, &n_at, &[]), value)
            });
        });
        cx.lanes = vectors;
        stored
    }

    /// The index of an element by the labels of its tensor, of which those of rows, columns or k may be left out.
    fn at(&self, labels: &[Label], row: &[Idx], col: &[Idx], depth: &[Idx]) -> Vec<Idx> {
        let [m, n, k, batch] = self.axes;
        let all = [(m, row.to_vec()), (n, col.to_vec()), (k, depth.to_vec()), (batch, self.batch_at.clone())];
        let given = all.iter().filter(|(axes, at)| axes.labels.len() == at.len());
        let parts: Vec<_> = given.map(|(axes, at)| (&axes.labels, at)).collect();
        pick(labels, &parts)
    }

    /// Asks for what follows the sum of the only row and column, if there is one.
    fn ahead<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        sink: &Sink<'a>,
        (row_at, col_at): (&[Vec<Idx>], &[Vec<Idx>]),
    ) -> Result<(), LowerError> {
        let ([row], [col]) = (row_at, col_at) else { return Ok(()) };
        let vectors = std::mem::replace(&mut cx.lanes, 1);
        let prepared = sink.fetch(cx, b, &self.at(&self.p.output, row, col, &[]));
        cx.lanes = vectors;
        prepared
    }

    /// Asks for w at `places` along k, and for the factors of a row that is normalized.
    fn fetch(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        col_at: &[Vec<Idx>],
        places: &[Reg],
    ) -> Result<Vec<Fetched>, LowerError> {
        let [_, _, k, _] = self.axes;
        let mut all = Vec::new();
        for at in places {
            let k_at = match self.split.lanes {
                1 => k.unravel(cx, b, *at),
                _ => vec![cx.lanes_from(*at)],
            };
            let mut w = Vec::new();
            for col in col_at {
                let at = self.at(&self.p.w.labels, &[], col, &k_at);
                w.push(cx.get_wide(b, self.p.w.value, &at)?);
            }
            all.push(Fetched { k_at, w, factor: None });
        }
        if let Some(norm) = &self.norm {
            for fetched in &mut all {
                fetched.factor = norm.factor(cx, b, &fetched.k_at)?;
            }
        }
        Ok(all)
    }

    /// Adds what was fetched to the sums of some rows and columns: all of w is under way before anything is used.
    fn add(
        &self,
        cx: &mut Cx<'_>,
        b: &mut KernelBuilder,
        (row_at, col_at): (&[Vec<Idx>], &[Vec<Idx>]),
        fetched: Vec<Fetched>,
        sums: &Sums,
    ) -> Result<(), LowerError> {
        for Fetched { k_at, w, factor } in fetched {
            let mut x = Vec::new();
            for row in row_at {
                x.push(match &self.norm {
                    Some(norm) => norm.element(cx, b, &k_at)?,
                    None => {
                        let at = self.at(&self.p.x.labels, row, &[], &k_at);
                        cx.get_wide_as(b, (self.p.x.value, Elem::F32), &at)?
                    }
                });
            }
            if let (Some(squares), [x]) = (sums.squares, x.as_mut_slice()) {
                let next = b.fma(*x, *x, squares);
                b.assign(squares, next);
                if let Some(factor) = factor {
                    *x = b.mul(*x, factor);
                }
            }
            let w: Vec<Reg> = w.iter().map(|w| b.cast(*w, Elem::F32)).collect();
            for (x, sums) in x.iter().zip(sums.products.chunks(col_at.len())) {
                for (w, sum) in w.iter().zip(sums) {
                    let next = b.fma(*x, *w, *sum);
                    b.assign(*sum, next);
                }
            }
        }
        Ok(())
    }
}

/// Some steps of k that were asked for.
struct Fetched {
    k_at: Vec<Idx>,
    /// Of each column.
    w: Vec<Reg>,
    /// What the elements of the row are multiplied by.
    factor: Option<Reg>,
}

/// The sum over the lanes of a vector and of a group of as many threads, pairwise.
pub(in crate::lower::block) fn group_sum(b: &mut KernelBuilder, x: Reg, group: i64) -> Reg {
    let mut sum = if b.lanes(x) == 1 { b.cast(x, Elem::F32) } else { b.reduce(ReduceOp::Add, x) };
    let mut distance = group / 2;
    while distance > 0 {
        let other = b.warp_shuffle(WarpShuffleOp::Xor, sum, distance);
        sum = b.add(sum, other);
        distance /= 2;
    }
    sum
}
