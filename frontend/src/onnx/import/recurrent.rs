//! Operators that are recurrences already: `LinearAttention`, `CausalConvWithState`.
//!
//! Both exist in the standard domain (opset 27) and, with a few more features, in `com.microsoft`. Axes of heads are
//! packed into the last axis; recurrences run in f32 at least.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use ssmc_ir::ops::{Activation, BinaryFn, CausalConv1d, LinearAttention, UnaryFn};
use ssmc_ir::{DType, Dim};

/// A positive number of heads.
fn heads(c: &Ctx<'_, '_>, name: &'static str) -> Result<i64, Fault> {
    let n = c.attrs.int(name)?.ok_or(Fault::MissingAttribute { name })?;
    if (1..=1 << 31).contains(&n) { Ok(n) } else { Err(c.attrs.wrong(name, "a positive number", n)) }
}

/// A feature of the vendor's form that changes the shape of the state.
fn no_state_window(c: &Ctx<'_, '_>) -> Result<(), Fault> {
    match c.attrs.int_or("state_window", 0)? {
        0 => Ok(()),
        n => Err(Fault::Unsupported(format!("a window of {n} states"))),
    }
}

/// An input with this many axes.
fn ranked(c: &Ctx<'_, '_>, idx: usize, rank: usize) -> Result<Val, Fault> {
    let v = c.input(idx)?;
    if c.rank(v) == rank {
        return Ok(v);
    }
    Err(Fault::Input { idx, expected: format!("{rank} axes"), found: c.ty(v).to_string() })
}

/// The extent of each of `n` heads that are packed into the last axis of an input.
fn per_head(c: &Ctx<'_, '_>, idx: usize, n: i64) -> Result<Dim, Fault> {
    let v = c.input(idx)?;
    let last = c.dims(v).pop().unwrap_or_else(|| Dim::from(1));
    let expected = format!("a multiple of {n} on the last axis");
    last.div_exact(&Dim::from(n)).ok_or_else(|| Fault::Input { idx, expected, found: c.ty(v).to_string() })
}

/// An input in the type that the recurrence is computed in, with its last axis taken apart.
fn unpacked(c: &mut Ctx<'_, '_>, idx: usize, wide: DType, last: &[&Dim]) -> Result<Val, Fault> {
    let v = ranked(c, idx, 3)?;
    let dims: Vec<Dim> = c.dims(v)[..2].iter().chain(last.iter().copied()).cloned().collect();
    let v = c.reshape(v, &dims)?;
    c.cast(v, wide)
}

/// What a rule needs beside queries, keys and values: (decay, beta).
pub(super) fn inputs_of_rule(c: &Ctx<'_, '_>) -> Result<(bool, bool), Fault> {
    let rule = c.attrs.string_or("update_rule", "gated_delta")?;
    let needed = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => {
            let expected = "linear, gated, delta or gated_delta";
            return Err(c.attrs.wrong("update_rule", expected, format!("{other:?}")));
        }
    };
    for (idx, is_needed) in [(4, needed.0), (5, needed.1)] {
        match (c.opt(idx), is_needed) {
            (None, true) => return Err(Fault::MissingInput { idx }),
            (Some(v), false) => {
                let (expected, found) = (format!("none with update_rule {rule:?}"), c.ty(v).to_string());
                return Err(Fault::Input { idx, expected, found });
            }
            _ => {}
        }
    }
    Ok(needed)
}

