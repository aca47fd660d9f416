//! The chunked variant: a block per head, matrix products inside a chunk, the state passed on between chunks.
//!
//! With gap(i, j) the sum of dt*a over the steps after j up to i and S the state before the chunk:
//!
//! ```text
//! y[i] = sum over j <= i of exp(gap(i,j)) * (c[i].b[j]) * dt[j]*x[j] + exp(gap(i,-1)) * S c[i], then
//! S = exp(gap(last,-1))*S + sum over j of exp(gap(last,j)) * dt[j]*x[j] b[j]'
//! ```
//!
//! Gaps are sums over their own steps, never differences: beside a huge step the small ones would vanish. In a packed
//! batch a chunk is cut where a sequence begins, so that nothing of one reaches another.
//!
//! All three products run in [sums] kept in registers: rows are steps or states, lanes are steps or rows of the head.
//! Steps after i take no part in `y[i]`, not even with weight 0: they may be infinite.

use super::super::access::Cx;
use super::super::conv1d::new_sequence;
use super::super::elementwise::{for_lanes, row_index};
use super::super::index::Idx;
use super::super::scan::hold_factor;
use super::super::selective_scan::step_at;
use super::super::sink::Sink;
use super::super::sums::{multiply_add, sums};
use super::super::{Launch, LowerError, Lowering, elem_of};
use super::{Head, Operands, load_state};
use crate::kernel::{Elem, KernelBuilder, LocalId, Reg};
use ssmc_ir::Dim;
use ssmc_ir::ops::{Discretization, Ssd};

/// Rows of a tile: with [`VECTORS`] it takes half of 32 vector registers and hides the latency of multiply-adds.
const ROWS: i64 = 4;
/// Vectors of a row.
const VECTORS: i64 = 4;
/// Vectors of scores that a tile of steps computes at once.
const SCORE_VECTORS: i64 = 2;
/// Most numbers in the arrays of one chunk's b and c: they should stay in the second-level cache.
const MAX_MAP: i64 = 32 << 10;

/// What is fixed for a block, and its arrays. Rows of arrays are padded to whole vectors.
struct Block<'o> {
    op: &'o Ssd,
    o: &'o Operands,
    head: Head,
    rows: Dim,
    n: i64,
    elem: Elem,
    len: Reg,
    pitch: Pitch,
    arrays: Arrays,
}

/// Lengths of rows in arrays.
struct Pitch {
    /// Of one number per row of the head.
    rows: i64,
    /// Of one number per state.
    states: i64,
    /// Of one number per step of a chunk.
    steps: i64,
}

struct Arrays {
    /// `[N]` rows of one number per row of the head.
    state: LocalId,
    /// dt*x, or what stands for it by the discretization: per step a row of the same kind.
    dt_x: LocalId,
    /// c: per step a row of states.
    c: LocalId,
    /// b of one step.
    b_row: LocalId,
    /// b: per state a row of steps.
    b: LocalId,
    /// dt*a per step.
    dt_a: LocalId,
    /// exp(gap(i, -1)) per step i.
    carry: LocalId,
    /// gap(i, j) per step j, i being the last step that was seen; 0 from i on.
    gap: LocalId,
    /// Scores of the steps of a tile with those before them: a row of steps each.
    score: LocalId,
    /// y of the steps of a tile.
    y: LocalId,
}

/// Steps of one sequence in the present chunk.
#[derive(Clone, Copy)]
struct Piece {
    /// The first, on the axis of the block's steps.
    start: Reg,
    count: Reg,
}

