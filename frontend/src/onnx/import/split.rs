//! `Split`.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::shape::{self, OVERFLOW};
use ssmc_ir::{Dim, DimFn};

/// `Split`: by an attribute before version 13, an input from there on, or evenly.
pub(crate) fn split(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let x = c.input(0)?;
    let axis = c.axis(0, c.rank(x))?;
    let extent = c.ty(x).shape[axis].clone();
    let given = if c.version < 13 {
        c.attrs.ints("split")?.map(|s| s.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>())
    } else {
        c.opt(1).map(|_| c.dims_input(1, "split")).transpose()?
    };
    let count = c.attrs.int("num_outputs")?;
    let sizes = match given {
        Some(sizes) => sizes,
        None => {
            let n = count.unwrap_or(c.n_outputs() as i64);
            if n < 1 || n < c.n_outputs() as i64 || n > shape::MAX_KNOWN as i64 {
                return Err(c.attrs.wrong("num_outputs", c.n_outputs(), n).into());
            }
            even(&extent, n, c.version >= 18)?
        }
    };
    let total = sizes.iter().try_fold(Dim::from(0), |sum, n| shape::add(&sum, n)).ok_or(OVERFLOW)?;
    if total != extent || sizes.len() < c.n_outputs() {
        let what = "split sizes".to_owned();
        let found = format!("{} parts of together {total}", sizes.len());
        return Err(Fault::Mismatch {
            what,
            expected: format!("{} parts of {extent}", c.n_outputs()),
            found,
        }
        .into());
    }
    let mut start = Dim::from(0);
    let mut parts = Vec::new();
    for len in sizes {
        shape::check_shape(std::slice::from_ref(&len))?;
        parts.push(c.slice(x, axis, start.clone(), len.clone(), 1)?);
        start = shape::add(&start, &len).ok_or(OVERFLOW)?;
    }
    Ok(parts)
}

/// `n` parts of `extent`; where `uneven` is allowed, the last part may be smaller.
fn even(extent: &Dim, n: i64, uneven: bool) -> Result<Vec<Dim>, Fault> {
    let count = Dim::from(n);
    if let Some(part) = extent.div_exact(&count) {
        return Ok(vec![part; n as usize]);
    }
    if !uneven {
        return Err(match extent.as_const() {
            Some(_) => Fault::Mismatch {
                what: "split".into(),
                expected: format!("an extent divisible by {n}"),
                found: extent.to_string(),
            },
            None => Fault::Unproven(format!("{n} divides {extent}")),
        });
    }
    let part = shape::apply(DimFn::CeilDiv, extent, &count).ok_or(OVERFLOW)?;
    let others = shape::mul(&part, &Dim::from(n - 1)).ok_or(OVERFLOW)?;
    let last = shape::sub(extent, &others).ok_or(OVERFLOW)?;
    let mut sizes = vec![part; n as usize];
    sizes[n as usize - 1] = last;
    Ok(sizes)
}
