//! Operators that act on each element by itself.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::narrow::{self, Conversion, Narrow};
use super::super::shape::{self, Known};
use super::super::{tensor, types};
use ssmc_ir::ops::{BinaryFn, UnaryFn};
use ssmc_ir::{DType, Dim, DimFn};

/// An operator that is one [`UnaryFn`]. `Neg` and `Abs` of known integers stay known.
pub(crate) fn unary(c: &mut Ctx<'_, '_>, f: UnaryFn) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let x = c.input(0)?;
    let folded = c.known(x).and_then(|k| {
        k.map(k.dtype, |d| match f {
            UnaryFn::Neg => shape::sub(&Dim::from(0), d).and_then(|d| fits(k.dtype, d)),
            UnaryFn::Abs if shape::is_non_negative(d) => Some(d.clone()),
            _ => None,
        })
    });
    if let Some(known) = folded {
        return one(c.make_known(known));
    }
    one(c.unary(f, x)?)
}

/// The dim if, being constant, it is a value of the type.
pub(crate) fn fits(dtype: DType, d: Dim) -> Option<Dim> {
    let inside = match (d.as_const(), dtype) {
        (_, DType::I64) => true,
        (Some(n), DType::I32) => i32::try_from(n).is_ok(),
        (Some(n), DType::I16) => i16::try_from(n).is_ok(),
        (Some(n), DType::I8) => i8::try_from(n).is_ok(),
        (Some(n), DType::U64) => n >= 0,
        (Some(n), DType::U32) => u32::try_from(n).is_ok(),
        (Some(n), DType::U16) => u16::try_from(n).is_ok(),
        (Some(n), DType::U8) => u8::try_from(n).is_ok(),
        (None, dtype) => dtype == DType::I32,
        (Some(_), _) => false,
    };
    inside.then_some(d)
}

fn fold(f: BinaryFn, a: &Dim, b: &Dim) -> Option<Dim> {
    match f {
        BinaryFn::Add => shape::add(a, b),
        BinaryFn::Sub => shape::sub(a, b),
        BinaryFn::Mul => shape::mul(a, b),
        BinaryFn::Div => match (a.as_const(), b.as_const()) {
            (Some(a), Some(b)) => a.checked_div(b).map(Dim::from),
            _ if shape::is_non_negative(a) && shape::is_non_negative(b) => {
                shape::apply(DimFn::FloorDiv, a, b)
            }
            _ => None,
        },
        BinaryFn::Min => shape::apply(DimFn::Min, a, b),
        BinaryFn::Max => shape::apply(DimFn::Max, a, b),
        BinaryFn::Pow | BinaryFn::Rem | BinaryFn::And | BinaryFn::Or | BinaryFn::Xor => None,
    }
}

/// A function of two values: of their dims if both are known, else a node.
pub(crate) fn combine(c: &mut Ctx<'_, '_>, f: BinaryFn, a: Val, b: Val) -> Result<Val, Fault> {
    if c.dtype(a) != c.dtype(b) {
        let (expected, found) = (c.ty(a).dtype.to_string(), c.ty(b).to_string());
        return Err(Fault::Input { idx: 1, expected, found });
    }
    if let (Some(x), Some(y)) = (c.known(a), c.known(b))
        && x.dtype != DType::Bool
        && let Some(known) = x.zip(y, x.dtype, |p, q| fold(f, p, q).and_then(|d| fits(x.dtype, d)))
    {
        return Ok(c.make_known(known));
    }
    c.binary(f, a, b)
}

/// `Add`, `Sub`, `Mul`, `Div`.
pub(crate) fn arithmetic(c: &mut Ctx<'_, '_>, f: BinaryFn) -> Imported<Vec<Val>> {
    c.at_most_inputs(2)?;
    let (a, b) = (c.input(0)?, c.input(1)?);
    one(combine(c, f, a, b)?)
}

/// `Max`, `Min`, `Sum`.
pub(crate) fn variadic(c: &mut Ctx<'_, '_>, f: BinaryFn) -> Imported<Vec<Val>> {
    let inputs = c.all_inputs()?;
    let mut acc = inputs[0];
    for x in &inputs[1..] {
        acc = combine(c, f, acc, *x)?;
    }
    one(acc)
}

