//! Attention and rotary position embedding.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use super::super::tensor;
use ssmc_ir::ops::{self, BinaryFn, Cmp, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// `[B, L, H*E]` as `[B, H, L, E]`.
fn heads(c: &mut Ctx<'_, '_>, x: Val, n: i64) -> Result<Val, Fault> {
    let dims = c.dims(x);
    let size = dims[2].div_exact(&Dim::from(n.max(1)));
    let size = size.ok_or_else(|| c.attrs.wrong("q_num_heads", format!("a divisor of {}", dims[2]), n))?;
    let split = c.reshape(x, &[dims[0].clone(), dims[1].clone(), Dim::from(n), size])?;
    c.transpose(split, &[0, 2, 1, 3])
}

fn count(c: &Ctx<'_, '_>, name: &'static str) -> Result<i64, Fault> {
    let n = c.attrs.int(name)?.ok_or(Fault::MissingAttribute { name })?;
    if n < 1 { Err(c.attrs.wrong(name, "a positive number", n)) } else { Ok(n) }
}

/// Additive form of a mask, with `-inf` on what is not seen past its end.
fn mask_bias(c: &mut Ctx<'_, '_>, mask: Val, total: &Dim, dtype: DType) -> Result<Val, Fault> {
    let minus_inf = c.scalar(dtype, f64::NEG_INFINITY)?;
    let mut bias = if c.dtype(mask) == DType::Bool {
        let zero = c.scalar(dtype, 0.0)?;
        c.select(mask, zero, minus_inf)?
    } else {
        c.cast(mask, dtype)?
    };
    let last = c.rank(bias).checked_sub(1).ok_or_else(|| c.expected(3, "at least 1 axis"))?;
    let width = c.dims(bias)[last].clone();
    if !width.is(1) || !total.is(1) {
        let missing = shape::sub(total, &width).ok_or(OVERFLOW)?;
        if missing.as_const().is_some_and(|n| n > 0) && !width.is(1) {
            bias = c.pad(bias, last, Dim::from(0), missing, minus_inf)?;
        }
    }
    Ok(bias)
}

/// How far to one side of itself a query sees keys; `None` if all the way.
fn window(c: &Ctx<'_, '_>, name: &'static str) -> Result<Option<i64>, Fault> {
    match c.attrs.int_or(name, -1)? {
        -1 => Ok(None),
        n if (0..=shape::MAX_DIM).contains(&n) => Ok(Some(n)),
        n => Err(c.attrs.wrong(name, "-1 or a number of positions", n)),
    }
}

/// What is added to the scores `[B, H, L, S]`; `past` is how many keys come before the queries.
fn bias(c: &mut Ctx<'_, '_>, scores: Val, past: &Dim) -> Result<Option<Val>, Fault> {
    let dtype = c.dtype(scores);
    let dims = c.dims(scores);
    let mut bias = match c.opt(3) {
        Some(mask) => Some(mask_bias(c, mask, &dims[3], dtype)?),
        None => None,
    };
    let (zero, minus_inf) = (c.scalar(dtype, 0.0)?, c.scalar(dtype, f64::NEG_INFINITY)?);
    let columns = c.count(&dims[3], DType::I64)?;
    let add = |c: &mut Ctx<'_, '_>, bias: Option<Val>, sees: Val| -> Result<Option<Val>, Fault> {
        let more = c.select(sees, zero, minus_inf)?;
        Ok(Some(match bias {
            Some(bias) => c.binary(BinaryFn::Add, bias, more)?,
            None => more,
        }))
    };
    let lengths = match c.opt(6) {
        None => None,
        Some(lengths) => {
            let lengths = c.cast(lengths, DType::I64)?;
            Some(c.along(lengths, 0, 4)?)
        }
    };
    let is_causal = c.attrs.flag("is_causal", false)?;
    let (left, right) = (window(c, "left_window_size")?, window(c, "right_window_size")?);
    if is_causal || left.is_some() || right.is_some() {
        // The queries are the last of the keys that count.
        let rows = c.count(&dims[2], DType::I64)?;
        let rows = c.along(rows, 0, 2)?;
        let first = match lengths {
            Some(lengths) if c.opt(4).is_none() => {
                let n = c.extent(&dims[2], DType::I64)?;
                c.binary(BinaryFn::Sub, lengths, n)?
            }
            _ => c.extent(past, DType::I64)?,
        };
        let rows = c.binary(BinaryFn::Add, rows, first)?;
        if is_causal {
            let sees = c.compare(Cmp::Le, columns, rows)?;
            bias = add(c, bias, sees)?;
        }
        if let Some(left) = left {
            let first = c.binary_scalar(BinaryFn::Sub, rows, left as f64)?;
            let sees = c.compare(Cmp::Ge, columns, first)?;
            bias = add(c, bias, sees)?;
        }
        if let Some(right) = right {
            let last = c.binary_scalar(BinaryFn::Add, rows, right as f64)?;
            let sees = c.compare(Cmp::Le, columns, last)?;
            bias = add(c, bias, sees)?;
        }
    }
    if let Some(lengths) = lengths {
        let sees = c.compare(Cmp::Lt, columns, lengths)?;
        bias = add(c, bias, sees)?;
    }
    Ok(bias)
}

/// `Attention`: softmax(q k' * scale + bias) v, with caches put before the keys and values.
pub(crate) fn attention(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (mut q, mut k, mut v) = (c.input(0)?, c.input(1)?, c.input(2)?);
    c.attrs.ignore(&["q_num_heads", "kv_num_heads"]);
    let dtype = c.dtype(q);
    let is_flat = c.rank(q) == 3;
    if is_flat {
        let (n, n_kv) = (count(c, "q_num_heads")?, count(c, "kv_num_heads")?);
        (q, k, v) = (heads(c, q, n)?, heads(c, k, n_kv)?, heads(c, v, n_kv)?);
    }
    if [q, k, v].iter().any(|x| c.rank(*x) != 4) {
        return Err(c.expected(0, "3 axes in all operands, or 4").into());
    }
    let mut past = Dim::from(0);
    if let Some(cache) = c.opt(4) {
        past = c.ty(cache).shape[2].clone();
        k = c.concat(&[cache, k], 2)?;
    }
    if let Some(cache) = c.opt(5) {
        v = c.concat(&[cache, v], 2)?;
    }
    let (present_k, present_v) = (k, v);
    let (q_dims, k_dims, v_dims) = (c.dims(q), c.dims(k), c.dims(v));
    let scale = match c.attrs.float("scale")? {
        Some(scale) => f64::from(scale),
        None => {
            let size = q_dims[3].as_const().ok_or(Fault::NotKnown { idx: 0, what: "the size of a head" })?;
            (size as f64).sqrt().recip()
        }
    };
    // Groups of query heads share a head of keys and values.
    let group = q_dims[1].div_exact(&k_dims[1]);
    let group =
        group.ok_or_else(|| c.expected(1, format!("a number of heads that divides {}", q_dims[1])))?;
    let grouped = [q_dims[0].clone(), k_dims[1].clone(), group, q_dims[2].clone(), q_dims[3].clone()];
    let q5 = c.reshape(q, &grouped)?;
    let q5 = c.binary_scalar(BinaryFn::Mul, q5, scale)?;
    let scores = c.product("bkgle,bkse->bkgls", &[q5, k])?;
    let all = [q_dims[0].clone(), q_dims[1].clone(), q_dims[2].clone(), k_dims[2].clone()];
    let mut scores = c.reshape(scores, &all)?;
    let mut shown = [scores; 4];
    let softcap = c.attrs.float_or("softcap", 0.0)?;
    if softcap > 0.0 {
        let scaled = c.binary_scalar(BinaryFn::Div, scores, softcap.into())?;
        let squashed = c.unary(UnaryFn::Tanh, scaled)?;
        scores = c.binary_scalar(BinaryFn::Mul, squashed, softcap.into())?;
    }
    shown[0] = scores;
    shown[1] = scores;
    let mut sees_nothing = None;
    if let Some(bias) = bias(c, scores, &past)? {
        // Otherwise each query sees itself.
        if c.opt(3).is_some() || c.opt(6).is_some() || window(c, "left_window_size")?.is_some() {
            let last = c.rank(bias) - 1;
            let most = c.reduce(ReduceFn::Max, bias, &[last], true)?;
            sees_nothing = Some(c.compare_scalar(Cmp::Eq, most, f64::NEG_INFINITY)?);
        }
        let bias = c.broadcast_to(bias, &all)?;
        scores = c.binary(BinaryFn::Add, scores, bias)?;
    }
    shown[2] = scores;
    if let Some(number) = c.attrs.int("softmax_precision")? {
        let wide = tensor::dtype(number as i32)?;
        scores = c.cast(scores, wide)?;
    }
    let mut weights = c.softmax(scores, 3)?;
    if let Some(sees_nothing) = sees_nothing {
        let zero = c.scalar(c.dtype(weights), 0.0)?;
        weights = c.select(sees_nothing, zero, weights)?;
    }
    let weights = c.cast(weights, dtype)?;
    shown[3] = weights;
    let split = [&grouped[..4], &k_dims[2..3]].concat();
    let weights = c.reshape(weights, &split)?;
    let y = c.product("bkgls,bksv->bkglv", &[weights, v])?;
    let y = c.reshape(y, &[q_dims[0].clone(), q_dims[1].clone(), q_dims[2].clone(), v_dims[3].clone()])?;
    let y = if is_flat {
        let y = c.transpose(y, &[0, 2, 1, 3])?;
        let width = shape::mul(&q_dims[1], &v_dims[3]).ok_or(OVERFLOW)?;
        c.reshape(y, &[q_dims[0].clone(), q_dims[2].clone(), width])?
    } else {
        y
    };
    let mode = c.attrs.int_or("qk_matmul_output_mode", 0)?;
    let shown = usize::try_from(mode).ok().and_then(|mode| shown.get(mode).copied());
    let shown = shown.ok_or_else(|| c.attrs.wrong("qk_matmul_output_mode", "0 to 3", mode))?;
    Ok(vec![y, present_k, present_v, shown])
}

/// `RotaryEmbedding`: pairs of channels turned by the angles of their position.
pub(crate) fn rotary_embedding(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, cos, sin) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (dims, heads) = (c.dims(x), c.attrs.int_or("num_heads", 0)?);
    let interleaved = c.attrs.flag("interleaved", false)?;
    // [B, L, H, E]
    let seen = match dims.len() {
        4 => c.transpose(x, &[0, 2, 1, 3])?,
        3 if heads > 0 => {
            let size = dims[2].div_exact(&Dim::from(heads));
            let size =
                size.ok_or_else(|| c.attrs.wrong("num_heads", format!("a divisor of {}", dims[2]), heads))?;
            c.reshape(x, &[dims[0].clone(), dims[1].clone(), Dim::from(heads), size])?
        }
        _ => return Err(c.expected(0, "4 axes, or 3 and num_heads").into()),
    };
    let size = c.dims(seen)[3].as_const().ok_or(Fault::NotKnown { idx: 0, what: "the size of a head" })?;
    let turned = match c.attrs.int_or("rotary_embedding_dim", 0)? {
        0 => size,
        n if (1..=size).contains(&n) && n % 2 == 0 => n,
        n => {
            return Err(c
                .attrs
                .wrong("rotary_embedding_dim", format!("an even number up to {size}"), n)
                .into());
        }
    };
    let (mut cos, mut sin) = (cos, sin);
    if let Some(positions) = c.opt(3) {
        cos = c.emit(ops::Gather { axis: 0 }, &[cos, positions])?;
        sin = c.emit(ops::Gather { axis: 0 }, &[sin, positions])?;
    }
    let angle_dims = c.dims(cos);
    if angle_dims.len() != 3 || !angle_dims[2].is(turned / 2) {
        return Err(c.expected(1, format!("{} angles per position", turned / 2)).into());
    }
    let per_head = [&angle_dims[..2], &[Dim::from(1)], &angle_dims[2..]].concat();
    let (cos, sin) = (c.reshape(cos, &per_head)?, c.reshape(sin, &per_head)?);
    let (half, step) = (Dim::from(turned / 2), if interleaved { 2 } else { 1 });
    let second = Dim::from(if interleaved { 1 } else { turned / 2 });
    let a = c.slice(seen, 3, Dim::from(0), half.clone(), step)?;
    let b = c.slice(seen, 3, second, half, step)?;
    let part = |c: &mut Ctx<'_, '_>, f, p: (Val, Val), q: (Val, Val)| {
        let (p, q) = (c.binary(BinaryFn::Mul, p.0, p.1)?, c.binary(BinaryFn::Mul, q.0, q.1)?);
        c.binary(f, p, q)
    };
    let real = part(c, BinaryFn::Sub, (a, cos), (b, sin))?;
    let imaginary = part(c, BinaryFn::Add, (a, sin), (b, cos))?;
    let mut y = if interleaved {
        let dims = c.dims(real);
        let pair = [dims.as_slice(), &[Dim::from(1)]].concat();
        let (real, imaginary) = (c.reshape(real, &pair)?, c.reshape(imaginary, &pair)?);
        let pairs = c.concat(&[real, imaginary], 4)?;
        c.reshape(pairs, &[&dims[..3], &[Dim::from(turned)]].concat())?
    } else {
        c.concat(&[real, imaginary], 3)?
    };
    if turned < size {
        let rest = c.slice(seen, 3, Dim::from(turned), Dim::from(size - turned), 1)?;
        y = c.concat(&[y, rest], 3)?;
    }
    one(if dims.len() == 4 { c.transpose(y, &[0, 2, 1, 3])? } else { c.reshape(y, &dims)? })
}