pub(super) fn lower(l: &mut Lowering<'_>, op: &Ssd, o: &Operands) -> Result<Launch, LowerError> {
    let shape = l.shape(o.x);
    let rows = l.constant("head width", &shape[4])?;
    let n = l.constant("states", &l.shape(o.b)[3])?;
    let elem = elem_of(l.graph.ty(l.node.results[0]).dtype)?;
    let q = (op.chunk_size as i64).min((MAX_MAP / n.max(1)).max(1));
    let (b, cx, sink) = l.parts();
    let grid = [shape[0].clone(), shape[2].clone(), shape[3].clone()];
    let place = row_index(cx, b, &grid);
    let lanes = i64::from(cx.lanes);
    let padded = |length: i64, unit: i64| (length + unit - 1) / unit * unit;
    let pitch = Pitch {
        rows: padded(rows, lanes),
        states: padded(n, lanes),
        steps: padded(q, SCORE_VECTORS * lanes),
    };
    let mut local = |name, length: i64| b.local(name, o.acc, length as u32);
    let arrays = Arrays {
        state: local("state", n * pitch.rows),
        dt_x: local("dt_x", q * pitch.rows),
        c: local("c", q * pitch.states),
        b_row: local("b_row", pitch.states),
        b: local("b", n * pitch.steps),
        dt_a: local("dt_a", q),
        carry: local("carry", pitch.steps),
        gap: local("gap", pitch.steps),
        score: local("score", ROWS * pitch.steps),
        y: local("y", ROWS * pitch.rows),
    };
    let block = Block {
        op,
        o,
        head: Head { batch: place[0], row: place[0], group: place[1], head: place[2] },
        rows: Dim::from(rows),
        n,
        elem,
        len: cx.dim(b, &shape[1]),
        pitch,
        arrays,
    };
    for_lanes(cx, b, &block.rows, &mut |cx, b, p| {
        let offset = first_of(p);
        load_state(cx, b, o, &block.head, (p, n), (block.arrays.state, block.pitch.rows, offset))
    })?;
    // Vectors reach beyond the steps that there are.
    block.clear(cx, b, block.arrays.b, n * block.pitch.steps);
    block.clear(cx, b, block.arrays.carry, block.pitch.steps);
    let chunks = b.ceil_div(block.len, q);
    let mut result = Ok(());
    b.for_("chunk", 0, chunks, 1, |b, chunk| {
        result = cx.scope(|cx| {
            let start = b.mul(chunk, q);
            let left = b.sub(block.len, start);
            let count = b.min(left, q);
            block.chunk(cx, b, Piece { start, count }, sink)
        });
    });
    result?;
    if sink.wants(o.h_last) {
        let mut result = Ok(());
        b.for_("n", 0, n, 1, |b, n| {
            result = cx.scope(|cx| {
                let row = b.mul(n, block.pitch.rows);
                for_lanes(cx, b, &block.rows, &mut |cx, b, p| {
                    let h = load_row(b, cx.lanes, block.arrays.state, row, p);
                    let h = b.cast(h, elem);
                    sink.put_extra(cx, b, o.h_last, &block.head.state(p, Idx::Uniform(n)), h)
                })
            });
        });
        result?;
    }
    let steps = shape.iter().fold(Dim::from(1), |n, d| n * d);
    Ok(Launch { grid: grid.iter().fold(Dim::from(1), |n, d| n * d), flops: steps * Dim::from(4 * n + q + 6) })
}

