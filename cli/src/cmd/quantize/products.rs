//! The error of each product with a stored weight, on a text.

use super::Args;
use crate::failure::{Failure, Kind, Outcome};
use crate::model::Job;
use crate::session;
use ssmc::Stored;
use ssmc_ir::Model;
use ssmc_runtime::{Artifact, DType, Outputs, Session, TensorRef};
use std::collections::BTreeMap;

/// Tokens of the text that products are computed for: all of them are outputs, and large.
const TOKENS: usize = 64;

/// By weight: root mean square of the error of its products over that of the products with the exact weight, of the same
/// factors.
pub(super) fn errors(
    args: &Args,
    [exact, stored]: [&Model; 2],
    weights: &[Stored],
    ids: &[u32],
) -> Outcome<BTreeMap<String, f64>> {
    let (model, products) = ssmc::products_beside(stored, exact, weights)?;
    if products.is_empty() {
        return Ok(BTreeMap::new());
    }
    let ids = &ids[..ids.len().min(TOKENS)];
    let mut job = Job::new(&args.model, &args.compile)?;
    let compiled = job.compile(&model)?;
    let (artifact, _dir): (Artifact, _) = job.temporary(&compiled, &model)?;
    let mut session = session::open(&artifact, &args.session.options(1, ids.len()))?;
    let outputs = run(&mut session, ids)?;
    let mut sums: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for product in &products {
        let [error, size] = sums.entry(&product.weight).or_default();
        let (found, wanted) = (values(&outputs, &product.stored)?, values(&outputs, &product.exact)?);
        for (x, y) in found.iter().zip(wanted) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            *error += (x - y).powi(2);
            *size += y.powi(2);
        }
    }
    let relative = |[error, size]: [f64; 2]| if error == 0.0 { 0.0 } else { (error / size).sqrt() };
    Ok(sums.into_iter().map(|(name, sums)| (name.to_owned(), relative(sums))).collect())
}

fn run(session: &mut Session, ids: &[u32]) -> Outcome<Outputs> {
    let program = session.program("forward")?;
    let (name, dtype) = match program.inputs.as_slice() {
        [input] => (input.name.clone(), input.dtype()),
        inputs => {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            return Err(Failure::new(
                Kind::Unsupported,
                format!("expected products of token ids alone, found inputs {}", names.join(", ")),
            ));
        }
    };
    let dims = [1, ids.len()];
    let wide: Vec<i64> = ids.iter().copied().map(i64::from).collect();
    let narrow: Vec<i32> = ids.iter().copied().map(u32::cast_signed).collect();
    let fault = |error| Failure::new(Kind::Internal, format!("token ids: {error}"));
    let ids = match dtype {
        DType::I64 => TensorRef::new(&dims, &wide),
        DType::I32 => TensorRef::new(&dims, &narrow),
        _ => TensorRef::new(&dims, ids),
    };
    Ok(session.run("forward", &[(&name, ids.map_err(fault)?)])?)
}

fn values<'o>(outputs: &'o Outputs, name: &str) -> Outcome<&'o [f32]> {
    outputs
        .get(name)
        .and_then(|tensor| tensor.as_slice::<f32>())
        .ok_or_else(|| Failure::new(Kind::Unsupported, format!("expected a product in f32 as output {name}")))
}