/// `Mean` of any number of tensors.
pub(crate) fn mean(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let n = c.n_inputs();
    let sum = variadic(c, BinaryFn::Add)?[0];
    one(c.binary_scalar(BinaryFn::Div, sum, n as f64)?)
}

/// `Pow`; the exponent takes the type of the base where that is exact.
pub(crate) fn pow(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, y) = (c.input(0)?, c.input(1)?);
    let dtype = c.dtype(x);
    if dtype == c.dtype(y) {
        return one(c.binary(BinaryFn::Pow, x, y)?);
    }
    if dtype.is_float() {
        let y = c.cast(y, dtype)?;
        return one(c.binary(BinaryFn::Pow, x, y)?);
    }
    let wide = if c.dtype(y).is_float() { DType::F64 } else { DType::I64 };
    let (x, y) = (c.cast(x, wide)?, c.cast(y, wide)?);
    let mut z = c.binary(BinaryFn::Pow, x, y)?;
    if wide == DType::F64 {
        // The conversion truncates: a whole number must not come out just below itself.
        z = c.binary_scalar(BinaryFn::Mul, z, 1.0 + 1e-10)?;
    }
    one(c.cast(z, dtype)?)
}

/// `Mod`: with the sign of the divisor, or of the dividend if `fmod`.
pub(crate) fn modulo(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let fmod = c.attrs.flag("fmod", false)?;
    if let (Some(x), Some(y)) = (c.known(a), c.known(b))
        && let Some(known) = x.zip(y, x.dtype, |p, q| match (p.as_const(), q.as_const()) {
            (Some(p), Some(q)) if fmod => p.checked_rem(q).map(Dim::from),
            _ if fmod && !(shape::is_non_negative(p) && shape::is_non_negative(q)) => None,
            _ => shape::apply(DimFn::Mod, p, q),
        })
    {
        return one(c.make_known(known));
    }
    if !fmod {
        return one(c.binary(BinaryFn::Rem, a, b)?);
    }
    // a - b * trunc(a / b) loses digits for floats; the remainder of the magnitudes is exact.
    if !c.dtype(a).is_float() && !c.dtype(a).is_signed_int() {
        return one(c.binary(BinaryFn::Rem, a, b)?);
    }
    let (p, q) = (c.unary(UnaryFn::Abs, a)?, c.unary(UnaryFn::Abs, b)?);
    let rem = c.binary(BinaryFn::Rem, p, q)?;
    let sign = c.unary(UnaryFn::Sign, a)?;
    one(c.binary(BinaryFn::Mul, rem, sign)?)
}

/// `Cast`. Known integers stay known in integer types.
pub(crate) fn cast(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let number = c.attrs.int("to")?.ok_or(Fault::MissingAttribute { name: "to" })?;
    let number = i32::try_from(number).map_err(|_| c.attrs.wrong("to", "an element type", number))?;
    let to = types::element(number)?;
    let x = c.input(0)?;
    one(convert(c, x, to)?)
}

/// `CastLike`.
pub(crate) fn cast_like(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, like) = (c.input(0)?, c.input(1)?);
    let to = (c.dtype(like), c.imp.narrow(like));
    one(convert(c, x, to)?)
}

/// A conversion from or to narrow values too.
fn convert(c: &mut Ctx<'_, '_>, x: Val, (dtype, to): (DType, Option<Narrow>)) -> Result<Val, Fault> {
    let how = Conversion::of(c)?;
    let from = c.imp.narrow(x);
    if from == to && c.dtype(x) == dtype {
        return Ok(x);
    }
    let x = match from {
        Some(from) => narrow::decode(c, x, from)?,
        None => x,
    };
    match to {
        Some(to) => {
            let y = narrow::encode(c, x, to, how)?;
            Ok(c.imp.as_narrow(y, to))
        }
        None => cast_to(c, x, dtype),
    }
}