impl Block<'_> {
    /// Position on the sequence axis of step `i` of the piece, and of the step before it.
    fn step(&self, b: &mut KernelBuilder, piece: Piece, i: Reg) -> (Reg, Reg) {
        let i = b.add(piece.start, i);
        step_at(b, i, self.len, self.op.reverse)
    }

    /// Zeros in the first `length` numbers, a multiple of the lanes.
    fn clear(&self, cx: &Cx<'_>, b: &mut KernelBuilder, array: LocalId, length: i64) {
        let zero = b.zero(self.o.acc.x(cx.lanes));
        b.for_("i", 0, length, cx.lanes.into(), |b, i| b.store(array, i, zero));
    }

    /// One chunk, in pieces where sequences begin.
    fn chunk<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        chunk: Piece,
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        let Some(seq_idx) = self.o.seq_idx else { return self.piece(cx, b, chunk, sink) };
        let zero = b.const_i64(0);
        let begin = b.var_init(zero);
        let end = b.add(chunk.count, 1);
        let last = b.sub(chunk.count, 1);
        let mut result = Ok(());
        b.for_("i", 1, end, 1, |b, i| {
            result = cx.scope(|cx| {
                let inside = b.min(i, last);
                let at = self.step(b, chunk, inside);
                let is_new = new_sequence(cx, b, seq_idx, self.head.batch, at)?;
                let is_end = b.eq(i, chunk.count);
                let ends = b.or(is_new, is_end);
                let mut result = Ok(());
                b.if_(ends, |b| {
                    result = cx.scope(|cx| {
                        let start = b.add(chunk.start, begin);
                        let count = b.sub(i, begin);
                        let piece = Piece { start, count };
                        let at = self.step(b, piece, zero);
                        let is_new = new_sequence(cx, b, seq_idx, self.head.batch, at)?;
                        b.if_(is_new, |b| self.clear(cx, b, self.arrays.state, self.n * self.pitch.rows));
                        self.piece(cx, b, piece, sink)
                    });
                    b.assign(begin, i);
                });
                result
            });
        });
        result
    }

    /// Steps of one sequence.
    fn piece<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        piece: Piece,
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        self.prepare(cx, b, piece)?;
        let rest = b.rem(piece.count, ROWS);
        let whole = b.sub(piece.count, rest);
        let zero = b.const_i64(0);
        for (rows, (lo, hi)) in [(ROWS, (zero, whole)), (1, (whole, piece.count))] {
            let mut result = Ok(());
            b.for_("i", lo, hi, rows, |b, i| {
                self.scores(cx, b, (i, rows));
                result = self.outputs(cx, b, piece, (i, rows), sink);
            });
            result?;
        }
        self.pass_on(cx, b, piece);
        Ok(())
    }

    /// Fills the arrays of steps.
    fn prepare(&self, cx: &mut Cx<'_>, b: &mut KernelBuilder, piece: Piece) -> Result<(), LowerError> {
        let zero = b.zero(self.o.acc.x(1));
        let carry = b.var_init(zero);
        let mut result = Ok(());
        b.for_("i", 0, piece.count, 1, |b, i| {
            result = cx.scope(|cx| {
                let (t, _) = self.step(b, piece, i);
                let (dt, a) = self.head.step(cx, b, (self.o, self.op), t)?;
                let dt_a = b.mul(dt, a);
                b.store(self.arrays.dt_a, i, dt_a);
                let wider = b.add(carry, dt_a);
                b.assign(carry, wider);
                b.store(self.arrays.carry, i, carry);
                // Both rules decay by exp(dt*a); the type rule of ssd has no others in chunks.
                let dt = match self.op.discretization {
                    Discretization::Zoh => hold_factor(b, dt, a),
                    Discretization::ExpEuler | Discretization::Bilinear => dt,
                };
                let row = b.mul(i, self.pitch.rows);
                for_lanes(cx, b, &self.rows, &mut |cx, b, p| {
                    let x = self.o.wide(cx, b, self.o.x, &[self.head.at(t).as_slice(), &[p]].concat())?;
                    let dt = cx.widen(b, dt);
                    let v = b.mul(dt, x);
                    store_row(b, self.arrays.dt_x, row, p, v);
                    Ok(())
                })?;
                let row = b.mul(i, self.pitch.states);
                let none = b.const_i64(0);
                for_lanes(cx, b, &Dim::from(self.n), &mut |cx, b, n| {
                    let pick = [self.head.batch, Idx::Uniform(t), self.head.group, n];
                    let c_t = self.o.wide(cx, b, self.o.c, &pick)?;
                    store_row(b, self.arrays.c, row, n, c_t);
                    let b_t = self.o.wide(cx, b, self.o.b, &pick)?;
                    store_row(b, self.arrays.b_row, none, n, b_t);
                    Ok(())
                })?;
                b.for_("n", 0, self.n, 1, |b, n| {
                    let v = b.load(self.arrays.b_row, n, 1);
                    let at = b.mul(n, self.pitch.steps);
                    let at = b.add(at, i);
                    b.store(self.arrays.b, at, v);
                });
                Ok(())
            });
        });
        result?;
        self.clear(cx, b, self.arrays.gap, self.pitch.steps);
        self.exp_all(cx, b, self.arrays.carry, piece.count);
        Ok(())
    }

    /// The exponentials of the first `count` numbers.
    fn exp_all(&self, cx: &Cx<'_>, b: &mut KernelBuilder, array: LocalId, count: Reg) {
        b.for_("i", 0, count, cx.lanes.into(), |b, i| {
            let v = b.load(array, i, cx.lanes);
            let v = b.exp(v);
            b.store(array, i, v);
        });
    }

    /// Scores of the steps from `i` on with all steps up to theirs; what lies beyond has no meaning.
    fn scores(&self, cx: &Cx<'_>, b: &mut KernelBuilder, (i, rows): (Reg, i64)) {
        let (lanes, acc) = (i64::from(cx.lanes), self.o.acc);
        let (zero, n) = (b.const_i64(0), b.const_i64(self.n));
        let end = b.add(i, rows);
        b.for_("j", 0, end, SCORE_VECTORS * lanes, |b, j| {
            let zeros = b.zero(acc.x(cx.lanes));
            let tile = sums(b, (rows as usize, SCORE_VECTORS), zeros);
            let left = |b: &mut KernelBuilder, k: Reg, row: i64| {
                let at = b.add(i, row);
                let at = b.mul(at, self.pitch.states);
                let at = b.add(at, k);
                b.load(self.arrays.c, at, 1)
            };
            let right = |b: &mut KernelBuilder, k: Reg, v: i64| {
                let at = b.mul(k, self.pitch.steps);
                let at = b.add(at, j);
                let at = b.add(at, v * lanes);
                b.load(self.arrays.b, at, cx.lanes)
            };
            add_products(cx, b, &tile, (zero, n), &left, &right);
            for v in 0..SCORE_VECTORS {
                let first = b.add(j, v * lanes);
                let mut gap = b.load(self.arrays.gap, first, cx.lanes);
                for row in 0..rows {
                    gap = self.widen_gap(cx, b, (first, gap), (i, row));
                    let decay = b.exp(gap);
                    let score = b.mul(tile[row as usize][v as usize], decay);
                    let at = b.add(first, row * self.pitch.steps);
                    b.store(self.arrays.score, at, score);
                }
                b.store(self.arrays.gap, first, gap);
            }
        });
    }

    /// gap(i + row, j) for the steps j from `first` on, given those of the step before.
    fn widen_gap(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (first, gap): (Reg, Reg),
        (i, row): (Reg, i64),
    ) -> Reg {
        let i = b.add(i, row);
        let dt_a = b.load(self.arrays.dt_a, i, 1);
        let dt_a = cx.widen(b, dt_a);
        let wider = b.add(gap, dt_a);
        // Lanes of steps before i.
        let before = b.sub(i, first);
        let before = b.max(before, 0);
        let before = b.min(before, i64::from(cx.lanes));
        let is_before = b.lane_mask(before, cx.lanes);
        let zero = b.zero(self.o.acc.x(cx.lanes));
        b.select(is_before, wider, zero)
    }

    /// y of the steps from `i` on.
    fn outputs<'a>(
        &self,
        cx: &mut Cx<'a>,
        b: &mut KernelBuilder,
        piece: Piece,
        (i, rows): (Reg, i64),
        sink: &mut Sink<'a>,
    ) -> Result<(), LowerError> {
        self.for_vectors(cx, b, &mut |b, p, vectors| self.output_tile(cx, b, (i, rows), (p, vectors)));
        for row in 0..rows {
            let at = b.add(i, row);
            let (t, _) = self.step(b, piece, at);
            let from = b.const_i64(row * self.pitch.rows);
            cx.scope(|cx| {
                for_lanes(cx, b, &self.rows, &mut |cx, b, p| {
                    let y = load_row(b, cx.lanes, self.arrays.y, from, p);
                    let y = self.head.finish(cx, b, self.o, (t, p), y)?;
                    let y = b.cast(y, self.elem);
                    sink.put(cx, b, &[self.head.at(t).as_slice(), &[p]].concat(), y)
                })
            })?;
        }
        Ok(())
    }

    /// `body` for groups of vectors that cover the rows of the head: the first row and the number of vectors.
    fn for_vectors(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        body: &mut dyn FnMut(&mut KernelBuilder, Reg, i64),
    ) {
        let lanes = i64::from(cx.lanes);
        let vectors = self.pitch.rows / lanes;
        let (groups, rest) = (vectors / VECTORS, vectors % VECTORS);
        let whole = groups * VECTORS * lanes;
        if groups > 0 {
            b.for_("p", 0, whole, VECTORS * lanes, |b, p| body(b, p, VECTORS));
        }
        if rest > 0 {
            let p = b.const_i64(whole);
            body(b, p, rest);
        }
    }

    /// Some rows of y of the steps from `i` on.
    fn output_tile(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (i, rows): (Reg, i64),
        (p, vectors): (Reg, i64),
    ) {
        let (zero, n) = (b.const_i64(0), b.const_i64(self.n));
        let zeros = b.zero(self.o.acc.x(cx.lanes));
        let tile = sums(b, (rows as usize, vectors), zeros);
        let c = |b: &mut KernelBuilder, k: Reg, row: i64| {
            let at = b.add(i, row);
            let at = b.mul(at, self.pitch.states);
            let at = b.add(at, k);
            b.load(self.arrays.c, at, 1)
        };
        add_products(cx, b, &tile, (zero, n), &c, &self.row_of(cx, self.arrays.state, p));
        for row in 0..rows {
            let at = b.add(i, row);
            let carry = b.load(self.arrays.carry, at, 1);
            let carry = cx.widen(b, carry);
            for sum in &tile[row as usize] {
                let scaled = b.mul(carry, *sum);
                b.assign(*sum, scaled);
            }
        }
        let score = |b: &mut KernelBuilder, j: Reg, row: i64| {
            let at = b.add(j, row * self.pitch.steps);
            b.load(self.arrays.score, at, 1)
        };
        let dt_x = self.row_of(cx, self.arrays.dt_x, p);
        let shared = b.add(i, 1);
        add_products(cx, b, &tile, (zero, shared), &score, &dt_x);
        for step in 1..rows {
            let j = b.add(i, step);
            let x: Vec<Reg> = (0..vectors).map(|v| dt_x(b, j, v)).collect();
            for row in step..rows {
                let weight = score(b, j, row);
                multiply_add(cx, b, weight, &x, &tile[row as usize]);
            }
        }
        for row in 0..rows {
            let to = b.const_i64(row * self.pitch.rows);
            self.store_vectors(cx, b, (self.arrays.y, to), p, &tile[row as usize]);
        }
    }

    /// Reads the vectors from `p` on of row `k` of an array.
    fn row_of(&self, cx: &Cx<'_>, array: LocalId, p: Reg) -> impl Fn(&mut KernelBuilder, Reg, i64) -> Reg {
        let (pitch, lanes) = (self.pitch.rows, cx.lanes);
        move |b, k, v| {
            let at = b.mul(k, pitch);
            let at = b.add(at, p);
            let at = b.add(at, v * i64::from(lanes));
            b.load(array, at, lanes)
        }
    }

    fn store_vectors(
        &self,
        cx: &Cx<'_>,
        b: &mut KernelBuilder,
        (array, row): (LocalId, Reg),
        p: Reg,
        vectors: &[Reg],
    ) {
        let first = b.add(row, p);
        for (v, vector) in vectors.iter().enumerate() {
            let at = b.add(first, v as i64 * i64::from(cx.lanes));
            b.store(array, at, *vector);
        }
    }

    /// The state after the piece.
    fn pass_on(&self, cx: &Cx<'_>, b: &mut KernelBuilder, piece: Piece) {
        // The gaps are those of the last step by now.
        self.exp_all(cx, b, self.arrays.gap, piece.count);
        let zero = b.const_i64(0);
        b.for_("j", 0, piece.count, 1, |b, j| {
            let weight = b.load(self.arrays.gap, j, 1);
            let weight = cx.widen(b, weight);
            let row = b.mul(j, self.pitch.rows);
            b.for_("p", 0, self.pitch.rows, cx.lanes.into(), |b, p| {
                let at = b.add(row, p);
                let x = b.load(self.arrays.dt_x, at, cx.lanes);
                let x = b.mul(weight, x);
                b.store(self.arrays.dt_x, at, x);
            });
        });
        let last = b.sub(piece.count, 1);
        let keep = b.load(self.arrays.carry, last, 1);
        let whole = self.n - self.n % ROWS;
        for (rows, (lo, hi)) in [(ROWS, (0, whole)), (1, (whole, self.n))] {
            if lo == hi {
                continue;
            }
            b.for_("n", lo, hi, rows, |b, n| {
                self.for_vectors(cx, b, &mut |b, p, vectors| {
                    let zeros = b.zero(self.o.acc.x(cx.lanes));
                    let tile = sums(b, (rows as usize, vectors), zeros);
                    let old = self.row_of(cx, self.arrays.state, p);
                    for row in 0..rows {
                        let k = b.add(n, row);
                        let old: Vec<Reg> = (0..vectors).map(|v| old(b, k, v)).collect();
                        multiply_add(cx, b, keep, &old, &tile[row as usize]);
                    }
                    let left = |b: &mut KernelBuilder, j: Reg, row: i64| {
                        let at = b.add(n, row);
                        let at = b.mul(at, self.pitch.steps);
                        let at = b.add(at, j);
                        b.load(self.arrays.b, at, 1)
                    };
                    add_products(
                        cx,
                        b,
                        &tile,
                        (zero, piece.count),
                        &left,
                        &self.row_of(cx, self.arrays.dt_x, p),
                    );
                    for row in 0..rows {
                        let k = b.add(n, row);
                        let to = b.mul(k, self.pitch.rows);
                        self.store_vectors(cx, b, (self.arrays.state, to), p, &tile[row as usize]);
                    }
                });
            });
        }
    }
}

