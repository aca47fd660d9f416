//! The scans that rewriting has fused.

use super::body::{Body, Name};
use super::function::Formals;
use super::scan::{Recurrence, recurrence};
use super::writer::Writer;
use ssmc_ir::ops::{
    ComplexScan, Discretization, DiscretizedScan, LinearAttention, ReadOut, Scan, SelectiveScan, Ssd,
};
use ssmc_ir::{DType, Node};

/// The longest sequence that is one block of matrix products.
const BLOCK: i64 = 128;

/// Matrix products of fewer rows than this are slower than sums of products.
const ROWS: i64 = 8;

impl Writer<'_> {
    /// The extent of time, if it is no symbol.
    fn len(&self, node: &Node) -> Option<i64> {
        node.operands[0].and_then(|x| self.ty(x).shape[1].as_const())
    }

    pub(super) fn scan(&mut self, node: &Node, op: &Scan) -> Result<Vec<Name>, String> {
        if node.operands[3..].iter().any(Option::is_some) {
            return Err("packed sequences and slots".to_owned());
        }
        let b = self.ty(node.operands[1].ok_or("an operand is missing")?);
        let a = &self.ty(node.operands[0].ok_or("an operand is missing")?).shape;
        let len = b.shape[1].as_const();
        let constant = a[1].is(1) && !b.shape[1].is(1);
        self.call(node, |body, x| {
            let of = Recurrence {
                a: x.get(0)?,
                b: x.get(1)?,
                h0: x.find(2),
                constant,
                len,
                reverse: op.reverse,
                dtype: b.dtype,
                rank: b.rank(),
            };
            recurrence(body, &of)
        })
    }

    /// A complex recurrence over pairs of real numbers, step by step.
    pub(super) fn complex_scan(&mut self, node: &Node, op: &ComplexScan) -> Result<Vec<Name>, String> {
        if node.operands.get(6).is_some_and(Option::is_some) {
            return Err("packed sequences".to_owned());
        }
        let b = self.ty(node.operands[2].ok_or("an operand is missing")?);
        let a = &self.ty(node.operands[0].ok_or("an operand is missing")?).shape;
        let constant = a[1].is(1) && !b.shape[1].is(1);
        let len = b.shape[1]
            .as_const()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=UNROLLED).contains(n));
        let len = len.ok_or_else(|| format!("a complex recurrence over other than 1 to {UNROLLED} steps"))?;
        if len == 1 {
            return self.complex_step(node);
        }
        self.call(node, |body, x| {
            let parts = |body: &mut Body, x: &str| {
                if constant { vec![x.to_owned(); len] } else { body.split(x, 1, len) }
            };
            let (a_re, a_im) = (parts(body, x.get(0)?), parts(body, x.get(1)?));
            let (b_re, b_im) = (body.split(x.get(2)?, 1, len), body.split(x.get(3)?, 1, len));
            let of = Rotation { a: [&a_re, &a_im], b: [&b_re, &b_im] };
            let start = match (x.find(4), x.find(5)) {
                (Some(re), Some(im)) => Some([body.unsqueeze(re, &[1]), body.unsqueeze(im, &[1])]),
                _ => None,
            };
            Ok(of.steps(body, start, op.reverse))
        })
    }

    pub(super) fn selective_scan(&mut self, node: &Node, op: &SelectiveScan) -> Result<Vec<Name>, String> {
        check(node, op.discretization, op.read_out)?;
        let (len, dtype) = (self.len(node), self.ty(node.results[0]).dtype);
        if len == Some(1) && !op.reverse {
            return self.selective_step(node, op);
        }
        let (form, actuals, rows) = match self.regrouped(node) {
            Some(found) => {
                let rows = found.0.times;
                (format!("{} groups", found.0.groups), self.in_groups(node, &found)?, Some(rows))
            }
            None => {
                let actuals =
                    (0..node.operands.len()).map(|i| self.optional(node, i)).collect::<Result<_, _>>()?;
                (String::new(), actuals, self.ty(node.results[0]).shape[3].as_const())
            }
        };
        let few = rows.is_some_and(|rows| rows < ROWS);
        let mut results = self.call_with(node, &form, actuals, |body, x| {
            let dt = step_size(body, x, op.dt_softplus, op.dt_min.get(), op.dt_max.get(), dtype)?;
            let dt_last = body.unsqueeze(&dt, &[-1]);
            let exponent = body.op("Mul", &[&dt_last, x.get(2)?]);
            let a = body.op("Exp", &[&exponent]);
            let input = body.op("Mul", &[&dt, x.get(0)?]);
            let input = body.unsqueeze(&input, &[-1]);
            let b = body.unsqueeze(x.get(3)?, &[3]);
            let b = body.op("Mul", &[&input, &b]);
            let of = Recurrence {
                a: &a,
                b: &b,
                h0: x.find(8),
                constant: false,
                len,
                reverse: op.reverse,
                dtype,
                rank: 5,
            };
            let mut results = recurrence(body, &of)?;
            let y = if few {
                let c = body.unsqueeze(x.get(4)?, &[3]);
                let products = body.op("Mul", &[&results[0], &c]);
                body.reduce("ReduceSum", &products, &[-1], false)
            } else {
                let c = body.unsqueeze(x.get(4)?, &[-1]);
                let y = body.op("MatMul", &[&results[0], &c]);
                body.squeeze(&y, &[-1])
            };
            results[0] = finish(body, x, &y)?;
            Ok(results)
        })?;
        if !form.is_empty() {
            for (name, value) in results.iter_mut().zip(&node.results) {
                *name = self.reshaped(name, &self.ty(*value).shape)?;
            }
        }
        Ok(results)
    }

    pub(super) fn discretized_scan(
        &mut self,
        node: &Node,
        op: &DiscretizedScan,
    ) -> Result<Vec<Name>, String> {
        if node.operands[5..].iter().any(Option::is_some) {
            return Err("packed sequences and slots".to_owned());
        }
        exp_euler(op.discretization)?;
        let (len, ty) = (self.len(node), self.ty(node.results[0]));
        self.call(node, |body, x| {
            // One decay per state, or per head: axes are missing behind those of dt.
            let per_state = ty.rank() == 5;
            let (dt, a) = (x.get(1)?, x.get(2)?);
            let decay = if per_state {
                let dt = body.unsqueeze(dt, &[4]);
                body.op("Mul", &[&dt, a])
            } else {
                let decay = body.op("Mul", &[dt, a]);
                body.unsqueeze(&decay, &[4, 5])
            };
            let a = body.op("Exp", &[&decay]);
            let dt = if per_state { dt.to_owned() } else { body.unsqueeze(dt, &[4]) };
            let input = body.op("Mul", &[&dt, x.get(0)?]);
            let input = body.unsqueeze(&input, &[-1]);
            let between: &[i64] = if per_state { &[3] } else { &[3, 4] };
            let b = body.unsqueeze(x.get(3)?, between);
            let b = body.op("Mul", &[&input, &b]);
            let of = Recurrence {
                a: &a,
                b: &b,
                h0: x.find(4),
                constant: false,
                len,
                reverse: op.reverse,
                dtype: ty.dtype,
                rank: ty.rank(),
            };
            recurrence(body, &of)
        })
    }

    /// `S[t] = exp(decay[t]) S[t-1] + k[t] v[t]^T`, `y[t] = scale S[t]^T q[t]`.
    pub(super) fn linear_attention(
        &mut self,
        node: &Node,
        op: &LinearAttention,
    ) -> Result<Vec<Name>, String> {
        if let Some(results) = self.linear_attention_operator(node, op)? {
            return Ok(results);
        }
        if op.read_out == ReadOut::Before || (4..7).any(|i| node.operands[i].is_some()) {
            return Err("the delta rule and a read-out before the update".to_owned());
        }
        if node.operands[8].is_some() || node.operands[9].is_some() {
            return Err("packed sequences and slots".to_owned());
        }
        let (len, dtype) = (self.len(node), self.ty(node.results[0]).dtype);
        let decay = node.operands[3].map(|v| self.ty(v));
        let constant = decay.is_none_or(|ty| ty.shape[1].is(1)) && len != Some(1);
        self.call(node, |body, x| {
            let a = match x.find(3) {
                Some(decay) => {
                    let decay = body.op("Exp", &[decay]);
                    body.unsqueeze(&decay, &[4])
                }
                None => body.constant(dtype, &[1; 5], ssmc_ir::scalar::encode(dtype, 1.0)),
            };
            let (k, v) = (body.unsqueeze(x.get(1)?, &[4]), body.unsqueeze(x.get(2)?, &[3]));
            let b = body.op("Mul", &[&k, &v]);
            let of = Recurrence {
                a: &a,
                b: &b,
                h0: x.find(7),
                constant,
                len,
                reverse: op.reverse,
                dtype,
                rank: 5,
            };
            let mut results = recurrence(body, &of)?;
            let scale = body.scalar(dtype, op.scale.get());
            let q = body.op("Mul", &[x.get(0)?, &scale]);
            results[0] = body.op("MatMul", &[&q, &results[0]]);
            Ok(results)
        })
    }

    pub(super) fn ssd(&mut self, node: &Node, op: &Ssd) -> Result<Vec<Name>, String> {
        check(node, op.discretization, op.read_out)?;
        let (len, dtype) = (self.len(node), self.ty(node.results[0]).dtype);
        let last = self.is_used(node.results[1]);
        self.call(node, |body, x| {
            let dt = step_size(body, x, op.dt_softplus, op.dt_min.get(), op.dt_max.get(), dtype)?;
            let decay = body.op("Mul", &[&dt, x.get(2)?]);
            let dt = body.unsqueeze(&dt, &[-1]);
            let input = body.op("Mul", &[&dt, x.get(0)?]);
            let of = Heads {
                input: &input,
                decay: &decay,
                b: x.get(3)?,
                c: x.get(4)?,
                h0: x.find(8),
                dtype,
                last,
            };
            let mut results = match len {
                Some(len) if len <= BLOCK && !op.reverse => block(body, &of, len),
                _ => steps(body, &of, len, op.reverse)?,
            };
            results[0] = finish(body, x, &results[0])?;
            Ok(results)
        })
    }
}