fn cast_to(c: &mut Ctx<'_, '_>, x: Val, to: DType) -> Result<Val, Fault> {
    if c.dtype(x) == to {
        return Ok(x);
    }
    let folded = c.known(x).and_then(|k| match to {
        DType::Bool => k.map(to, |d| d.as_const().map(|n| Dim::from(i64::from(n != 0)))),
        _ if to.is_int() => k.map(to, |d| fits(to, d.clone())),
        _ => None,
    });
    if let Some(known) = folded {
        return Ok(c.make_known(known));
    }
    // Few numbers stay known as floats too: lengths of ranges come from them.
    if let (Some(ints), DType::F32 | DType::F64) = (c.known(x).and_then(Known::as_consts), to)
        && c.rank(x) == 0
    {
        let bytes: Vec<u8> = match to {
            DType::F32 => ints.iter().flat_map(|n| (*n as f32).to_le_bytes()).collect(),
            _ => ints.iter().flat_map(|n| (*n as f64).to_le_bytes()).collect(),
        };
        return Ok(c.make_literal(tensor::Literal {
            dtype: to,
            narrow: None,
            dims: Vec::new(),
            bytes: bytes.into(),
        }));
    }
    c.cast(x, to)
}

/// `Identity`.
pub(crate) fn identity(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    one(c.input(0)?)
}

/// `Dropout` as in inference: the input, and a mask of all true.
pub(crate) fn dropout(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["ratio", "seed", "is_test"]);
    if c.opt(2).is_some() && c.bool_input(2, "training_mode")? {
        return Err(Fault::Unsupported("dropout in training mode".into()).into());
    }
    let x = c.input(0)?;
    let mut outputs = vec![x];
    if c.n_outputs() > 1 {
        let yes = c.make_known(Known { dtype: DType::Bool, shape: Vec::new(), elems: vec![Dim::from(1)] });
        let dims = c.dims(x);
        outputs.push(c.broadcast_to(yes, &dims)?);
    }
    Ok(outputs)
}

/// `Clip` with bounds as attributes, up to version 10.
pub(crate) fn clip_attributes(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let mut x = c.input(0)?;
    if let Some(low) = c.attrs.float("min")? {
        x = c.binary_scalar(BinaryFn::Max, x, low.into())?;
    }
    if let Some(high) = c.attrs.float("max")? {
        x = c.binary_scalar(BinaryFn::Min, x, high.into())?;
    }
    one(x)
}

/// `Clip` with bounds as inputs: min(max, max(min, x)).
pub(crate) fn clip(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    for (idx, f) in [(1, BinaryFn::Max), (2, BinaryFn::Min)] {
        if let Some(bound) = c.opt(idx) {
            if c.rank(bound) != 0 {
                let (expected, found) = ("a scalar".into(), c.ty(bound).to_string());
                return Err(Fault::Input { idx, expected, found }.into());
            }
            x = combine(c, f, x, bound)?;
        }
    }
    one(x)
}

/// `Gelu`: x * Phi(x), or its approximation by tanh.
pub(crate) fn gelu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let by_tanh = match c.attrs.string_or("approximate", "none")? {
        "none" => false,
        "tanh" => true,
        other => return Err(c.attrs.wrong("approximate", "none or tanh", format!("{other:?}")).into()),
    };
    one(gelu_of(c, x, by_tanh)?)
}

/// x * Phi(x), or its approximation by tanh.
pub(crate) fn gelu_of(c: &mut Ctx<'_, '_>, x: Val, by_tanh: bool) -> Result<Val, Fault> {
    let inner = if by_tanh {
        let square = c.binary(BinaryFn::Mul, x, x)?;
        let cube = c.binary(BinaryFn::Mul, square, x)?;
        let small = c.binary_scalar(BinaryFn::Mul, cube, 0.044715)?;
        let sum = c.binary(BinaryFn::Add, x, small)?;
        let scale = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
        let scaled = c.binary_scalar(BinaryFn::Mul, sum, scale)?;
        c.unary(UnaryFn::Tanh, scaled)?
    } else {
        let scaled = c.binary_scalar(BinaryFn::Mul, x, std::f64::consts::FRAC_1_SQRT_2)?;
        c.unary(UnaryFn::Erf, scaled)?
    };
    let plus_one = c.binary_scalar(BinaryFn::Add, inner, 1.0)?;
    let half = c.binary_scalar(BinaryFn::Mul, x, 0.5)?;
    c.binary(BinaryFn::Mul, half, plus_one)
}

