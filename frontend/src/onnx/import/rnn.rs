//! `RNN`, `GRU` and `LSTM`, as loops over the sequence.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use ssmc_ir::ops::{self, BinaryFn, Cmp, UnaryFn};
use ssmc_ir::{DType, Dim, Shape, TensorType};

/// Which cell, by its number of gates and states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Rnn,
    Gru,
    Lstm,
}

impl Cell {
    fn gates(self) -> i64 {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// Activations of one direction.
    fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru => &["Sigmoid", "Tanh"],
            Self::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// Weights of one direction, in the region around the loop.
struct Weights {
    input: Val,
    recurrent: Val,
    /// Of the input and of the recurrence, both.
    bias: Option<(Val, Val)>,
    peephole: Option<Val>,
}

/// What the body of the loop sees of a direction.
struct Step {
    cell: Cell,
    hidden: Dim,
    activations: Vec<String>,
    clip: Option<f32>,
    linear_before_reset: bool,
    input_forget: bool,
}

/// Part `i` of `n` equal parts along an axis.
fn part(c: &mut Ctx<'_, '_>, x: Val, axis: usize, i: i64, len: &Dim) -> Result<Val, Fault> {
    let start = super::super::shape::mul(len, &Dim::from(i)).ok_or(super::super::shape::OVERFLOW)?;
    c.slice(x, axis, start, len.clone(), 1)
}

/// One element of the first axis, which disappears.
fn nth(c: &mut Ctx<'_, '_>, x: Val, i: usize) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let row = c.slice(x, 0, Dim::from(i as i64), Dim::from(1), 1)?;
    c.reshape(row, &dims[1..])
}

impl Step {
    fn activate(&self, c: &mut Ctx<'_, '_>, i: usize, x: Val) -> Result<Val, Fault> {
        let mut x = x;
        if let Some(clip) = self.clip {
            x = c.clamp(x, -f64::from(clip), clip.into())?;
        }
        match self.activations[i].to_ascii_lowercase().as_str() {
            "sigmoid" => c.unary(UnaryFn::Sigmoid, x),
            "tanh" => c.unary(UnaryFn::Tanh, x),
            "relu" => c.unary(UnaryFn::Relu, x),
            "softplus" => c.unary(UnaryFn::Softplus, x),
            other => Err(Fault::Unsupported(format!("the activation {other} of a recurrent cell"))),
        }
    }

    /// `gates` is `x W' + b`, of all gates; gives the new states.
    fn apply(&self, c: &mut Ctx<'_, '_>, gates: Val, states: &[Val], w: &Weights) -> Result<Vec<Val>, Fault> {
        let h = states[0];
        if self.cell == Cell::Gru {
            return Ok(vec![self.gru(c, gates, h, w)?]);
        }
        let product = c.product("bh,gh->bg", &[h, w.recurrent])?;
        let mut all = c.binary(BinaryFn::Add, gates, product)?;
        if let Some((_, bias)) = w.bias {
            all = c.binary(BinaryFn::Add, all, bias)?;
        }
        if self.cell == Cell::Rnn {
            return Ok(vec![self.activate(c, 0, all)?]);
        }
        // Gates in the order input, output, forget, cell; peepholes input, output, forget.
        let cell = states[1];
        let mut gate = Vec::new();
        for i in 0..4 {
            gate.push(part(c, all, 1, i, &self.hidden)?);
        }
        let peek = |c: &mut Ctx<'_, '_>, x: Val, i: i64, cell: Val| match w.peephole {
            Some(p) => {
                let p = part(c, p, 0, i, &self.hidden)?;
                let seen = c.binary(BinaryFn::Mul, cell, p)?;
                c.binary(BinaryFn::Add, x, seen)
            }
            None => Ok(x),
        };
        let input = peek(c, gate[0], 0, cell)?;
        let input = self.activate(c, 0, input)?;
        let forget = if self.input_forget {
            let minus = c.unary(UnaryFn::Neg, input)?;
            c.binary_scalar(BinaryFn::Add, minus, 1.0)?
        } else {
            let forget = peek(c, gate[2], 2, cell)?;
            self.activate(c, 0, forget)?
        };
        let new = self.activate(c, 1, gate[3])?;
        let (kept, added) = (c.binary(BinaryFn::Mul, forget, cell)?, c.binary(BinaryFn::Mul, input, new)?);
        let cell = c.binary(BinaryFn::Add, kept, added)?;
        let output = peek(c, gate[1], 1, cell)?;
        let output = self.activate(c, 0, output)?;
        let shown = self.activate(c, 2, cell)?;
        Ok(vec![c.binary(BinaryFn::Mul, output, shown)?, cell])
    }