fn check(node: &Node, discretization: Discretization, read_out: ReadOut) -> Result<(), String> {
    if node.operands[9..].iter().any(Option::is_some) {
        return Err("packed sequences and slots".to_owned());
    }
    if read_out == ReadOut::Before {
        return Err("a read-out before the update".to_owned());
    }
    exp_euler(discretization)
}

fn exp_euler(discretization: Discretization) -> Result<(), String> {
    if discretization == Discretization::ExpEuler {
        return Ok(());
    }
    Err(format!("discretization {discretization:?}"))
}

/// The longest sequence of complex numbers or weighted means whose steps are written out.
pub(super) const UNROLLED: usize = 160;

/// The two parts of a complex recurrence, one name for each step.
struct Rotation<'a> {
    a: [&'a [Name]; 2],
    b: [&'a [Name]; 2],
}

impl Rotation<'_> {
    /// All states and the last one, real parts before imaginary ones.
    fn steps(&self, body: &mut Body, start: Option<[Name; 2]>, reverse: bool) -> Vec<Name> {
        let len = self.b[0].len();
        let order: Vec<usize> = if reverse { (0..len).rev().collect() } else { (0..len).collect() };
        let mut states = [vec![Name::new(); len], vec![Name::new(); len]];
        let mut state = start;
        for t in order {
            let next = match &state {
                Some([re, im]) => [self.part(body, t, 0, re, im), self.part(body, t, 1, im, re)],
                None => [self.b[0][t].clone(), self.b[1][t].clone()],
            };
            for (all, part) in states.iter_mut().zip(&next) {
                all[t].clone_from(part);
            }
            state = Some(next);
        }
        let [re, im] = state.unwrap_or_default();
        let last = [body.squeeze(&re, &[1]), body.squeeze(&im, &[1])];
        let whole = |body: &mut Body, all: &[Name]| match all {
            // One state is its own sequence; a result must have a node of its own.
            [only] => body.op("Identity", &[only]),
            _ => body.concat(all, 1),
        };
        let [re, im] = [whole(body, &states[0]), whole(body, &states[1])];
        let [last_re, last_im] = last;
        vec![re, im, last_re, last_im]
    }

    /// a_re * own -+ a_im * other + b
    fn part(&self, body: &mut Body, t: usize, part: usize, own: &str, other: &str) -> Name {
        let kept = body.op("Mul", &[&self.a[0][t], own]);
        let turned = body.op("Mul", &[&self.a[1][t], other]);
        let sum = body.op(if part == 0 { "Sub" } else { "Add" }, &[&kept, &turned]);
        body.op("Add", &[&sum, &self.b[part][t]])
    }
}