/// `LinearAttention`: one matrix-state scan.
pub(crate) fn linear_attention(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(6)?;
    c.attrs.ignore(&["chunk_size"]);
    no_state_window(c)?;
    let (n_q, n_kv) = (heads(c, "q_num_heads")?, heads(c, "kv_num_heads")?);
    // In the vendor's form states may share a query.
    if n_q % n_kv != 0 && n_kv % n_q != 0 {
        let reason = format!("{n_q} query heads for {n_kv} states");
        return Err(Fault::Unsupported(reason).into());
    }
    let (has_decay, has_beta) = inputs_of_rule(c)?;
    let q = ranked(c, 0, 3)?;
    let narrow = c.dtype(q);
    let wide = if narrow == DType::F64 { DType::F64 } else { DType::F32 };
    let (batch, len) = (c.dims(q)[0].clone(), c.dims(q)[1].clone());
    let (keys, values) = (per_head(c, 0, n_q)?, per_head(c, 2, n_kv)?);
    let (one, kv, group) = (Dim::from(1), Dim::from(n_kv), Dim::from((n_q / n_kv).max(1)));
    let q = if n_q < n_kv {
        let q = of_heads(c, 0, wide, (n_kv, &keys))?;
        c.reshape(q, &[batch.clone(), len.clone(), kv.clone(), one.clone(), keys.clone()])?
    } else {
        unpacked(c, 0, wide, &[&kv, &group, &keys])?
    };
    let k = of_heads(c, 1, wide, (n_kv, &keys))?;
    let v = unpacked(c, 2, wide, &[&kv, &values])?;
    let h0 = match c.opt(3) {
        None => None,
        Some(h0) => Some(c.cast(h0, wide)?),
    };
    let state_dtype = c.opt(3).map_or(narrow, |h0| c.dtype(h0));
    let decay = match has_decay {
        false => None,
        true if per_head(c, 4, n_kv)? == one => Some(unpacked(c, 4, wide, &[&kv, &one])?),
        true => Some(unpacked(c, 4, wide, &[&kv, &keys])?),
    };
    let beta = match has_beta {
        false => None,
        true => {
            let beta = ranked(c, 5, 3)?;
            let beta = c.cast(beta, wide)?;
            Some(c.broadcast_to(beta, &[batch.clone(), len.clone(), kv.clone()])?)
        }
    };
    let scale = read_out_scale(c, &keys)?;
    let op = LinearAttention { scale: scale.into(), ..LinearAttention::default() };
    let operands = [Some(q), Some(k), Some(v), decay, beta, None, None, h0, None, None];
    let results = c.emit_all(op, &operands, Vec::new())?;
    let y = c.reshape(results[0], &[batch, len, Dim::from(n_q.max(n_kv)) * &values])?;
    Ok(vec![c.cast(y, narrow)?, c.cast(results[1], state_dtype)?])
}

/// The keys (or queries) of every head that has a state; in the vendor's form several heads may share one.
fn of_heads(c: &mut Ctx<'_, '_>, idx: usize, wide: DType, (n_kv, keys): (i64, &Dim)) -> Result<Val, Fault> {
    let k = ranked(c, idx, 3)?;
    let found = c.ty(k).to_string();
    let dims = c.dims(k);
    let n_k = dims[2].div_exact(keys).and_then(|n| n.as_const());
    let Some(n_k) = n_k.filter(|n| *n > 0 && n_kv % n == 0) else {
        let expected = format!("heads of {keys} on the last axis, as many as divide {n_kv}");
        return Err(Fault::Input { idx, expected, found });
    };
    let k = unpacked(c, idx, wide, &[&Dim::from(n_k), keys])?;
    shared_heads(c, k, n_kv / n_k)
}

/// `[batch, length, heads, extent]` with each head repeated for so many states.
pub(super) fn shared_heads(c: &mut Ctx<'_, '_>, x: Val, n: i64) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let [batch, len, heads, extent] = &dims[..] else {
        return Err(Fault::Ir("heads of another rank".into()));
    };
    let apart = [batch, len, heads, &Dim::from(1), extent].map(Dim::clone);
    let repeated = [batch, len, heads, &Dim::from(n), extent].map(Dim::clone);
    let joined = [batch.clone(), len.clone(), heads.clone() * n, extent.clone()];
    let x = c.reshape(x, &apart)?;
    let x = c.broadcast_to(x, &repeated)?;
    c.reshape(x, &joined)
}

/// The scale of read-outs: that of the attribute, or 1 / sqrt(keys).
pub(super) fn read_out_scale(c: &Ctx<'_, '_>, keys: &Dim) -> Result<f64, Fault> {
    match c.attrs.float_or("scale", 0.0)? {
        0.0 => {
            let n = keys.as_const().ok_or_else(|| Fault::Unproven(format!("{keys} keys are constant")))?;
            // In f32, as the definition of the operator computes it.
            Ok(f64::from(1.0 / (n as f32).sqrt()))
        }
        scale => Ok(f64::from(scale)),
    }
}

