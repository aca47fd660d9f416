//! Recurrences over tokens of several sequences put behind each other: `GatedDeltaNet` and `VarlenCausalConvWithState`.
//!
//! Where sequences begin is data, so that each is spread to the number of all tokens: a step behind the end of a
//! sequence changes no state. One sequence costs nothing by that.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use super::gated::log_decay;
use super::recurrent::{activated, inputs_of_rule, read_out_scale, shared_heads, taps};
use ssmc_ir::ops::{BinaryFn, Cmp, Gather, LinearAttention, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// What keys are normalized with so that zeros stay zeros.
const L2_EPSILON: f64 = 1e-12;

/// Sequences of a packed batch, by their ends.
struct Sequences {
    /// The first token of each, and the number of tokens: `i64[batch]`.
    starts: Val,
    lengths: Val,
    /// The sequence of each token: `i64[tokens]`.
    of_token: Val,
    batch: Dim,
    tokens: Dim,
}

impl Sequences {
    /// From the sums of lengths in an input: `int[batch + 1]`.
    fn of(c: &mut Ctx<'_, '_>, idx: usize, tokens: &Dim) -> Result<Self, Fault> {
        let sums = c.input(idx)?;
        let n = match &c.dims(sums)[..] {
            [n] if c.dtype(sums).is_int() => n.clone(),
            _ => return Err(c.expected(idx, "integers along 1 axis")),
        };
        let batch = shape::sub(&n, &Dim::from(1)).ok_or(shape::OVERFLOW)?;
        let sums = c.cast(sums, DType::I64)?;
        let starts = c.slice(sums, 0, Dim::from(0), batch.clone(), 1)?;
        let ends = c.slice(sums, 0, Dim::from(1), batch.clone(), 1)?;
        let lengths = c.binary(BinaryFn::Sub, ends, starts)?;
        // The number of sequences that end at a token or before it.
        let (ends, token) = (c.along(ends, 1, 2)?, c.count(tokens, DType::I64)?);
        let token = c.along(token, 0, 2)?;
        let is_past = c.compare(Cmp::Ge, token, ends)?;
        let is_past = c.cast(is_past, DType::I64)?;
        let of_token = c.reduce(ReduceFn::Sum, is_past, &[1], false)?;
        Ok(Self { starts, lengths, of_token, batch, tokens: tokens.clone() })
    }

    /// The place of each token within its sequence: `i64[tokens]`.
    fn places(&self, c: &mut Ctx<'_, '_>) -> Result<Val, Fault> {
        let token = c.count(&self.tokens, DType::I64)?;
        let start = c.emit(Gather { axis: 0 }, &[self.starts, self.of_token])?;
        c.binary(BinaryFn::Sub, token, start)
    }

    /// For each sequence and step, the token, or some token behind the end, and whether it is one: `[batch, tokens]`.
    fn steps(&self, c: &mut Ctx<'_, '_>) -> Result<(Val, Val), Fault> {
        let (starts, lengths) = (c.along(self.starts, 0, 2)?, c.along(self.lengths, 0, 2)?);
        let step = c.count(&self.tokens, DType::I64)?;
        let step = c.along(step, 1, 2)?;
        let token = c.binary(BinaryFn::Add, starts, step)?;
        let is_step = c.compare(Cmp::Lt, step, lengths)?;
        let zero = c.splat(0.0, token)?;
        Ok((c.select(is_step, token, zero)?, is_step))
    }

    /// `[tokens, ..]` from what each sequence has computed: `[batch, tokens, ..]`.
    fn packed(&self, c: &mut Ctx<'_, '_>, y: Val) -> Result<Val, Fault> {
        let dims = c.dims(y);
        let rows = shape::mul(&self.batch, &self.tokens).ok_or(shape::OVERFLOW)?;
        let flat: Vec<Dim> = [rows].into_iter().chain(dims[2..].iter().cloned()).collect();
        let flat = c.reshape(y, &flat)?;
        let width = c.extent(&self.tokens, DType::I64)?;
        let before = c.binary(BinaryFn::Mul, self.of_token, width)?;
        let places = self.places(c)?;
        let row = c.binary(BinaryFn::Add, before, places)?;
        c.emit(Gather { axis: 0 }, &[flat, row])
    }
}

/// `x` where a step belongs to its sequence, zeros behind the end. `is_step`: `[batch, steps]`.
fn within(c: &mut Ctx<'_, '_>, is_step: Val, x: Val) -> Result<Val, Fault> {
    let mut dims = c.dims(is_step);
    dims.resize(c.rank(x), Dim::from(1));
    let is_step = c.reshape(is_step, &dims)?;
    let zero = c.scalar(c.dtype(x), 0.0)?;
    c.select(is_step, x, zero)
}

/// Queries, keys and values, `[.., heads, extent]`, and where tokens lie: as inputs, or packed into one.
fn query_key_value(c: &mut Ctx<'_, '_>) -> Result<[Val; 3], Fault> {
    let query = c.input(0)?;
    match (c.opt(1), c.opt(2)) {
        (Some(key), Some(value)) => Ok([query, key, value]),
        (None, None) => {
            let state = c.opt(6).map(|state| c.dims(state)).unwrap_or_default();
            let [_, heads, values, keys] = &state[..] else {
                return Err(c.expected(6, "the state of packed queries, keys and values"));
            };
            let outer = c.dims(query);
            let Some((width, outer)) = outer.split_last() else { return Err(c.expected(0, "2 or 3 axes")) };
            let of_values = shape::mul(heads, values).ok_or(shape::OVERFLOW)?;
            let of_keys = shape::sub(width, &of_values).and_then(|n| n.div_exact(&Dim::from(2)));
            let n = of_keys.as_ref().and_then(|n| n.div_exact(keys));
            let (Some(of_keys), Some(n)) = (of_keys, n) else {
                return Err(c.expected(0, format!("heads of {keys}, {keys} and {values} on the last axis")));
            };
            let axis = outer.len();
            let parts = [
                (Dim::from(0), &of_keys, [&n, keys]),
                (of_keys.clone(), &of_keys, [&n, keys]),
                (of_keys.clone() * 2, &of_values, [heads, values]),
            ];
            let mut taken = Vec::new();
            for (start, len, last) in parts {
                let part = c.slice(query, axis, start, len.clone(), 1)?;
                let dims: Vec<Dim> = outer.iter().chain(last).cloned().collect();
                taken.push(c.reshape(part, &dims)?);
            }
            <[Val; 3]>::try_from(taken).map_err(|_| Fault::Ir("a part of three is missing".into()))
        }
        _ => Err(c.expected(1, "keys and values, or neither")),
    }
}

/// x / sqrt(sum of x^2) along the last axis.
fn normalized(c: &mut Ctx<'_, '_>, x: Val) -> Result<Val, Fault> {
    let last = c.rank(x) - 1;
    let square = c.binary(BinaryFn::Mul, x, x)?;
    let sum = c.reduce(ReduceFn::Sum, square, &[last], true)?;
    let sum = c.binary_scalar(BinaryFn::Add, sum, L2_EPSILON)?;
    let factor = c.unary(UnaryFn::Rsqrt, sum)?;
    c.binary(BinaryFn::Mul, x, factor)
}

/// The logarithms of decays and the rates of updates, in f32.
fn gates(c: &mut Ctx<'_, '_>) -> Result<(Option<Val>, Option<Val>), Fault> {
    let (has_decay, has_beta) = inputs_of_rule(c)?;
    let is_raw = match c.attrs.string_or("gate_activation", "none")? {
        "none" => false,
        "qwen" => true,
        other => return Err(c.attrs.wrong("gate_activation", "none or qwen", format!("{other:?}"))),
    };
    for idx in [7, 8] {
        if c.opt(idx).is_some() && !(is_raw && has_decay) {
            return Err(c.expected(idx, "none without raw decays"));
        }
    }
    let decay = match (has_decay, is_raw) {
        (false, _) => None,
        (true, false) => {
            let decay = c.input(4)?;
            Some(c.cast(decay, DType::F32)?)
        }
        (true, true) => {
            let (decay, a_log, bias) = (c.input(4)?, c.input(7)?, c.input(8)?);
            let a = c.unary(UnaryFn::Exp, a_log)?;
            let scale = c.unary(UnaryFn::Neg, a)?;
            Some(log_decay(c, decay, bias, scale)?)
        }
    };
    let sigmoid = match c.attrs.string_or("beta_activation", "none")? {
        "none" => false,
        "sigmoid" => true,
        other => return Err(c.attrs.wrong("beta_activation", "none or sigmoid", format!("{other:?}"))),
    };
    let beta = match has_beta {
        false => None,
        true => {
            let beta = c.input(5)?;
            let beta = c.cast(beta, DType::F32)?;
            Some(if sigmoid { c.unary(UnaryFn::Sigmoid, beta)? } else { beta })
        }
    };
    Ok((decay, beta))
}

/// `GatedDeltaNet`: one matrix-state scan over sequences that are packed, or equally long.
pub(crate) fn gated_delta_net(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(11)?;
    c.attrs.ignore(&["chunk_size"]);
    no_captures(c)?;
    let narrow = c.dtype(c.input(0)?);
    let qkv = query_key_value(c)?;
    let outer = c.dims(qkv[2]);
    let (outer, [n_heads, values]) = match &outer[..] {
        [outer @ .., heads, values] if (1..=2).contains(&outer.len()) => {
            (outer.to_vec(), [heads.clone(), values.clone()])
        }
        _ => return Err(c.expected(2, "3 or 4 axes").into()),
    };
    let tokens = shape::product(&outer)?;
    let sequences = match c.opt(3) {
        None => None,
        Some(_) if outer.len() == 2 => return Err(c.expected(3, "none beside an axis of sequences").into()),
        Some(_) => Some(Sequences::of(c, 3, &tokens)?),
    };
    let batch = match (&sequences, &outer[..], c.opt(6)) {
        (Some(sequences), ..) => sequences.batch.clone(),
        (None, [batch, _], _) => batch.clone(),
        (None, _, Some(state)) => c.dims(state).first().cloned().unwrap_or_else(|| Dim::from(1)),
        (None, _, None) => return Err(Fault::MissingInput { idx: 6 }.into()),
    };
    let length = match &sequences {
        Some(_) => tokens.clone(),
        None => tokens
            .div_exact(&batch)
            .ok_or_else(|| Fault::Unproven(format!("{tokens} tokens are {batch} sequences of one length")))?,
    };
    let steps = match &sequences {
        Some(sequences) => Some(sequences.steps(c)?),
        None => None,
    };
    // [batch, length, heads, ..] with nothing behind the end of a sequence.
    let spread = |c: &mut Ctx<'_, '_>, x: Val| -> Result<Val, Fault> {
        let dims = c.dims(x);
        let inner = dims.get(outer.len()..).unwrap_or_default();
        if dims.get(..outer.len()) != Some(&outer[..]) {
            let (expected, found) = (format!("{tokens} tokens"), c.ty(x).to_string());
            return Err(Fault::Mismatch { what: "input".into(), expected, found });
        }
        let Some((token, is_step)) = steps else {
            let dims: Vec<Dim> = [&batch, &length].into_iter().chain(inner).cloned().collect();
            return c.reshape(x, &dims);
        };
        let x = c.emit(Gather { axis: 0 }, &[x, token])?;
        within(c, is_step, x)
    };
    let heads = n_heads.as_const().ok_or_else(|| Fault::Unproven(format!("{n_heads} heads are constant")))?;
    let is_normalized = c.attrs.flag("qk_l2_norm", false)?;
    let mut parts = Vec::new();
    for (i, part) in qkv.into_iter().enumerate() {
        let part = c.cast(part, DType::F32)?;
        let part = if i < 2 && is_normalized { normalized(c, part)? } else { part };
        let part = spread(c, part)?;
        let n = c.dims(part).get(2).and_then(Dim::as_const).filter(|n| *n > 0 && heads % n == 0);
        let (4, Some(n)) = (c.rank(part), n) else {
            return Err(c.expected(i, format!("as many heads as divide {heads}")).into());
        };
        parts.push(shared_heads(c, part, heads / n)?);
    }
    let (mut q, k, v) = (parts[0], parts[1], parts[2]);
    let keys = c.dims(q)[3].clone();
    let with_reads = [&batch, &length, &n_heads, &Dim::from(1), &keys].map(Dim::clone);
    q = c.reshape(q, &with_reads)?;
    let (decay, beta) = gates(c)?;
    let decay = match decay {
        None => None,
        Some(decay) => {
            let decay = spread(c, decay)?;
            let mut dims = c.dims(decay);
            dims.resize(4, Dim::from(1));
            Some(c.reshape(decay, &dims)?)
        }
    };
    let beta = beta.map(|beta| spread(c, beta)).transpose()?;
    let h0 = match c.opt(6) {
        None => None,
        Some(state) if c.rank(state) == 4 => Some(c.transpose(state, &[0, 1, 3, 2])?),
        Some(_) => return Err(c.expected(6, "4 axes").into()),
    };
    let op = LinearAttention { scale: read_out_scale(c, &keys)?.into(), ..LinearAttention::default() };
    let operands = [Some(q), Some(k), Some(v), decay, beta, None, None, h0, None, None];
    let results = c.emit_all(op, &operands, Vec::new())?;
    let mut y = match &sequences {
        Some(sequences) => sequences.packed(c, results[0])?,
        None => results[0],
    };
    let dims: Vec<Dim> = outer.iter().chain([&n_heads, &values]).cloned().collect();
    y = c.reshape(y, &dims)?;
    Ok(vec![c.cast(y, narrow)?, c.transpose(results[1], &[0, 1, 3, 2])?])
}

/// What lets a caller take tokens back is not supported.
fn no_captures(c: &Ctx<'_, '_>) -> Result<(), Fault> {
    match c.attrs.int_or("state_update_capacity", 0)? {
        0 => Ok(()),
        n => Err(Fault::Unsupported(format!("the transitions of {n} tokens as an output"))),
    }
}

/// `VarlenCausalConvWithState`: a short causal convolution over packed sequences, each with its own state.
pub(crate) fn varlen_causal_conv(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(6)?;
    no_captures(c)?;
    let (x, state) = (c.input(0)?, c.input(4)?);
    let w = taps(c)?;
    let [tokens, channels] = &c.dims(x)[..] else { return Err(c.expected(0, "2 axes").into()) };
    let n =
        c.dims(w)[1].as_const().ok_or_else(|| Fault::Unproven("the number of taps is constant".into()))?;
    let sequences = Sequences::of(c, 2, tokens)?;
    let columns = Dim::from(n - 1);
    if c.dims(state) != [sequences.batch.clone(), channels.clone(), columns.clone()] {
        return Err(c.expected(4, format!("[{}, {channels}, {columns}]", sequences.batch)).into());
    }
    // Rows: what lies before each sequence, n - 1 for each of them, then all tokens.
    let before = c.transpose(state, &[0, 2, 1])?;
    let n_before = shape::mul(&sequences.batch, &columns).ok_or(shape::OVERFLOW)?;
    let before = c.reshape(before, &[n_before.clone(), channels.clone()])?;
    let rows = c.concat(&[before, x], 0)?;
    let places = sequences.places(c)?;
    let of_token = sequences.of_token;
    let row_of_token = c.count(tokens, DType::I64)?;
    let mut y = None;
    for tap in 0..n {
        let back = (n - 1 - tap) as f64;
        let column = c.slice(w, 1, Dim::from(tap), Dim::from(1), 1)?;
        let column = c.reshape(column, std::slice::from_ref(channels))?;
        let place = c.binary_scalar(BinaryFn::Sub, places, back)?;
        let token = c.binary_scalar(BinaryFn::Sub, row_of_token, back)?;
        let row = sequences.row(c, (of_token, place, token), (n - 1, &n_before))?;
        let u = c.emit(Gather { axis: 0 }, &[rows, row])?;
        let part = c.binary(BinaryFn::Mul, u, column)?;
        y = Some(match y {
            Some(sum) => c.binary(BinaryFn::Add, sum, part)?,
            None => part,
        });
    }
    let mut y = y.ok_or_else(|| c.expected(1, "at least one tap"))?;
    if let Some(bias) = c.opt(3) {
        y = c.binary(BinaryFn::Add, y, bias)?;
    }
    let y = activated(c, y)?;
    // The last n - 1 rows of each sequence, with what lies before it.
    let column = c.count(&columns, DType::I64)?;
    let column = c.along(column, 1, 2)?;
    let column = c.binary_scalar(BinaryFn::Sub, column, (n - 1) as f64)?;
    let (lengths, starts) = (c.along(sequences.lengths, 0, 2)?, c.along(sequences.starts, 0, 2)?);
    let place = c.binary(BinaryFn::Add, lengths, column)?;
    let token = c.binary(BinaryFn::Add, place, starts)?;
    let of_row = c.count(&sequences.batch, DType::I64)?;
    let of_row = c.along(of_row, 0, 2)?;
    let row = sequences.row(c, (of_row, place, token), (n - 1, &n_before))?;
    let last = c.emit(Gather { axis: 0 }, &[rows, row])?;
    Ok(vec![y, c.transpose(last, &[0, 2, 1])?])
}

impl Sequences {
    /// The row of a token, or of what lies before its sequence if its place is negative; `n` rows before each.
    fn row(
        &self,
        c: &mut Ctx<'_, '_>,
        (sequence, place, token): (Val, Val, Val),
        (n, n_before): (i64, &Dim),
    ) -> Result<Val, Fault> {
        let first = c.binary_scalar(BinaryFn::Mul, sequence, n as f64)?;
        let end = c.binary_scalar(BinaryFn::Add, first, n as f64)?;
        let earlier = c.binary(BinaryFn::Add, end, place)?;
        let offset = c.extent(n_before, DType::I64)?;
        let own = c.binary(BinaryFn::Add, token, offset)?;
        let is_earlier = c.compare_scalar(Cmp::Lt, place, 0.0)?;
        c.select(is_earlier, earlier, own)
    }
}