/// clamp(softplus?(dt + dt_bias))
pub(super) fn step_size(
    body: &mut Body,
    x: &Formals,
    softplus: bool,
    min: f64,
    max: f64,
    dtype: DType,
) -> Result<Name, String> {
    let mut dt = x.get(1)?.to_owned();
    if let Some(bias) = x.find(7) {
        dt = body.op("Add", &[&dt, bias]);
    }
    if softplus {
        dt = body.op("Softplus", &[&dt]);
    }
    if min.is_finite() || max.is_finite() {
        let bound =
            |body: &mut Body, v: f64| if v.is_finite() { body.scalar(dtype, v) } else { String::new() };
        let (low, high) = (bound(body, min), bound(body, max));
        dt = body.op("Clip", &[&dt, &low, &high]);
    }
    Ok(dt)
}

/// The skip and the gate: (y + d*x) * silu(z).
pub(super) fn finish(body: &mut Body, x: &Formals, y: &str) -> Result<Name, String> {
    let mut y = y.to_owned();
    if let Some(d) = x.find(5) {
        let skip = body.op("Mul", &[x.get(0)?, d]);
        y = body.op("Add", &[&y, &skip]);
    }
    if let Some(z) = x.find(6) {
        let gate = body.silu(z);
        y = body.op("Mul", &[&y, &gate]);
    }
    Ok(y)
}

