//! `TfIdfVectorizer`: how often each n-gram of a pool occurs, gaps between its items allowed.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::tensor::Literal;
use ssmc_ir::ops::{BinaryFn, Cmp, Gather, ReduceFn};
use ssmc_ir::{DType, Dim};
use std::collections::BTreeSet;

/// The longest n-gram, and the most items that may be skipped.
const MAX_GRAM: i64 = 64;

/// The n-grams of one length: their items, one row for each, and the column of the result that each counts in.
struct Pool<'m> {
    length: usize,
    items: &'m [i64],
    columns: &'m [i64],
}

/// A number that must be there, in a range.
fn number(c: &Ctx<'_, '_>, name: &'static str, low: i64) -> Result<usize, Fault> {
    let n = c.attrs.int(name)?.ok_or(Fault::MissingAttribute { name })?;
    let fits = (low..=MAX_GRAM).contains(&n);
    if fits { Ok(n as usize) } else { Err(c.attrs.wrong(name, format!("{low} to {MAX_GRAM}"), n)) }
}

/// A list that must be there.
fn list<'m>(c: &Ctx<'_, 'm>, name: &'static str) -> Result<&'m [i64], Fault> {
    c.attrs.ints(name)?.ok_or(Fault::MissingAttribute { name })
}

/// The pool taken apart by length.
fn pools<'m>(c: &Ctx<'_, 'm>, items: &'m [i64], columns: &'m [i64]) -> Result<Vec<Pool<'m>>, Fault> {
    let starts = list(c, "ngram_counts")?;
    let wrong = || c.attrs.wrong("ngram_counts", "ascending places of the pool", format!("{starts:?}"));
    let starts: Vec<usize> =
        starts.iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let (mut pools, mut before) = (Vec::new(), 0);
    for (i, start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(items.len());
        let (items, length) = (items.get(*start..end).ok_or_else(wrong)?, i + 1);
        if items.len() % length != 0 {
            return Err(wrong());
        }
        let n = items.len() / length;
        let columns = columns.get(before..before + n).ok_or_else(|| {
            c.attrs.wrong("ngram_indexes", "one for each n-gram of the pool", columns.len())
        })?;
        before += n;
        pools.push(Pool { length, items, columns });
    }
    Ok(pools)
}

/// How often each n-gram of a pool occurs in each row of `x` with `gap` places from item to item, as `[rows, n-grams]`;
/// `None` if the rows are too short for it.
fn occurrences(
    c: &mut Ctx<'_, '_>,
    x: Val,
    n_items: i64,
    pool: &Pool<'_>,
    gap: usize,
) -> Result<Option<Val>, Fault> {
    let places = n_items - ((pool.length - 1) * gap) as i64;
    if places <= 0 {
        return Ok(None);
    }
    let (rows, n_grams) = (c.dims(x)[0].clone(), pool.columns.len());
    let mut all: Option<Val> = None;
    for k in 0..pool.length {
        let window = c.slice(x, 1, Dim::from((k * gap) as i64), Dim::from(places), 1)?;
        let window = c.reshape(window, &[rows.clone(), Dim::from(places), Dim::from(1)])?;
        let wanted: Vec<u8> =
            pool.items.iter().skip(k).step_by(pool.length).flat_map(|item| item.to_le_bytes()).collect();
        let wanted = Literal { dtype: DType::I64, narrow: None, dims: vec![n_grams], bytes: wanted.into() };
        let wanted = c.make_literal(wanted);
        let equal = c.compare(Cmp::Eq, window, wanted)?;
        all = Some(match all {
            Some(all) => c.binary(BinaryFn::And, all, equal)?,
            None => equal,
        });
    }
    let Some(all) = all else { return Ok(None) };
    let ones = c.cast(all, DType::F32)?;
    Ok(Some(c.reduce(ReduceFn::Sum, ones, &[1], false)?))
}

