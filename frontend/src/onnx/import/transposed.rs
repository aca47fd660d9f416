//! Convolutions that spread instead of gather: `ConvTranspose` and `Col2Im`.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use super::convolution::sizes;
use ssmc_ir::Dim;
use ssmc_ir::ops::{self, BinaryFn, Reverse};

/// Elements of an axis `step` apart, with zeros between.
fn spread(c: &mut Ctx<'_, '_>, x: Val, axis: usize, step: i64) -> Result<Val, Fault> {
    if step == 1 {
        return Ok(x);
    }
    let dims = c.dims(x);
    let mut split = dims.clone();
    split.insert(axis + 1, Dim::from(1));
    let zero = c.scalar(c.dtype(x), 0.0)?;
    let x = c.reshape(x, &split)?;
    let x = c.pad(x, axis + 1, Dim::from(0), Dim::from(step - 1), zero)?;
    let mut merged = dims.clone();
    merged[axis] = shape::mul(&dims[axis], &Dim::from(step)).ok_or(OVERFLOW)?;
    let x = c.reshape(x, &merged)?;
    let len = c.dim_add(&merged[axis], 1 - step)?;
    c.slice(x, axis, Dim::from(0), len, 1)
}

/// Zeros added at both ends of an axis, or elements taken away where the amount is negative.
fn fit(c: &mut Ctx<'_, '_>, x: Val, axis: usize, low: i64, high: i64) -> Result<Val, Fault> {
    let zero = c.scalar(c.dtype(x), 0.0)?;
    let x = c.pad(x, axis, Dim::from(low.max(0)), Dim::from(high.max(0)), zero)?;
    if low >= 0 && high >= 0 {
        return Ok(x);
    }
    let (start, end) = ((-low).max(0), (-high).max(0));
    let len = c.dim_add(&c.ty(x).shape[axis].clone(), -start - end)?;
    shape::check_shape(std::slice::from_ref(&len))?;
    c.slice(x, axis, Dim::from(start), len, 1)
}

/// `ConvTranspose`: the operand spread by the strides, convolved with the mirrored kernel.
pub(crate) fn conv_transpose(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (mut x, w) = (c.input(0)?, c.input(1)?);
    let (x_dims, w_dims) = (c.dims(x), c.dims(w));
    let n = x_dims.len().checked_sub(2).filter(|n| *n > 0 && w_dims.len() == n + 2);
    let n = n.ok_or_else(|| c.expected(1, "as many axes as the operand, at least 3"))?;
    let kernel: Option<Vec<i64>> = w_dims[2..].iter().map(Dim::as_const).collect();
    let kernel = kernel.ok_or(Fault::NotKnown { idx: 1, what: "the extents of the kernel" })?;
    c.attrs.ignore(&["kernel_shape"]);
    let strides = sizes(c, "strides", n, 1, 1)?;
    let dilations = sizes(c, "dilations", n, 1, 1)?;
    let more = sizes(c, "output_padding", n, 0, 0)?;
    let pads = sizes(c, "pads", 2 * n, 0, 0)?;
    let asked = c.attrs.ints("output_shape")?.map(<[i64]>::to_vec);
    let mode = c.attrs.string_or("auto_pad", "NOTSET")?;
    let groups = c.attrs.int_or("group", 1)?;
    for i in 0..n {
        let (stride, reach) = (strides[i] as i64, (kernel[i] - 1) * dilations[i] as i64);
        let extent = x_dims[i + 2].as_const();
        let total = match (&asked, mode) {
            (Some(asked), _) => {
                let out = *asked
                    .get(i)
                    .ok_or_else(|| c.attrs.wrong("output_shape", format!("{n} numbers"), asked.len()))?;
                let extent = extent.ok_or(Fault::NotKnown { idx: 0, what: "the extents of the operand" })?;
                Some(stride * (extent - 1) + more[i] as i64 + reach + 1 - out)
            }
            (None, "SAME_UPPER" | "SAME_LOWER") => Some(reach + 1 + more[i] as i64 - stride),
            (None, "VALID") => Some(0),
            (None, _) => None,
        };
        let (low, high) = match total {
            None => (pads[i] as i64, pads[n + i] as i64),
            Some(total) if mode == "SAME_UPPER" => (total.div_euclid(2), total - total.div_euclid(2)),
            Some(total) => (total - total.div_euclid(2), total.div_euclid(2)),
        };
        x = spread(c, x, i + 2, stride)?;
        x = fit(c, x, i + 2, reach - low, reach - high + more[i] as i64)?;
    }
    let weight = mirrored(c, w, groups)?;
    let groups = usize::try_from(groups).map_err(|_| c.attrs.wrong("group", "a positive number", groups))?;
    let conv = ops::Conv { dilations, groups, pads: vec![0; 2 * n], strides: vec![1; n] };
    Ok(c.emit_all(conv, &[Some(x), Some(weight), c.opt(2)], Vec::new())?)
}