    /// Gates in the order update, reset, hidden.
    fn gru(&self, c: &mut Ctx<'_, '_>, gates: Val, h: Val, w: &Weights) -> Result<Val, Fault> {
        let n = &self.hidden;
        let recurrent = |c: &mut Ctx<'_, '_>, h: Val, i: i64| {
            let r = part(c, w.recurrent, 0, i, n)?;
            let y = c.product("bh,gh->bg", &[h, r])?;
            match w.bias {
                Some((_, bias)) => {
                    let bias = part(c, bias, 0, i, n)?;
                    c.binary(BinaryFn::Add, y, bias)
                }
                None => Ok(y),
            }
        };
        let mut gate = Vec::new();
        for i in 0..2 {
            let (x, y) = (part(c, gates, 1, i, n)?, recurrent(c, h, i)?);
            let sum = c.binary(BinaryFn::Add, x, y)?;
            gate.push(self.activate(c, 0, sum)?);
        }
        let inner = if self.linear_before_reset {
            let y = recurrent(c, h, 2)?;
            c.binary(BinaryFn::Mul, gate[1], y)?
        } else {
            let reset = c.binary(BinaryFn::Mul, gate[1], h)?;
            recurrent(c, reset, 2)?
        };
        let x = part(c, gates, 1, 2, n)?;
        let sum = c.binary(BinaryFn::Add, x, inner)?;
        let new = self.activate(c, 1, sum)?;
        // (1 - z) new + z h
        let difference = c.binary(BinaryFn::Sub, h, new)?;
        let moved = c.binary(BinaryFn::Mul, gate[0], difference)?;
        c.binary(BinaryFn::Add, new, moved)
    }
}

/// One direction over `x` `[T, B, I]`; gives all hidden states `[T, B, H]` and the last states.
fn direction(
    c: &mut Ctx<'_, '_>,
    step: &Step,
    x: Val,
    w: &Weights,
    starts: &[Val],
    (lengths, reverse): (Option<Val>, bool),
) -> Imported<Vec<Val>> {
    let gates = c.product("tbi,gi->tbg", &[x, w.input])?;
    let gates = match w.bias {
        Some((bias, _)) => c.binary(BinaryFn::Add, gates, bias)?,
        None => gates,
    };
    let trips = c.ty(x).shape[0].clone();
    let state_ty = c.ty(starts[0]).clone();
    let slice_ty = c.ty(gates).with_shape(c.dims(gates)[1..].to_vec());
    c.imp.open_region("body");
    let built = body(c, step, w, (&state_ty, &slice_ty), starts.len(), (lengths, &trips, reverse));
    let (graph, captures) = c.imp.close_region();
    built?;
    let op = ops::Loop {
        n_carried: starts.len(),
        scan_axes: vec![0],
        scan_reverse: vec![reverse],
        stack_axes: vec![0],
        stack_reverse: vec![reverse],
        trip_count: trips,
    };
    let operands: Vec<Option<Val>> =
        starts.iter().copied().chain([gates]).chain(captures).map(Some).collect();
    let results = c.emit_all(op, &operands, vec![graph])?;
    let (states, all) = results.split_at(starts.len());
    Ok([all, states].concat())
}

fn body(
    c: &mut Ctx<'_, '_>,
    step: &Step,
    w: &Weights,
    (state_ty, slice_ty): (&TensorType, &TensorType),
    n_states: usize,
    (lengths, trips, reverse): (Option<Val>, &Dim, bool),
) -> Result<(), Fault> {
    let number = c.imp.region_input("iteration", TensorType::new(DType::I64, Shape::scalar()));
    let states: Vec<Val> =
        (0..n_states).map(|i| c.imp.region_input(&format!("state_{i}"), state_ty.clone())).collect();
    let gates = c.imp.region_input("gates", slice_ty.clone());
    let mut new = step.apply(c, gates, &states, w)?;
    let mut shown = new[0];
    if let Some(lengths) = lengths {
        // Past the end of a sequence its states stay and it shows zeros.
        let mut t = number;
        if reverse {
            let last = c.dim_add(trips, -1)?;
            let last = c.extent(&last, DType::I64)?;
            t = c.binary(BinaryFn::Sub, last, number)?;
        }
        let lengths = c.cast(lengths, DType::I64)?;
        let lengths = c.along(lengths, 0, 2)?;
        let is_inside = c.compare(Cmp::Lt, t, lengths)?;
        let zero = c.scalar(state_ty.dtype, 0.0)?;
        shown = c.select(is_inside, shown, zero)?;
        for (new, old) in new.iter_mut().zip(&states) {
            *new = c.select(is_inside, *new, *old)?;
        }
    }
    let outputs: Vec<(String, Val)> =
        new.into_iter().chain([shown]).enumerate().map(|(i, v)| (format!("out_{i}"), v)).collect();
    c.imp.region_outputs(&outputs)
}

/// `RNN`, `GRU`, `LSTM`.
pub(crate) fn recurrent(c: &mut Ctx<'_, '_>, cell: Cell) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["hidden_size", "activation_alpha", "activation_beta", "output_sequence"]);
    let (mut x, w, r) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let batch_first = c.attrs.flag("layout", false)?;
    let directions: &[bool] = match c.attrs.string_or("direction", "forward")? {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => {
            let expected = "forward, reverse or bidirectional";
            return Err(c.attrs.wrong("direction", expected, format!("{other:?}")).into());
        }
    };
    if c.rank(x) != 3 || c.rank(w) != 3 || c.rank(r) != 3 {
        return Err(c.expected(0, "3 axes in all operands").into());
    }
    if batch_first {
        x = c.transpose(x, &[1, 0, 2])?;
    }
    let hidden = c.dims(r)[2].clone();
    let batch = c.dims(x)[1].clone();
    let n_states = if cell == Cell::Lstm { 2 } else { 1 };
    let given = c.attrs.strings("activations")?.unwrap_or_default();
    let defaults = cell.activations();
    let (mut all, mut last) = (Vec::new(), vec![Vec::new(); n_states]);
    for (d, reverse) in directions.iter().copied().enumerate() {
        let named =
            |i: usize| given.get(d * defaults.len() + i).cloned().unwrap_or_else(|| defaults[i].into());
        let step = Step {
            cell,
            hidden: hidden.clone(),
            activations: (0..defaults.len()).map(named).collect(),
            clip: c.attrs.float("clip")?,
            linear_before_reset: cell == Cell::Gru && c.attrs.flag("linear_before_reset", false)?,
            input_forget: cell == Cell::Lstm && c.attrs.flag("input_forget", false)?,
        };
        let bias = match c.opt(3) {
            Some(bias) => {
                let bias = nth(c, bias, d)?;
                let half = super::super::shape::mul(&hidden, &Dim::from(cell.gates()))
                    .ok_or(super::super::shape::OVERFLOW)?;
                Some((part(c, bias, 0, 0, &half)?, part(c, bias, 0, 1, &half)?))
            }
            None => None,
        };
        let peephole = match c.opt(7) {
            Some(p) if cell == Cell::Lstm => Some(nth(c, p, d)?),
            _ => None,
        };
        let weights = Weights { input: nth(c, w, d)?, recurrent: nth(c, r, d)?, bias, peephole };
        let mut starts = Vec::new();
        for i in 0..n_states {
            starts.push(match c.opt(5 + i) {
                Some(h) => {
                    let h = if batch_first { c.transpose(h, &[1, 0, 2])? } else { h };
                    nth(c, h, d)?
                }
                None => {
                    let zero = c.scalar(c.dtype(x), 0.0)?;
                    c.broadcast_to(zero, &[batch.clone(), hidden.clone()])?
                }
            });
        }
        let results = direction(c, &step, x, &weights, &starts, (c.opt(4), reverse))?;
        // [T, B, H] to [T, 1, B, H], states to [1, B, H].
        let mut dims = c.dims(results[0]);
        dims.insert(1, Dim::from(1));
        all.push(c.reshape(results[0], &dims)?);
        for (i, state) in results[1..].iter().enumerate() {
            last[i].push(c.reshape(*state, &[Dim::from(1), batch.clone(), hidden.clone()])?);
        }
    }
    let mut y = c.concat(&all, 1)?;
    if batch_first {
        y = c.transpose(y, &[2, 0, 1, 3])?;
    }
    let mut outputs = vec![y];
    for parts in last {
        let state = c.concat(&parts, 0)?;
        outputs.push(if batch_first { c.transpose(state, &[1, 0, 2])? } else { state });
    }
    Ok(outputs)
}