/// `TfIdfVectorizer` over integers.
pub(crate) fn tf_idf(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    if c.attrs.has("pool_strings") {
        return Err(Fault::Unsupported("a pool of strings".into()).into());
    }
    let x = c.input(0)?;
    let dims = c.dims(x);
    if !matches!(dims.len(), 1 | 2) || !c.dtype(x).is_int() {
        return Err(c.expected(0, "integers along one or two axes").into());
    }
    let n_items = dims[dims.len() - 1].as_const();
    let n_items = n_items.ok_or(Fault::NotKnown { idx: 0, what: "the number of items" })?;
    let (min, max) = (number(c, "min_gram_length", 1)?, number(c, "max_gram_length", 1)?);
    let skips = number(c, "max_skip_count", 0)?;
    let (items, columns) = (list(c, "pool_int64s")?, list(c, "ngram_indexes")?);
    let n_columns = columns.iter().max().map_or(0, |last| last.saturating_add(1));
    let unique: BTreeSet<i64> = columns.iter().copied().collect();
    if unique.len() != columns.len() || unique.first().is_none_or(|first| *first < 0) || n_columns > 1 << 24 {
        let found = format!("{} of them", columns.len());
        return Err(c.attrs.wrong("ngram_indexes", "different columns", found).into());
    }
    let x = c.cast(x, DType::I64)?;
    let rows = if dims.len() == 2 { dims[0].clone() } else { Dim::from(1) };
    let x = c.reshape(x, &[rows.clone(), Dim::from(n_items)])?;
    // Counts of all n-grams that are looked for behind each other, and one column of zeros for the others.
    let zero = c.scalar(DType::F32, 0.0)?;
    let mut parts = vec![c.broadcast_to(zero, &[rows, Dim::from(1)])?];
    let (mut place, mut n_counted) = (vec![0i64; n_columns as usize], 1);
    for pool in pools(c, items, columns)? {
        if !(min..=max).contains(&pool.length) || pool.columns.is_empty() {
            continue;
        }
        // A single item has no gaps.
        let most = if pool.length == 1 { 1 } else { skips + 1 };
        let mut sum: Option<Val> = None;
        for gap in 1..=most {
            let Some(part) = occurrences(c, x, n_items, &pool, gap)? else { continue };
            sum = Some(match sum {
                Some(sum) => c.binary(BinaryFn::Add, sum, part)?,
                None => part,
            });
        }
        let Some(sum) = sum else { continue };
        parts.push(sum);
        for column in pool.columns {
            place[*column as usize] = n_counted;
            n_counted += 1;
        }
    }
    let counts = c.concat(&parts, 1)?;
    let bytes: Vec<u8> = place.iter().flat_map(|at| at.to_le_bytes()).collect();
    let place = Literal { dtype: DType::I64, narrow: None, dims: vec![place.len()], bytes: bytes.into() };
    let place = c.make_literal(place);
    let y = c.emit(Gather { axis: 1 }, &[counts, place])?;
    let y = weighted(c, y, n_columns)?;
    let dims = if dims.len() == 2 { c.dims(y) } else { vec![Dim::from(n_columns)] };
    one(c.reshape(y, &dims)?)
}

/// Counts as the attribute `mode` wants them.
fn weighted(c: &mut Ctx<'_, '_>, counts: Val, n_columns: i64) -> Result<Val, Fault> {
    let weights = match c.attrs.floats("weights")? {
        None | Some([]) => None,
        Some(w) if w.len() as i64 == n_columns => Some(w.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()),
        Some(w) => return Err(c.attrs.wrong("weights", format!("{n_columns} numbers"), w.len())),
    };
    let y = match c.attrs.string("mode")?.ok_or(Fault::MissingAttribute { name: "mode" })? {
        "TF" => return Ok(counts),
        "TFIDF" => counts,
        "IDF" => {
            let occurs = c.compare_scalar(Cmp::Gt, counts, 0.0)?;
            c.cast(occurs, DType::F32)?
        }
        other => return Err(c.attrs.wrong("mode", "TF, IDF or TFIDF", format!("{other:?}"))),
    };
    let Some(weights) = weights else { return Ok(y) };
    let weights = c.floats(DType::F32, &[weights.len()], &weights)?;
    c.binary(BinaryFn::Mul, y, weights)
}