/// A scan with one decay per head: `input` is dt*x of `[B,L,G,R,P]`, `decay` is dt*a of `[B,L,G,R]`.
struct Heads<'a> {
    input: &'a str,
    decay: &'a str,
    b: &'a str,
    c: &'a str,
    h0: Option<&'a str>,
    dtype: DType,
    last: bool,
}

/// All steps at once: (exp(segment sums of the decays) * (c b^T)) (dt*x), Dao & Gu 2024.
fn block(body: &mut Body, of: &Heads<'_>, len: i64) -> Vec<Name> {
    let axis = body.scalar(DType::I64, 3.0);
    // Heads before time.
    let decay = body.transpose(of.decay, &[0, 2, 3, 1]);
    let sums = body.op("CumSum", &[&decay, &axis]);
    let (rows, columns) = (body.unsqueeze(&sums, &[4]), body.unsqueeze(&sums, &[3]));
    let segments = body.op("Sub", &[&rows, &columns]);
    let mask: Vec<u8> = (0..len * len).map(|i| u8::from(i % len <= i / len)).collect();
    let mask = body.constant(DType::Bool, &[len, len], mask);
    let never = body.scalar(of.dtype, f64::NEG_INFINITY);
    let segments = body.op("Where", &[&mask, &segments, &never]);
    let decays = body.op("Exp", &[&segments]);
    let c = body.transpose(of.c, &[0, 2, 1, 3]);
    let b = body.transpose(of.b, &[0, 2, 3, 1]);
    let scores = body.op("MatMul", &[&c, &b]);
    let scores = body.unsqueeze(&scores, &[2]);
    let weights = body.op("Mul", &[&decays, &scores]);
    let input = body.transpose(of.input, &[0, 2, 3, 1, 4]);
    let mut y = body.op("MatMul", &[&weights, &input]);
    if let Some(h0) = of.h0 {
        let h0 = body.transpose(h0, &[0, 1, 2, 4, 3]);
        let c = body.unsqueeze(&c, &[2]);
        let from_start = body.op("MatMul", &[&c, &h0]);
        let kept = body.op("Exp", &[&rows]);
        let from_start = body.op("Mul", &[&kept, &from_start]);
        y = body.op("Add", &[&y, &from_start]);
    }
    let y = body.transpose(&y, &[0, 3, 1, 2, 4]);
    if !of.last {
        return vec![y];
    }
    let total = body.slice(&sums, 3, len - 1, len);
    let rest = body.op("Sub", &[&total, &sums]);
    let rest = body.op("Exp", &[&rest]);
    let rest = body.unsqueeze(&rest, &[3]);
    let input = body.transpose(of.input, &[0, 2, 3, 4, 1]);
    let weighted = body.op("Mul", &[&input, &rest]);
    let b = body.transpose(of.b, &[0, 2, 1, 3]);
    let b = body.unsqueeze(&b, &[2]);
    let mut last = body.op("MatMul", &[&weighted, &b]);
    if let Some(h0) = of.h0 {
        let kept = body.op("Exp", &[&total]);
        let kept = body.unsqueeze(&kept, &[4]);
        let kept = body.op("Mul", &[&kept, h0]);
        last = body.op("Add", &[&last, &kept]);
    }
    vec![y, last]
}

/// One step after the other.
fn steps(body: &mut Body, of: &Heads<'_>, len: Option<i64>, reverse: bool) -> Result<Vec<Name>, String> {
    let decay = body.op("Exp", &[of.decay]);
    let a = body.unsqueeze(&decay, &[4, 5]);
    let input = body.unsqueeze(of.input, &[5]);
    let b = body.unsqueeze(of.b, &[3, 4]);
    let b = body.op("Mul", &[&input, &b]);
    let recur =
        Recurrence { a: &a, b: &b, h0: of.h0, constant: false, len, reverse, dtype: of.dtype, rank: 6 };
    let mut results = recurrence(body, &recur)?;
    let c = body.unsqueeze(of.c, &[3, 5]);
    let y = body.op("MatMul", &[&results[0], &c]);
    results[0] = body.squeeze(&y, &[5]);
    Ok(results)
}