/// `Swish`: x * sigmoid(alpha * x).
pub(crate) fn swish(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, alpha) = (c.input(0)?, c.attrs.float_or("alpha", 1.0)?);
    let scaled = if alpha == 1.0 { x } else { c.binary_scalar(BinaryFn::Mul, x, alpha.into())? };
    let gate = c.unary(UnaryFn::Sigmoid, scaled)?;
    one(c.binary(BinaryFn::Mul, x, gate)?)
}

/// `SwiGLU`: swish(x) * y.
pub(crate) fn swiglu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, y) = (c.input(0)?, c.input(1)?);
    if c.dims(x) != c.dims(y) {
        return Err(c.expected(1, "the extents of input 0").into());
    }
    let gated = swish(c)?[0];
    one(c.binary(BinaryFn::Mul, gated, y)?)
}

/// `Mish`: x * tanh(softplus(x)).
pub(crate) fn mish(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let soft = c.unary(UnaryFn::Softplus, x)?;
    let gate = c.unary(UnaryFn::Tanh, soft)?;
    one(c.binary(BinaryFn::Mul, x, gate)?)
}

/// `Softsign`: x / (1 + |x|).
pub(crate) fn softsign(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let magnitude = c.unary(UnaryFn::Abs, x)?;
    let below = c.binary_scalar(BinaryFn::Add, magnitude, 1.0)?;
    one(c.binary(BinaryFn::Div, x, below)?)
}

/// max(x, 0) + f(min(x, 0)).
fn on_negative_part(
    c: &mut Ctx<'_, '_>,
    x: Val,
    f: impl FnOnce(&mut Ctx<'_, '_>, Val) -> Result<Val, Fault>,
) -> Imported<Vec<Val>> {
    let positive = c.unary(UnaryFn::Relu, x)?;
    let negative = c.binary_scalar(BinaryFn::Min, x, 0.0)?;
    let image = f(c, negative)?;
    one(c.binary(BinaryFn::Add, positive, image)?)
}

/// `Elu`: alpha * (e^x - 1) where x is negative.
pub(crate) fn elu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let (x, alpha) = (c.input(0)?, c.attrs.float_or("alpha", 1.0)?);
    on_negative_part(c, x, |c, x| {
        let image = c.unary(UnaryFn::Expm1, x)?;
        c.binary_scalar(BinaryFn::Mul, image, alpha.into())
    })
}

/// `LeakyRelu`: alpha * x where x is negative.
pub(crate) fn leaky_relu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let (x, alpha) = (c.input(0)?, c.attrs.float_or("alpha", 0.01)?);
    on_negative_part(c, x, |c, x| c.binary_scalar(BinaryFn::Mul, x, alpha.into()))
}

/// `PRelu`: slope * x where x is negative; the slope broadcasts to x.
pub(crate) fn p_relu(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, slope) = (c.input(0)?, c.input(1)?);
    on_negative_part(c, x, |c, x| {
        let dims = c.dims(x);
        let slope = c.broadcast_to(slope, &dims)?;
        c.binary(BinaryFn::Mul, slope, x)
    })
}

/// max(0, min(1, alpha * x + beta)).
fn clamp_line(c: &mut Ctx<'_, '_>, x: Val, alpha: f64, beta: f64) -> Result<Val, Fault> {
    let scaled = c.binary_scalar(BinaryFn::Mul, x, alpha)?;
    let shifted = c.binary_scalar(BinaryFn::Add, scaled, beta)?;
    let below = c.binary_scalar(BinaryFn::Min, shifted, 1.0)?;
    c.binary_scalar(BinaryFn::Max, below, 0.0)
}

/// `HardSigmoid`.
pub(crate) fn hard_sigmoid(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    c.attrs.ignore(&["consumed_inputs"]);
    let x = c.input(0)?;
    let (alpha, beta) = (c.attrs.float_or("alpha", 0.2)?, c.attrs.float_or("beta", 0.5)?);
    one(clamp_line(c, x, alpha.into(), beta.into())?)
}

/// `HardSwish`: x * clamp(x / 6 + 1/2).
pub(crate) fn hard_swish(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let gate = clamp_line(c, x, 1.0 / 6.0, 0.5)?;
    one(c.binary(BinaryFn::Mul, x, gate)?)
}
