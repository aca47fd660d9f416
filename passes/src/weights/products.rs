//! What the storage of weights does to products: each beside the product of the same factor with the exact weight.

use super::{StoreError, Stored};
use crate::programs;
use ssmc_ir::edit::{EditError, Rewriter, dce, drop_unused_inputs};
use ssmc_ir::ops::Op;
use ssmc_ir::{DType, Graph, Model, ValueId};
use std::collections::BTreeSet;

/// A product with a stored weight, as two outputs of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The weight.
    pub weight: String,
    /// The output with the product as it is computed.
    pub stored: String,
    /// The output with the product of the same factor and the exact weight.
    pub exact: String,
}

/// A model that computes the products with these weights of `stored`, whose states start from zero, and beside each the
/// one with the weight as `exact` has it.
///
/// # Errors
/// The graph cannot be rebuilt.
pub fn beside(
    stored: &Model,
    exact: &Model,
    weights: &[Stored],
) -> Result<(Model, Vec<Compared>), StoreError> {
    let names: BTreeSet<&str> = weights.iter().map(|w| w.name.as_str()).collect();
    let mut model = stored.clone();
    let mut found = Vec::new();
    let old = &stored.graph;
    let mut r = Rewriter::new(old);
    for (_, node) in old.nodes() {
        r.copy(node)?;
        let Op::Contract(op) = &node.op else { continue };
        let factors: Vec<ValueId> = node.operands.iter().copied().flatten().collect();
        let Some(i) = factors.iter().position(|f| source(old, *f).is_some_and(|n| names.contains(n))) else {
            continue;
        };
        let Some(name) = source(old, factors[i]).filter(|_| factors.len() == 2) else { continue };
        let Some(weight) = exact.weights.get(name) else { continue };
        let free = exact_name(name);
        model.weights.insert(free.clone(), weight.clone());
        let factor = unrounded(&mut r, factors[i], (&free, exact))?;
        let factor = r.builder().cast(factor, old.ty(factors[i]).dtype).map_err(EditError::from)?;
        let mut operands = [r.get(factors[0])?, r.get(factors[1])?];
        operands[i] = factor;
        let product = r.builder().op(op.clone(), &operands).map_err(EditError::from)?;
        let compared = Compared {
            weight: name.to_owned(),
            stored: format!("stored.{}", found.len()),
            exact: format!("exact.{}", found.len()),
        };
        let computed = r.get(node.results[0])?;
        r.builder().output(&compared.stored, computed);
        r.builder().output(&compared.exact, product);
        found.push(compared);
    }
    let graph = dce(&r.finish_with(&[])?)?;
    let states = programs::state_names(old);
    let absent: Vec<&str> = states.iter().map(String::as_str).chain([programs::SEQ_IDX]).collect();
    model.graph = drop_unused_inputs(&programs::start_from_zero(&graph, &absent)?)?;
    Ok((model, found))
}

fn exact_name(name: &str) -> String {
    format!("{name}.exact")
}

/// The name of the weight that a value is, in whatever form.
fn source(graph: &Graph, value: ValueId) -> Option<&str> {
    let node = graph.def_node(value)?;
    match &node.op {
        Op::WeightRef(weight) => Some(&weight.name),
        Op::Cast(_) | Op::Transpose(_) | Op::Reshape(_) | Op::Dequantize(_) => {
            source(graph, node.operands[0]?)
        }
        _ => None,
    }
}

/// A value that is a weight in some form, out of the exact weight.
fn unrounded(
    r: &mut Rewriter<'_>,
    value: ValueId,
    (name, exact): (&str, &Model),
) -> Result<ValueId, EditError> {
    let dropped = || EditError::Dropped { value };
    let node = r.old().def_node(value).ok_or_else(dropped)?;
    let inner = |r: &mut Rewriter<'_>| -> Result<ValueId, EditError> {
        unrounded(r, node.operands[0].ok_or_else(dropped)?, (name, exact))
    };
    let made = match &node.op {
        Op::WeightRef(weight) => {
            let ty = &exact.weights.get(&weight.name).ok_or_else(dropped)?.ty;
            r.builder().weight(name.to_owned(), ty)
        }
        Op::Cast(_) => return inner(r),
        Op::Dequantize(_) => {
            let inner = inner(r)?;
            r.builder().cast(inner, DType::F32)
        }
        op => {
            let inner = inner(r)?;
            r.builder().op(op.clone(), &[inner])
        }
    };
    Ok(made?)
}
