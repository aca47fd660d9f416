//! Operators that are recurrences already: `LinearAttention`, `CausalConvWithState`.
//!
//! Both exist in the standard domain (opset 27) and, with a few more features, in `com.microsoft`. Axes of heads are
//! packed into the last axis; recurrences run in f32 at least.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
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
fn inputs_of_rule(c: &Ctx<'_, '_>) -> Result<(bool, bool), Fault> {
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
    if n_q % n_kv != 0 {
        let reason = format!("{n_q} query heads for {n_kv} states");
        return Err(Fault::Unsupported(reason).into());
    }
    let (has_decay, has_beta) = inputs_of_rule(c)?;
    let q = ranked(c, 0, 3)?;
    let narrow = c.dtype(q);
    let wide = if narrow == DType::F64 { DType::F64 } else { DType::F32 };
    let (batch, len) = (c.dims(q)[0].clone(), c.dims(q)[1].clone());
    let (keys, values) = (per_head(c, 0, n_q)?, per_head(c, 2, n_kv)?);
    let (one, kv, group) = (Dim::from(1), Dim::from(n_kv), Dim::from(n_q / n_kv));
    let q = unpacked(c, 0, wide, &[&kv, &group, &keys])?;
    let k = keys_of_heads(c, wide, (n_kv, &keys))?;
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
    let scale = match c.attrs.float_or("scale", 0.0)? {
        0.0 => {
            let n = keys.as_const().ok_or_else(|| Fault::Unproven(format!("{keys} keys are constant")))?;
            // In f32, as the definition of the operator computes it.
            f64::from(1.0 / (n as f32).sqrt())
        }
        scale => f64::from(scale),
    };
    let op = LinearAttention { scale: scale.into(), ..LinearAttention::default() };
    let operands = [Some(q), Some(k), Some(v), decay, beta, None, None, h0, None, None];
    let results = c.emit_all(op, &operands, Vec::new())?;
    let y = c.reshape(results[0], &[batch, len, Dim::from(n_q) * &values])?;
    Ok(vec![c.cast(y, narrow)?, c.cast(results[1], state_dtype)?])
}

/// The keys of every head that has a state; in the vendor's form several heads may share one.
fn keys_of_heads(c: &mut Ctx<'_, '_>, wide: DType, (n_kv, keys): (i64, &Dim)) -> Result<Val, Fault> {
    let k = ranked(c, 1, 3)?;
    let found = c.ty(k).to_string();
    let dims = c.dims(k);
    let n_k = dims[2].div_exact(keys).and_then(|n| n.as_const());
    let Some(n_k) = n_k.filter(|n| *n > 0 && n_kv % n == 0) else {
        let expected = format!("heads of {keys} on the last axis, as many as divide {n_kv}");
        return Err(Fault::Input { idx: 1, expected, found });
    };
    if n_k == n_kv {
        return unpacked(c, 1, wide, &[&Dim::from(n_kv), keys]);
    }
    let (heads, shared) = (Dim::from(n_k), Dim::from(n_kv / n_k));
    let k = unpacked(c, 1, wide, &[&heads, &Dim::from(1), keys])?;
    let all = [dims[0].clone(), dims[1].clone(), heads, shared, keys.clone()];
    let k = c.broadcast_to(k, &all)?;
    c.reshape(k, &[dims[0].clone(), dims[1].clone(), Dim::from(n_kv), keys.clone()])
}

/// `CausalConvWithState`: one short causal convolution, channels first.
pub(crate) fn causal_conv_with_state(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.at_most_inputs(4)?;
    no_state_window(c)?;
    match c.attrs.int_or("ndim", 1)? {
        1 => {}
        n => return Err(Fault::Unsupported(format!("a causal convolution over {n} axes")).into()),
    }
    let (x, w) = (ranked(c, 0, 3)?, ranked(c, 1, 3)?);
    let dims = c.dims(w);
    if !dims[1].is(1) {
        let (expected, found) = ("1 on axis 1".into(), c.ty(w).to_string());
        return Err(Fault::Input { idx: 1, expected, found }.into());
    }
    let w = c.reshape(w, &[dims[0].clone(), dims[2].clone()])?;
    let (bias, state) = (c.opt(2), c.opt(3));
    let state = match state {
        None => None,
        Some(_) => {
            let state = ranked(c, 3, 3)?;
            Some(c.transpose(state, &[0, 2, 1])?)
        }
    };
    let sequence = c.transpose(x, &[0, 2, 1])?;
    let op = CausalConv1d { activation: Activation::None };
    let results = c.emit_all(op, &[Some(sequence), Some(w), bias, state, None], Vec::new())?;
    let y = match c.attrs.string_or("activation", "none")? {
        "none" => results[0],
        "silu" | "swish" => {
            let narrow = c.dtype(x);
            let wide = if narrow == DType::F64 { DType::F64 } else { DType::F32 };
            let y = c.cast(results[0], wide)?;
            let sigmoid = c.unary(UnaryFn::Sigmoid, y)?;
            let y = c.binary(BinaryFn::Mul, y, sigmoid)?;
            c.cast(y, narrow)?
        }
        other => return Err(c.attrs.wrong("activation", "none, silu or swish", format!("{other:?}")).into()),
    };
    Ok(vec![c.transpose(y, &[0, 2, 1])?, c.transpose(results[1], &[0, 2, 1])?])
}