/// Adds `left(k, row) * right(k, vector)` for `k` from `lo` to below `hi`; `left` gives one number.
fn add_products(
    cx: &Cx<'_>,
    b: &mut KernelBuilder,
    tile: &[Vec<Reg>],
    (lo, hi): (Reg, Reg),
    left: &dyn Fn(&mut KernelBuilder, Reg, i64) -> Reg,
    right: &dyn Fn(&mut KernelBuilder, Reg, i64) -> Reg,
) {
    b.for_("k", lo, hi, 1, |b, k| {
        let vectors: Vec<Reg> = (0..tile[0].len() as i64).map(|v| right(b, k, v)).collect();
        for (i, row) in tile.iter().enumerate() {
            let x = left(b, k, i as i64);
            multiply_add(cx, b, x, &vectors, row);
        }
    });
}

/// The first of the rows `p`.
fn first_of(p: Idx) -> Reg {
    match p {
        Idx::Uniform(r) | Idx::Lanes { base: r, .. } | Idx::Vector(r) => r,
    }
}

/// Rows of arrays are padded to whole vectors, so no mask is needed.
fn load_row(b: &mut KernelBuilder, lanes: u16, mem: LocalId, row: Reg, p: Idx) -> Reg {
    let at = b.add(row, first_of(p));
    b.load(mem, at, lanes)
}

fn store_row(b: &mut KernelBuilder, mem: LocalId, row: Reg, p: Idx, x: Reg) {
    let at = b.add(row, first_of(p));
    b.store(mem, at, x);
}
