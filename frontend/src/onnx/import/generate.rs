//! Tensors that follow from few numbers: one-hot rows, identities, windows, filter banks; and bit patterns.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape;
use super::super::tensor;
use super::super::types;
use ssmc_ir::ops::{BinaryFn, Bitcast, Cmp, Select, UnaryFn};
use ssmc_ir::{DType, Dim};
use std::f64::consts::TAU;

/// `OneHot`: the on value where the class is the index along the axis; negative indices count from the end.
pub(crate) fn one_hot(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (indices, values) = (c.input(0)?, c.input(2)?);
    let depth = match c.opt(1).and_then(|v| c.known_floats(v)).as_deref() {
        Some([depth]) => *depth as i64,
        _ => return Err(Fault::NotKnown { idx: 1, what: "depth" }.into()),
    };
    if !(0..=shape::MAX_DIM).contains(&depth) {
        return Err(c.expected(1, "a depth from 0").into());
    }
    let rank = c.rank(indices) + 1;
    let axis = c.axis(-1, rank)?;
    let mut dims = c.dims(indices);
    dims.insert(axis, Dim::from(1));
    let indices = c.cast(indices, DType::I64)?;
    let indices = c.reshape(indices, &dims)?;
    let wrapped = c.binary_scalar(BinaryFn::Add, indices, depth as f64)?;
    let is_negative = c.compare_scalar(Cmp::Lt, indices, 0.0)?;
    let indices = c.emit(Select, &[is_negative, wrapped, indices])?;
    let count = c.count(&Dim::from(depth), DType::I64)?;
    let count = c.along(count, axis, rank)?;
    let is_class = c.compare(Cmp::Eq, indices, count)?;
    let value = |c: &mut Ctx<'_, '_>, i: i64| {
        let v = c.slice(values, 0, Dim::from(i), Dim::from(1), 1)?;
        c.reshape(v, &[])
    };
    let (off, on) = (value(c, 0)?, value(c, 1)?);
    one(c.select(is_class, on, off)?)
}

/// `EyeLike`: 1 on the k-th diagonal of a matrix of the operand's shape.
pub(crate) fn eye_like(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let k = c.attrs.int_or("k", 0)?;
    let dtype = match c.attrs.int("dtype")? {
        Some(number) => tensor::dtype(number as i32)?,
        None => c.dtype(x),
    };
    let dims = c.dims(x);
    let [rows, columns] = dims.as_slice() else { return Err(c.expected(0, "2 axes").into()) };
    let row = c.count(rows, DType::I64)?;
    let row = c.binary_scalar(BinaryFn::Add, row, k as f64)?;
    let row = c.along(row, 0, 2)?;
    let column = c.count(columns, DType::I64)?;
    let is_diagonal = c.compare(Cmp::Eq, row, column)?;
    one(c.cast(is_diagonal, dtype)?)
}

/// A window a0 - a1 cos(2 pi i / n) + a2 cos(4 pi i / n), with n one less if it is symmetric.
fn window(c: &mut Ctx<'_, '_>, [a0, a1, a2]: [f64; 3]) -> Imported<Vec<Val>> {
    let dtype = tensor::dtype(c.attrs.int_or("output_datatype", 1)? as i32)?;
    let periodic = c.attrs.flag("periodic", true)?;
    let size = c.int_input(0, "size")?;
    if !(0..=1 << 24).contains(&size) {
        return Err(Fault::Limit { what: "length of a window", limit: 1 << 24 }.into());
    }
    let n = if periodic { size as f64 } else { (size - 1) as f64 };
    let value = |i: i64| {
        let angle = TAU * i as f64 / n;
        a0 - a1 * angle.cos() + a2 * (2.0 * angle).cos()
    };
    let values: Vec<f64> = (0..size).map(value).collect();
    one(c.floats(dtype, &[size as usize], &values)?)
}

/// `HannWindow`.
pub(crate) fn hann_window(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    window(c, [0.5, 0.5, 0.0])
}

/// `HammingWindow`.
pub(crate) fn hamming_window(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    window(c, [25.0 / 46.0, 21.0 / 46.0, 0.0])
}

/// `BlackmanWindow`.
pub(crate) fn blackman_window(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    window(c, [0.42, 0.5, 0.08])
}

