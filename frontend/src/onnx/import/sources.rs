//! Operators that make tensors from attributes and shapes.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, Known, OVERFLOW};
use super::super::tensor::Literal;
use ssmc_ir::ops::{BinaryFn, Iota};
use ssmc_ir::{DType, Dim, DimFn, Shape};

fn literal(dtype: DType, dims: Vec<usize>, bytes: Vec<u8>) -> Literal {
    Literal { dtype, narrow: None, dims, bytes: bytes.into() }
}

/// `Constant` in each of its spellings.
pub(crate) fn constant(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let value = if let Some(tensor) = c.attrs.tensor("value")? {
        c.imp.decode(tensor)?
    } else if let Some(x) = c.attrs.float("value_float")? {
        literal(DType::F32, vec![], x.to_le_bytes().into())
    } else if let Some(xs) = c.attrs.floats("value_floats")? {
        literal(DType::F32, vec![xs.len()], xs.iter().flat_map(|x| x.to_le_bytes()).collect())
    } else if let Some(x) = c.attrs.int("value_int")? {
        literal(DType::I64, vec![], x.to_le_bytes().into())
    } else if let Some(xs) = c.attrs.ints("value_ints")? {
        literal(DType::I64, vec![xs.len()], xs.iter().flat_map(|x| x.to_le_bytes()).collect())
    } else if ["value_string", "value_strings", "sparse_value"].iter().any(|n| c.attrs.has(n)) {
        return Err(Fault::Unsupported("a constant of strings or a sparse constant".into()).into());
    } else {
        return Err(Fault::MissingAttribute { name: "value" }.into());
    };
    one(c.make_literal(value))
}

/// `ConstantOfShape`.
pub(crate) fn constant_of_shape(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let dims = c.dims_input(0, "shape")?;
    shape::check_shape(&dims)?;
    let value = match c.attrs.tensor("value")? {
        Some(tensor) => c.imp.decode(tensor)?,
        None => literal(DType::F32, vec![1], 0f32.to_le_bytes().into()),
    };
    if value.n_elems() != 1 {
        return Err(c.attrs.wrong("value", "one element", value.ty()).into());
    }
    let consts: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect();
    if let (Some(shape), Some(ints)) = (consts, value.ints())
        && shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_some_and(|n| n <= shape::MAX_KNOWN)
    {
        let elems = vec![Dim::from(ints[0]); shape.iter().product()];
        return one(c.make_known(Known { dtype: value.dtype, shape, elems }));
    }
    let scalar = c.make_literal(Literal { dims: Vec::new(), ..value });
    one(c.broadcast_to(scalar, &dims)?)
}

/// `Shape`, from version 15 on of a range of axes.
pub(crate) fn shape(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let rank = dims.len() as i64;
    let at = |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
    let start = at(c.attrs.int_or("start", 0)?);
    let end = at(c.attrs.int_or("end", rank)?);
    let elems = dims.get(start..end).unwrap_or(&[]).to_vec();
    one(c.make_known(Known::vector(elems)))
}

/// `Size`.
pub(crate) fn size(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let n = shape::product(&c.dims(x))?;
    one(c.make_known(Known::scalar(n)))
}

/// `Range`: max(ceil((limit - start) / delta), 0) numbers from `start` by `delta`.
pub(crate) fn range(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut bounds = [c.input(0)?, c.input(1)?, c.input(2)?];
    for v in &mut bounds {
        // Exporters write vectors of one number too.
        if c.dims(*v).iter().all(|d| d.is(1)) && c.known(*v).is_some() {
            *v = c.reshape(*v, &[])?;
        }
    }
    let dtype = c.dtype(bounds[0]);
    for (idx, v) in bounds.iter().enumerate() {
        if c.rank(*v) != 0 || c.dtype(*v) != dtype {
            let (expected, found) = (format!("a scalar of {dtype}"), c.ty(*v).to_string());
            return Err(Fault::Input { idx, expected, found }.into());
        }
    }
    if dtype.is_float() {
        return float_range(c, bounds, dtype);
    }
    let [start, limit, delta] =
        [c.dims_input(0, "start")?, c.dims_input(1, "limit")?, c.dims_input(2, "delta")?]
            .map(|d| d[0].clone());
    let Some(step) = delta.as_const() else { return Err(Fault::NotKnown { idx: 2, what: "delta" }.into()) };
    if step == 0 {
        return Err(
            Fault::Input { idx: 2, expected: "a delta other than 0".into(), found: "0".into() }.into()
        );
    }
    let (from, to) = if step > 0 { (&start, &limit) } else { (&limit, &start) };
    let span = shape::sub(to, from).ok_or(OVERFLOW)?;
    let magnitude = Dim::from(step.checked_abs().ok_or(OVERFLOW)?);
    let n = shape::apply(DimFn::CeilDiv, &span, &magnitude).ok_or(OVERFLOW)?;
    let n = shape::apply(DimFn::Max, &n, &Dim::from(0)).ok_or(OVERFLOW)?;
    shape::check_shape(std::slice::from_ref(&n))?;
    if let Some(count) = n.as_const().and_then(|n| usize::try_from(n).ok())
        && count <= shape::MAX_KNOWN
    {
        let elems =
            (0..count as i64).map(|i| shape::mul(&delta, &Dim::from(i)).and_then(|d| shape::add(&start, &d)));
        let elems = elems.collect::<Option<Vec<_>>>().ok_or(OVERFLOW)?;
        return one(c.make_known(Known { dtype, shape: vec![count], elems }));
    }
    let mut x = c.emit(Iota { axis: 0, dtype, shape: Shape::from(vec![n]) }, &[])?;
    for (idx, f) in [(2, BinaryFn::Mul), (0, BinaryFn::Add)] {
        let neutral = if idx == 2 { delta.is(1) } else { start.is(0) };
        if !neutral {
            x = c.binary(f, x, bounds[idx])?;
        }
    }
    one(x)
}

fn float_range(c: &mut Ctx<'_, '_>, bounds: [Val; 3], dtype: DType) -> Imported<Vec<Val>> {
    let mut numbers = [0.0f64; 3];
    for (idx, v) in bounds.iter().enumerate() {
        let known = c.literal(*v).and_then(Literal::floats).and_then(|f| f.first().copied());
        numbers[idx] = known.ok_or(Fault::NotKnown { idx, what: "bounds of floats" })?;
    }
    let [start, limit, delta] = numbers;
    let n = ((limit - start) / delta).ceil().max(0.0);
    if !n.is_finite() || n > shape::MAX_DIM as f64 {
        return Err(Fault::Limit { what: "length of a range", limit: shape::MAX_DIM as u64 }.into());
    }
    let iota = c.emit(Iota { axis: 0, dtype, shape: Shape::from([n as i64]) }, &[])?;
    let scaled = c.binary_scalar(BinaryFn::Mul, iota, delta)?;
    one(c.binary_scalar(BinaryFn::Add, scaled, start)?)
}