/// A kernel `[C, O/groups, k..]` as `[O, C/groups, k..]`, mirrored along every spatial axis.
fn mirrored(c: &mut Ctx<'_, '_>, w: Val, groups: i64) -> Result<Val, Fault> {
    let dims = c.dims(w);
    let group = Dim::from(groups);
    let per_group = dims[0].div_exact(&group).filter(|_| groups > 0);
    let per_group =
        per_group.ok_or_else(|| c.attrs.wrong("group", format!("a divisor of {}", dims[0]), groups))?;
    let split = [&[group.clone(), per_group.clone()], &dims[1..]].concat();
    let w = c.reshape(w, &split)?;
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
    let w = c.transpose(w, &perm)?;
    let out = shape::mul(&dims[1], &group).ok_or(OVERFLOW)?;
    let mut w = c.reshape(w, &[&[out, per_group], &dims[2..]].concat())?;
    for axis in 2..dims.len() {
        w = c.emit(Reverse { axis }, &[w])?;
    }
    Ok(w)
}

/// `Col2Im`: each place in the block spread over the image, and all of them added.
pub(crate) fn col2im(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let (image, block) = (c.ints_input(1, "image_shape")?, c.ints_input(2, "block_shape")?);
    let n = image.len();
    let dims = c.dims(x);
    let taps = block.iter().try_fold(1i64, |n, k| n.checked_mul(*k)).filter(|n| (1..=4096).contains(n));
    let taps = taps.ok_or(Fault::Limit { what: "elements of a block", limit: 4096 })?;
    let channels = dims.get(1).and_then(|d| d.div_exact(&Dim::from(taps))).filter(|_| dims.len() == 3);
    let (Some(channels), true) = (channels, block.len() == n) else {
        return Err(c.expected(0, format!("[N, C * {taps}, L]")).into());
    };
    let (strides, dilations) = (sizes(c, "strides", n, 1, 1)?, sizes(c, "dilations", n, 1, 1)?);
    let pads = sizes(c, "pads", 2 * n, 0, 0)?;
    let mut places = Vec::new();
    for i in 0..n {
        let room = image[i] + (pads[i] + pads[n + i]) as i64 - dilations[i] as i64 * (block[i] - 1) - 1;
        places.push(room.div_euclid(strides[i] as i64) + 1);
    }
    let split: Vec<Dim> = [dims[0].clone(), channels.clone(), Dim::from(taps)]
        .into_iter()
        .chain(places.iter().map(|p| Dim::from(*p)))
        .collect();
    let x = c.reshape(x, &split)?;
    let mut sum: Option<Val> = None;
    for flat in 0..taps {
        let part = c.slice(x, 2, Dim::from(flat), Dim::from(1), 1)?;
        let mut part = c.reshape(part, &[&split[..2], &split[3..]].concat())?;
        let mut rest = flat;
        for i in (0..n).rev() {
            let tap = rest % block[i];
            rest /= block[i];
            let (stride, low) = (strides[i] as i64, pads[i] as i64);
            part = spread(c, part, i + 2, stride)?;
            let before = tap * dilations[i] as i64 - low;
            let after = image[i] - before - ((places[i] - 1) * stride + 1);
            part = fit(c, part, i + 2, before, after)?;
        }
        sum = Some(match sum {
            Some(sum) => c.binary(BinaryFn::Add, sum, part)?,
            None => part,
        });
    }
    one(sum.ok_or_else(|| c.expected(2, "a block"))?)
}