/// `CausalConvWithState`: one short causal convolution, channels first.
pub(crate) fn causal_conv_with_state(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(4)?;
    no_state_window(c)?;
    match c.attrs.int_or("ndim", 1)? {
        1 => {}
        n => return Err(Fault::Unsupported(format!("a causal convolution over {n} axes")).into()),
    }
    let last = c.attrs.flag("channels_last", false)?;
    let x = if last { c.input(0)? } else { ranked(c, 0, 3)? };
    let w = taps(c)?;
    let dims = c.dims(x);
    if dims.len() < 3 {
        return Err(c.expected(0, "at least 3 axes").into());
    }
    let joined = [dims[0].clone(), dims[1].clone(), shape::product(&dims[2..])?];
    let (bias, state) = (c.opt(2), c.opt(3));
    let state = match state {
        None => None,
        Some(state) if last => {
            let of_state = c.dims(state);
            let len = of_state.get(1).cloned().ok_or_else(|| c.expected(3, "the axes of input 0"))?;
            Some(c.reshape(state, &[joined[0].clone(), len, joined[2].clone()])?)
        }
        Some(_) => {
            let state = ranked(c, 3, 3)?;
            Some(c.transpose(state, &[0, 2, 1])?)
        }
    };
    let sequence = if last { c.reshape(x, &joined)? } else { c.transpose(x, &[0, 2, 1])? };
    let op = CausalConv1d { activation: Activation::None };
    let results = c.emit_all(op, &[Some(sequence), Some(w), bias, state, None], Vec::new())?;
    let y = activated(c, results[0])?;
    if last {
        let mut of_state = dims.clone();
        of_state[1] = c.dims(results[1])[1].clone();
        return Ok(vec![c.reshape(y, &dims)?, c.reshape(results[1], &of_state)?]);
    }
    Ok(vec![c.transpose(y, &[0, 2, 1])?, c.transpose(results[1], &[0, 2, 1])?])
}

/// The taps of every channel, which are input 1; those between the given ones are zeros where they are dilated.
pub(super) fn taps(c: &mut Ctx<'_, '_>) -> Result<Val, Fault> {
    let w = ranked(c, 1, 3)?;
    let dims = c.dims(w);
    if !dims[1].is(1) {
        return Err(c.expected(1, "1 on axis 1"));
    }
    let (channels, n) = (dims[0].clone(), dims[2].clone());
    let dilation = c.attrs.int_or("dilation", 1)?;
    if !(1..=1 << 31).contains(&dilation) {
        return Err(c.attrs.wrong("dilation", "a positive number", dilation));
    }
    if dilation == 1 {
        return c.reshape(w, &[channels, n]);
    }
    let w = c.reshape(w, &[channels.clone(), n.clone(), Dim::from(1)])?;
    let zero = c.scalar(c.dtype(w), 0.0)?;
    let w = c.pad(w, 2, Dim::from(0), Dim::from(dilation - 1), zero)?;
    let spread = shape::mul(&n, &Dim::from(dilation)).ok_or(shape::OVERFLOW)?;
    let w = c.reshape(w, &[channels, spread.clone()])?;
    c.slice(w, 1, Dim::from(0), spread - (dilation - 1), 1)
}

/// What the attribute `activation` makes of a convolution.
pub(super) fn activated(c: &mut Ctx<'_, '_>, y: Val) -> Result<Val, Fault> {
    match c.attrs.string_or("activation", "none")? {
        "none" => Ok(y),
        "silu" | "swish" => {
            let narrow = c.dtype(y);
            let wide = if narrow == DType::F64 { DType::F64 } else { DType::F32 };
            let y = c.cast(y, wide)?;
            let sigmoid = c.unary(UnaryFn::Sigmoid, y)?;
            let y = c.binary(BinaryFn::Mul, y, sigmoid)?;
            c.cast(y, narrow)
        }
        other => Err(c.attrs.wrong("activation", "none, silu or swish", format!("{other:?}"))),
    }
}
