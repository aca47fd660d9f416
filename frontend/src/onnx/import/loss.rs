//! Losses, which graphs exported with their criterion hold.

use super::super::ctx::{Ctx, one};
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use ssmc_ir::ops::{BinaryFn, Cmp, ReduceFn, UnaryFn};
use ssmc_ir::{DType, Dim};

/// How the losses of all samples become the result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

/// The weighted loss of log probabilities `[N, C, d..]` for classes `[N, d..]`, reduced as the node asks.
fn loss(c: &mut Ctx<'_, '_>, log_prob: Val, target: Val, weight: Option<Val>) -> Result<Val, Fault> {
    let reduction = match c.attrs.string_or("reduction", "mean")? {
        "none" => Reduction::None,
        "sum" => Reduction::Sum,
        "mean" => Reduction::Mean,
        other => return Err(c.attrs.wrong("reduction", "none, sum or mean", format!("{other:?}"))),
    };
    let ignored = c.attrs.int("ignore_index")?;
    let (dims, target_dims) = (c.dims(log_prob), c.dims(target));
    let rank = dims.len();
    if rank < 2 || [&dims[..1], &dims[2..]].concat() != target_dims {
        return Err(c.expected(1, "one class per sample"));
    }
    let target = c.cast(target, DType::I64)?;
    let mut kept = dims.clone();
    kept[1] = Dim::from(1);
    let classes = c.reshape(target, &kept)?;
    let count = c.count(&dims[1], DType::I64)?;
    let count = c.along(count, 1, rank)?;
    let is_class = c.compare(Cmp::Eq, classes, count)?;
    let zero = c.scalar(c.dtype(log_prob), 0.0)?;
    let picked = c.select(is_class, log_prob, zero)?;
    let picked = c.reduce(ReduceFn::Sum, picked, &[1], false)?;
    let mut losses = c.unary(UnaryFn::Neg, picked)?;
    let mut factors = match weight {
        Some(weight) => {
            let weight = c.along(weight, 1, rank)?;
            let of_class = c.select(is_class, weight, zero)?;
            Some(c.reduce(ReduceFn::Sum, of_class, &[1], false)?)
        }
        None => None,
    };
    if let Some(factor) = factors {
        losses = c.binary(BinaryFn::Mul, losses, factor)?;
    }
    if let Some(ignored) = ignored {
        let ignored = c.int_scalar(DType::I64, ignored)?;
        let counts = c.compare(Cmp::Ne, target, ignored)?;
        losses = c.select(counts, losses, zero)?;
        let factor = match factors {
            Some(factor) => factor,
            None => c.splat(1.0, losses)?,
        };
        factors = Some(c.select(counts, factor, zero)?);
    }
    let all: Vec<usize> = (0..rank - 1).collect();
    match (reduction, factors) {
        (Reduction::None, _) => Ok(losses),
        (Reduction::Sum, _) => c.reduce(ReduceFn::Sum, losses, &all, false),
        (Reduction::Mean, None) => c.reduce(ReduceFn::Mean, losses, &all, false),
        (Reduction::Mean, Some(factors)) => {
            let sum = c.reduce(ReduceFn::Sum, losses, &all, false)?;
            let n = c.reduce(ReduceFn::Sum, factors, &all, false)?;
            c.binary(BinaryFn::Div, sum, n)
        }
    }
}

/// `NegativeLogLikelihoodLoss`.
pub(crate) fn negative_log_likelihood(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, target) = (c.input(0)?, c.input(1)?);
    one(loss(c, x, target, c.opt(2))?)
}

/// `SoftmaxCrossEntropyLoss`; also the log probabilities.
pub(crate) fn softmax_cross_entropy(c: &mut Ctx<'_, '_>) -> Imported<Vec<Val>> {
    let (x, target) = (c.input(0)?, c.input(1)?);
    if c.rank(x) < 2 {
        return Err(c.expected(0, "at least 2 axes").into());
    }
    let max = c.reduce(ReduceFn::Max, x, &[1], true)?;
    let shifted = c.binary(BinaryFn::Sub, x, max)?;
    let exp = c.unary(UnaryFn::Exp, shifted)?;
    let sum = c.reduce(ReduceFn::Sum, exp, &[1], true)?;
    let log = c.unary(UnaryFn::Log, sum)?;
    let log_prob = c.binary(BinaryFn::Sub, shifted, log)?;
    Ok(vec![loss(c, log_prob, target, c.opt(2))?, log_prob])
}