/// `MelWeightMatrix`: triangles between equally spaced mel frequencies.
pub(crate) fn mel_weight_matrix(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let dtype = tensor::dtype(c.attrs.int_or("output_datatype", 1)? as i32)?;
    let mut numbers = [0.0; 5];
    for (idx, number) in numbers.iter_mut().enumerate() {
        let known = c.known_floats(c.input(idx)?).and_then(|v| v.first().copied());
        *number = known.ok_or(Fault::NotKnown { idx, what: "sizes and frequencies" })?;
    }
    let [n_mels, length, rate, low, high] = numbers;
    let n_bins = (length / 2.0).floor() + 1.0;
    if !(1.0..=65536.0).contains(&n_mels) || !(1.0..=65536.0).contains(&n_bins) || n_mels * n_bins > 1e8 {
        return Err(Fault::Limit { what: "size of a filter bank", limit: 65536 }.into());
    }
    let mel = |hz: f64| 2595.0 * (1.0 + hz / 700.0).log10();
    let (from, to) = (mel(low), mel(high));
    let step = (to - from) / (n_mels + 2.0);
    let edge = |i: usize| {
        let hz = 700.0 * (10f64.powf((i as f64 * step + from) / 2595.0) - 1.0);
        ((length + 1.0) * hz / rate).floor()
    };
    let (n_mels, n_bins) = (n_mels as usize, n_bins as usize);
    let mut table = vec![0.0; n_mels * n_bins];
    for i in 0..n_mels {
        let (lower, center, upper) = (edge(i), edge(i + 1), edge(i + 2));
        if lower == center
            && let Some(slot) = table.get_mut(center as usize * n_mels + i)
        {
            *slot = 1.0;
        }
        for bin in 0..n_bins {
            let at = bin as f64;
            let slot = &mut table[bin * n_mels + i];
            if lower != center && (lower..=center).contains(&at) {
                *slot = (at - lower) / (center - lower);
            }
            if (center..upper).contains(&at) && center < upper && at >= center {
                *slot = (upper - at) / (upper - center);
            }
        }
    }
    one(c.floats(dtype, &[n_bins, n_mels], &table)?)
}

/// `BitwiseNot`.
pub(crate) fn bitwise_not(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let ones = c.int_scalar(c.dtype(x), -1)?;
    one(c.binary(BinaryFn::Xor, x, ones)?)
}

/// `BitCast`: the bits of each element as another type of the same width.
pub(crate) fn bit_cast(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let number = c.attrs.int("to")?.ok_or(Fault::MissingAttribute { name: "to" })?;
    let number = i32::try_from(number).map_err(|_| c.attrs.wrong("to", "an element type", number))?;
    let (to, narrow) = types::element(number)?;
    let x = c.input(0)?;
    let from = c.dtype(x);
    if narrow.is_some() || (to == DType::Bool && from != to) {
        return Err(Fault::Unsupported(format!("bits read as {}", c.attrs.int_or("to", 0)?)).into());
    }
    if from == to {
        return one(x);
    }
    if from == DType::Bool && to.bits() == 8 {
        return one(c.cast(x, to)?);
    }
    one(c.emit(Bitcast { to }, &[x])?)
}

/// x times 2^by, modulo the numbers of the type, or x / 2^by rounded to zero; `by` is below the number of bits.
fn shifted(c: &mut Ctx<'_, '_>, x: Val, by: Val, left: bool) -> Result<Val, Fault> {
    let two = c.splat(2.0, by)?;
    let factor = c.binary(BinaryFn::Pow, two, by)?;
    c.binary(if left { BinaryFn::Mul } else { BinaryFn::Div }, x, factor)
}

/// `BitShift`: what is shifted out is lost. To the right the sign comes in; a shift by too much, or by a negative
/// number, leaves nothing but that.
pub(crate) fn bit_shift(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, by) = (c.input(0)?, c.input(1)?);
    let left = match c.attrs.string("direction")?.ok_or(Fault::MissingAttribute { name: "direction" })? {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(c.attrs.wrong("direction", "LEFT or RIGHT", format!("{other:?}")).into()),
    };
    let dtype = c.dtype(x);
    let unsigned = match dtype {
        DType::I8 => Some(DType::U8),
        DType::I16 => Some(DType::U16),
        DType::I32 => Some(DType::U32),
        DType::I64 => Some(DType::U64),
        other if other.is_int() && !other.is_signed_int() => None,
        _ => return Err(c.expected(0, "integers of 8 to 64 bits").into()),
    };
    // One bit of a signed number is no part of the magnitude that moves to the right.
    let n_bits = dtype.bits() - usize::from(unsigned.is_some() && !left);
    let mut has_left = c.compare_scalar(Cmp::Ge, by, n_bits as f64)?;
    if unsigned.is_some() {
        let is_negative = c.compare_scalar(Cmp::Lt, by, 0.0)?;
        has_left = c.binary(BinaryFn::Or, has_left, is_negative)?;
    }
    let (zero, no_shift) = (c.scalar(dtype, 0.0)?, c.splat(0.0, by)?);
    let small = c.select(has_left, no_shift, by)?;
    let Some(unsigned) = unsigned else {
        let y = shifted(c, x, small, left)?;
        return one(c.select(has_left, zero, y)?);
    };
    if left {
        let (bits, by) =
            (c.emit(Bitcast { to: unsigned }, &[x])?, c.emit(Bitcast { to: unsigned }, &[small])?);
        let y = shifted(c, bits, by, true)?;
        let y = c.emit(Bitcast { to: dtype }, &[y])?;
        return one(c.select(has_left, zero, y)?);
    }
    // A negative number is the complement, -1 - x, of one that is not.
    let is_negative = c.compare_scalar(Cmp::Lt, x, 0.0)?;
    let minus_one = c.scalar(dtype, -1.0)?;
    let complement = c.binary(BinaryFn::Sub, minus_one, x)?;
    let magnitude = c.select(is_negative, complement, x)?;
    let y = shifted(c, magnitude, small, false)?;
    let y = c.select(has_left, zero, y)?;
    let complement = c.binary(BinaryFn::Sub, minus_one, y)?;
    one(c.select(is_negative, complement, y)?)
}

