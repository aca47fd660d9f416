//! Operators that reorder elements by lengths, blocks or conditions.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, Known, OVERFLOW};
use super::scatter;
use ssmc_ir::ops::{self, BinaryFn, Cmp};
use ssmc_ir::{DType, Dim, Shape};

/// `SpaceToDepth`: blocks of pixels become blocks of channels.
pub(crate) fn space_to_depth(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let size = c.attrs.int("blocksize")?.ok_or(Fault::MissingAttribute { name: "blocksize" })?;
    let dims = c.dims(x);
    let [n, channels, h, w] = dims.as_slice() else { return Err(c.expected(0, "4 axes").into()) };
    if !(1..=shape::MAX_DIM).contains(&size) {
        return Err(c.attrs.wrong("blocksize", "a positive number", size).into());
    }
    let block = Dim::from(size);
    let (Some(rows), Some(columns)) = (h.div_exact(&block), w.div_exact(&block)) else {
        return Err(c.expected(0, format!("multiples of {size} pixels")).into());
    };
    let split = [n.clone(), channels.clone(), rows.clone(), block.clone(), columns.clone(), block.clone()];
    let x = c.reshape(x, &split)?;
    let perm = match c.attrs.string_or("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(c.attrs.wrong("mode", "DCR or CRD", format!("{other:?}")).into()),
    };
    let x = c.transpose(x, &perm)?;
    let depth = shape::product([channels, &block, &block])?;
    one(c.reshape(x, &[n.clone(), depth, rows, columns])?)
}

/// `ReverseSequence`: the first elements of each sequence in reverse.
pub(crate) fn reverse_sequence(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, lengths) = (c.input(0)?, c.input(1)?);
    let dims = c.dims(x);
    let time = shape::axis(c.attrs.int_or("time_axis", 0)?, dims.len())?;
    let batch = shape::axis(c.attrs.int_or("batch_axis", 1)?, dims.len())?;
    if time == batch || c.dims(lengths) != dims[batch..=batch] {
        return Err(c.expected(1, format!("{} lengths", dims[batch])).into());
    }
    let lengths = c.cast(lengths, DType::I64)?;
    let lengths = c.along(lengths, batch, dims.len())?;
    let t = c.count(&dims[time], DType::I64)?;
    let t = c.along(t, time, dims.len())?;
    let mirrored = c.binary(BinaryFn::Sub, lengths, t)?;
    let mirrored = c.binary_scalar(BinaryFn::Sub, mirrored, 1.0)?;
    let is_inside = c.compare(Cmp::Lt, t, lengths)?;
    let from = c.select(is_inside, mirrored, t)?;
    let from = c.broadcast_to(from, &dims)?;
    one(scatter::gather_along(c, x, from, time)?)
}

/// `Compress` by a condition known when compiling.
pub(crate) fn compress(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let mut x = c.input(0)?;
    let condition = c.input(1)?;
    let keep = c.known(condition).and_then(Known::as_consts);
    let keep = keep
        .ok_or(Fault::NotKnown { idx: 1, what: "the condition, on which the shape of the result depends" })?;
    let axis = if c.attrs.has("axis") {
        c.axis(0, c.rank(x))?
    } else {
        let n = shape::product(&c.dims(x))?;
        x = c.reshape(x, &[n])?;
        0
    };
    let places: Vec<i64> = (0..keep.len() as i64).filter(|i| keep[*i as usize] != 0).collect();
    let places = c.integers(&[places.len()], &places);
    one(c.emit(ops::Gather { axis }, &[x, places])?)
}

/// `TensorScatter`: an update written into a cache at one index per sample.
pub(crate) fn tensor_scatter(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (cache, update) = (c.input(0)?, c.input(1)?);
    let (dims, update_dims) = (c.dims(cache), c.dims(update));
    let axis = c.axis(-2, dims.len())?;
    let circular = match c.attrs.string_or("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(c.attrs.wrong("mode", "linear or circular", format!("{other:?}")).into()),
    };
    if axis == 0 || update_dims.len() != dims.len() {
        return Err(c.expected(1, "as many axes as the cache").into());
    }
    let steps = c.count(&update_dims[axis], DType::I64)?;
    let mut at = c.along(steps, axis, dims.len())?;
    if let Some(first) = c.opt(2) {
        let first = c.cast(first, DType::I64)?;
        let first = c.along(first, 0, dims.len())?;
        at = c.binary(BinaryFn::Add, at, first)?;
    }
    if circular {
        let extent = c.extent(&dims[axis], DType::I64)?;
        at = c.binary(BinaryFn::Rem, at, extent)?;
    }
    let at = c.broadcast_to(at, &update_dims)?;
    one(scatter::scatter_along(c, cache, at, update, axis)?)
}

/// `MaxUnpool`: elements put back to the places that `MaxPool` took them from, zeros elsewhere.
pub(crate) fn max_unpool(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, places) = (c.input(0)?, c.input(1)?);
    let dims = c.dims(x);
    let n = dims.len().checked_sub(2).filter(|n| *n > 0).ok_or_else(|| c.expected(0, "at least 3 axes"))?;
    let kernel = super::convolution::sizes(c, "kernel_shape", n, 1, 1)?;
    let strides = super::convolution::sizes(c, "strides", n, 1, 1)?;
    let pads = super::convolution::sizes(c, "pads", 2 * n, 0, 0)?;
    let mut inferred = dims[..2].to_vec();
    for i in 0..n {
        let span =
            shape::mul(&c.dim_add(&dims[i + 2], -1)?, &Dim::from(strides[i] as i64)).ok_or(OVERFLOW)?;
        inferred.push(c.dim_add(&span, kernel[i] as i64 - (pads[i] + pads[n + i]) as i64)?);
    }
    let out = if c.opt(2).is_some() { c.dims_input(2, "output_shape")? } else { inferred.clone() };
    shape::check_shape(&out)?;
    let total = shape::product(&inferred)?;
    let zero = c.scalar(c.dtype(x), 0.0)?;
    let zeros = c.broadcast_to(zero, &[total])?;
    let n_elems = shape::product(&dims)?;
    let (flat, places) = (c.reshape(x, std::slice::from_ref(&n_elems))?, c.reshape(places, &[n_elems])?);
    let y = c.emit(ops::Scatter { f: ops::ScatterFn::Set }, &[zeros, places, flat])?;
    let mut y = c.reshape(y, &inferred)?;
    // A larger result keeps the places of the smaller one, element by element of the flattened tensors.
    for (axis, (from, to)) in inferred.iter().zip(&out).enumerate() {
        let more = shape::sub(to, from).ok_or(OVERFLOW)?;
        if !shape::is_non_negative(&more) {
            return Err(c.expected(2, format!("at least {}", Shape::from(inferred.as_slice()))).into());
        }
        y = c.pad(y, axis, Dim::from(0), more, zero)?;
    }
    one(y)
}
