//! `Conv`.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use ssmc_ir::Dim;
use ssmc_ir::ops;

/// The largest stride, dilation or pad.
const MAX_ATTRIBUTE: i64 = 1 << 31;

/// The list in an attribute, each at least `low`, or a default.
pub(crate) fn sizes(
    c: &Ctx<'_, '_>,
    name: &'static str,
    n: usize,
    low: i64,
    default: i64,
) -> Result<Vec<usize>, Fault> {
    let Some(given) = c.attrs.ints(name)? else { return Ok(vec![default as usize; n]) };
    if given.len() != n || given.iter().any(|v| !(low..=MAX_ATTRIBUTE).contains(v)) {
        return Err(c.attrs.wrong(name, format!("{n} numbers from {low}"), format!("{given:?}")));
    }
    Ok(given.iter().map(|v| *v as usize).collect())
}

/// `Conv` over any number of spatial axes.
pub(crate) fn conv(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, w) = (c.input(0)?, c.input(1)?);
    Ok(conv_of(c, x, w, c.opt(2))?)
}

/// The convolution of these tensors by the attributes of the node.
pub(crate) fn conv_of(c: &mut Ctx<'_, '_>, x: Val, w: Val, bias: Option<Val>) -> Result<Vec<Val>, Fault> {
    let (x_dims, w_dims) = (c.dims(x), c.dims(w));
    let Some(n) = x_dims.len().checked_sub(2).filter(|n| *n > 0) else {
        let (expected, found) = ("at least 3 axes".into(), c.ty(x).to_string());
        return Err(Fault::Input { idx: 0, expected, found });
    };
    if w_dims.len() != n + 2 {
        let (expected, found) = (format!("{} axes", n + 2), c.ty(w).to_string());
        return Err(Fault::Input { idx: 1, expected, found });
    }
    if let Some(kernel) = c.attrs.ints("kernel_shape")?
        && (kernel.len() != n || kernel.iter().zip(&w_dims[2..]).any(|(k, d)| !d.is(*k)))
    {
        return Err(c.attrs.wrong("kernel_shape", c.ty(w), format!("{kernel:?}")));
    }
    let strides = sizes(c, "strides", n, 1, 1)?;
    let dilations = sizes(c, "dilations", n, 1, 1)?;
    let group = c.attrs.int_or("group", 1)?;
    let groups = usize::try_from(group).ok().filter(|g| (1..=MAX_ATTRIBUTE).contains(&(*g as i64)));
    let groups = groups.ok_or_else(|| c.attrs.wrong("group", "a positive number", group))?;
    let explicit = sizes(c, "pads", 2 * n, 0, 0)?;
    let pads = match c.attrs.string_or("auto_pad", "NOTSET")? {
        "" | "NOTSET" => explicit,
        "VALID" => vec![0; 2 * n],
        mode @ ("SAME_UPPER" | "SAME_LOWER") => {
            let mut pads = vec![0; 2 * n];
            for i in 0..n {
                let total = same(&x_dims[i + 2], &w_dims[i + 2], strides[i], dilations[i])?;
                let (small, large) = (total / 2, total - total / 2);
                (pads[i], pads[n + i]) = if mode == "SAME_UPPER" { (small, large) } else { (large, small) };
            }
            pads
        }
        other => {
            let expected = "NOTSET, VALID, SAME_UPPER or SAME_LOWER";
            return Err(c.attrs.wrong("auto_pad", expected, format!("{other:?}")));
        }
    };
    let conv = ops::Conv { dilations, groups, pads, strides };
    c.emit_all(conv, &[Some(x), Some(w), bias], Vec::new())
}

/// The padding that makes the output ceil(extent / stride) long.
pub(crate) fn same(extent: &Dim, kernel: &Dim, stride: usize, dilation: usize) -> Result<usize, Fault> {
    let unproven = || Fault::Unproven(format!("the padding of extent {extent} is constant"));
    let reach = kernel.as_const().and_then(|k| (k - 1).checked_mul(dilation as i64)).ok_or_else(unproven)?;
    let total = if stride == 1 {
        reach
    } else {
        let n = extent.as_const().ok_or_else(unproven)?;
        let stride = stride as i64;
        let places = (n + stride - 1) / stride;
        (places - 1)
            .checked_mul(stride)
            .and_then(|last| last.checked_add(reach + 1 - n))
            .ok_or_else(unproven)?
    };
    usize::try_from(total.clamp(0, MAX_ATTRIBUTE)).map_err(|_| unproven())
}