/// `Det` of matrices up to 4 by 4, by expansion along the first row.
pub(crate) fn det(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let dims = c.dims(x);
    let rank = dims.len();
    let n = (rank >= 2).then(|| dims[rank - 1].as_const()).flatten().filter(|n| dims[rank - 2].is(*n));
    let n = n.ok_or_else(|| c.expected(0, "square matrices of constant size"))?;
    if !(1..=4).contains(&n) {
        return Err(Fault::Unsupported(format!("the determinant of {n} by {n} matrices")).into());
    }
    let mut elements = Vec::new();
    for i in 0..n {
        let row = c.slice(x, rank - 2, Dim::from(i), Dim::from(1), 1)?;
        let mut cells = Vec::new();
        for j in 0..n {
            let cell = c.slice(row, rank - 1, Dim::from(j), Dim::from(1), 1)?;
            cells.push(c.reshape(cell, &dims[..rank - 2])?);
        }
        elements.push(cells);
    }
    let columns: Vec<usize> = (0..n as usize).collect();
    one(minor(c, &elements, &columns)?)
}

/// The determinant of the given columns and of as many last rows.
fn minor(c: &mut Ctx<'_, '_>, elements: &[Vec<Val>], columns: &[usize]) -> Result<Val, Fault> {
    let row = &elements[elements.len() - columns.len()];
    if let [only] = columns {
        return Ok(row[*only]);
    }
    let mut sum: Option<Val> = None;
    for (i, column) in columns.iter().enumerate() {
        let others: Vec<usize> = columns.iter().copied().filter(|other| other != column).collect();
        let rest = minor(c, elements, &others)?;
        let term = c.binary(BinaryFn::Mul, row[*column], rest)?;
        sum = Some(match sum {
            None => term,
            Some(sum) if i % 2 == 0 => c.binary(BinaryFn::Add, sum, term)?,
            Some(sum) => c.binary(BinaryFn::Sub, sum, term)?,
        });
    }
    sum.ok_or_else(|| c.expected(0, "at least one column"))
}

/// `CumProd`: factors doubled in distance until the distance covers the axis.
pub(crate) fn cum_prod(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    let axis = shape::axis(c.int_input(1, "axis")?, c.rank(x))?;
    let (exclusive, reverse) = (c.attrs.flag("exclusive", false)?, c.attrs.flag("reverse", false)?);
    let n = c.dims(x)[axis].clone();
    let extent = n.as_const().ok_or(Fault::NotKnown { idx: 0, what: "the extent of a running product" })?;
    let fill = c.scalar(c.dtype(x), 1.0)?;
    // Elements moved by `by`, ones where none came from.
    let shifted = |c: &mut Ctx<'_, '_>, x: Val, by: i64| {
        let (low, high) = if reverse { (0, by) } else { (by, 0) };
        let padded = c.pad(x, axis, Dim::from(low), Dim::from(high), fill)?;
        c.slice(padded, axis, Dim::from(high), n.clone(), 1)
    };
    if exclusive {
        x = shifted(c, x, 1)?;
    }
    let mut distance = 1;
    while distance < extent {
        let other = shifted(c, x, distance)?;
        x = c.binary(BinaryFn::Mul, x, other)?;
        distance *= 2;
    }
    one(x)
}

/// `ArgMin`, as the place of the largest element of the order reversed.
pub(crate) fn reversed_order(c: &mut Ctx<'_, '_>, x: Val) -> Result<Val, Fault> {
    if c.dtype(x).is_float() {
        return c.unary(UnaryFn::Neg, x);
    }
    let ones = c.int_scalar(c.dtype(x), -1)?;
    c.binary(BinaryFn::Xor, x, ones)
}

/// `NonZero` of integers known when compiling, as shape arithmetic uses it.
pub(crate) fn non_zero(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let what = "the size of the result follows from its elements";
    let known = c.known(c.input(0)?).ok_or(Fault::NotKnown { idx: 0, what })?;
    let elems = known.as_consts().ok_or(Fault::NotKnown { idx: 0, what })?;
    // A scalar counts as a vector.
    let dims = if known.shape.is_empty() { vec![1] } else { known.shape.clone() };
    let places: Vec<usize> = (0..elems.len()).filter(|i| elems[*i] != 0).collect();
    let mut rows = Vec::new();
    let mut inner: usize = dims.iter().product();
    for n in &dims {
        inner /= (*n).max(1);
        rows.extend(places.iter().map(|at| (at / inner % n) as i64));
    }
    one(c.integers(&[dims.len(), places.len()], &rows))
}
