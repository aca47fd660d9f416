//! Views of views: `Squeeze`, `Unsqueeze` and `Reshape` behind each other are one `Reshape`. Runtimes start a kernel
//! for each of them.

use super::super::proto::{NodeProto, TensorProto};
use super::body::{i64_bytes, literal};
use ssmc_ir::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Joins views in a list of nodes in order, whose constants are `constants`; `kept` are results of the list.
pub(super) fn join(nodes: &mut Vec<NodeProto>, constants: &mut Vec<TensorProto>, kept: &BTreeSet<String>) {
    let mut vectors: BTreeMap<String, Vec<i64>> =
        constants.iter().filter_map(|t| Some((t.name().to_owned(), vector(t)?))).collect();
    let mut makers: BTreeMap<String, usize> = BTreeMap::new();
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for input in read(nodes) {
        *uses.entry(input.to_owned()).or_default() += 1;
    }
    for at in 0..nodes.len() {
        if let Some((source, shape)) = joined(nodes, at, &makers, &vectors) {
            let node = &mut nodes[at];
            let name = match vectors.iter().find(|(_, v)| **v == shape) {
                Some((name, _)) => name.clone(),
                None => {
                    let name = format!("shape.{}", node.output[0]);
                    constants.push(literal(&name, DType::I64, &[shape.len() as i64], i64_bytes(&shape)));
                    vectors.insert(name.clone(), shape);
                    name
                }
            };
            let before = std::mem::replace(&mut node.input, vec![source.clone(), name]);
            node.op_type = Some("Reshape".to_owned());
            *uses.entry(source).or_default() += 1;
            for input in before {
                uses.entry(input).and_modify(|n| *n -= 1);
            }
        }
        for output in &nodes[at].output {
            makers.insert(output.clone(), at);
        }
    }
    // What only joined views read is read by nobody now.
    let is_dead = |n: &NodeProto| {
        is_view(n) && uses.get(&n.output[0]).is_none_or(|n| *n == 0) && !kept.contains(&n.output[0])
    };
    nodes.retain(|n| !is_dead(n));
}

/// Every name that nodes, and the graphs inside them, read, as often as they do.
pub(super) fn read(nodes: &[NodeProto]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for node in nodes {
        names.extend(node.input.iter().map(String::as_str));
        for graph in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
            names.extend(read(&graph.node));
            names.extend(graph.output.iter().map(|o| o.name()));
        }
    }
    names
}

pub(super) fn is_view(node: &NodeProto) -> bool {
    matches!(node.op_type(), "Reshape" | "Squeeze" | "Unsqueeze") && node.output.len() == 1
}

/// The elements of a vector of integers.
pub(super) fn vector(tensor: &TensorProto) -> Option<Vec<i64>> {
    let is_vector = tensor.data_type() == super::type_number(DType::I64) && tensor.dims.len() == 1;
    let bytes = tensor.raw_data.as_ref().filter(|_| is_vector)?;
    Some(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
}

/// What the node and the view before it are a view of, and its shape.
fn joined(
    nodes: &[NodeProto],
    at: usize,
    makers: &BTreeMap<String, usize>,
    vectors: &BTreeMap<String, Vec<i64>>,
) -> Option<(String, Vec<i64>)> {
    let node = &nodes[at];
    let argument = |n: &NodeProto| n.input.get(1).and_then(|name| vectors.get(name)).cloned();
    let before = &nodes[*makers.get(node.input.first()?)?];
    if !is_view(node) || !is_view(before) {
        return None;
    }
    // A 0 copies an extent of the operand, which is another one then.
    let copies = |shape: &[i64]| shape.contains(&0);
    let shape = if node.op_type() == "Reshape" {
        argument(node).filter(|shape| !copies(shape))?
    } else {
        let whole = argument(before).filter(|shape| before.op_type() == "Reshape" && !copies(shape))?;
        let axes = argument(node)?;
        if node.op_type() == "Squeeze" { without(&whole, &axes)? } else { with(&whole, &axes)? }
    };
    Some((before.input.first()?.clone(), shape))
}

/// The shape without these axes, all of extent 1.
fn without(shape: &[i64], axes: &[i64]) -> Option<Vec<i64>> {
    let axes = places(axes, shape.len())?;
    let is_one = axes.iter().all(|axis| shape.get(*axis) == Some(&1));
    let rest = (0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]);
    is_one.then(|| rest.collect())
}

/// The shape with new axes of extent 1 at these places of the result.
fn with(shape: &[i64], axes: &[i64]) -> Option<Vec<i64>> {
    let rank = shape.len() + axes.len();
    let axes = places(axes, rank)?;
    let mut old = shape.iter();
    (0..rank).map(|axis| if axes.contains(&axis) { Some(1) } else { old.next().copied() }).collect()
}

fn places(axes: &[i64], rank: usize) -> Option<BTreeSet<usize>> {
    let place = |axis: &i64| usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis }).ok();
    let places: BTreeSet<usize> = axes.iter().map(place).collect::<Option<_>>()?;
    (places.len() == axes.len() && places.iter().all(|axis| *axis < rank)).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::super::body::Body;
    use super::*;

    fn ops(build: impl FnOnce(&mut Body) -> String) -> (Vec<String>, Vec<i64>) {
        let mut body = Body::new(18, "v");
        let kept = BTreeSet::from([build(&mut body)]);
        join(&mut body.nodes, &mut body.constants, &kept);
        let last = body.nodes.last().unwrap().input.get(1).cloned().unwrap_or_default();
        let shape = body.constants.iter().find(|t| t.name() == last).and_then(vector).unwrap_or_default();
        (body.nodes.iter().map(|n| n.op_type().to_owned()).collect(), shape)
    }

    #[test]
    fn views_behind_each_other_are_one() {
        let (found, shape) = ops(|body| {
            let x = body.squeeze("x", &[0]);
            let to = body.vector(&[1, -1]);
            body.op("Reshape", &[&x, &to])
        });
        assert_eq!((found, shape), (vec!["Reshape".to_owned()], vec![1, -1]));
        let (found, shape) = ops(|body| {
            let to = body.vector(&[2, 1, -1]);
            let x = body.op("Reshape", &["x", &to]);
            let x = body.squeeze(&x, &[1]);
            body.unsqueeze(&x, &[0, -1])
        });
        assert_eq!((found, shape), (vec!["Reshape".to_owned()], vec![1, 2, -1, 1]));
    }

    #[test]
    fn extents_that_are_copied_or_unknown_stay() {
        let (found, _) = ops(|body| {
            let x = body.squeeze("x", &[0]);
            let to = body.vector(&[0, -1]);
            body.op("Reshape", &[&x, &to])
        });
        assert_eq!(found, ["Squeeze", "Reshape"]);
        let (found, _) = ops(|body| {
            let to = body.vector(&[2, -1]);
            let x = body.op("Reshape", &["x", &to]);
            body.squeeze(&x, &[1])
        });
        assert_eq!(found, ["Reshape", "Squeeze"]);
    }

    #[test]
    fn a_view_with_other_readers_stays() {
        let (found, _) = ops(|body| {
            let x = body.squeeze("x", &[0]);
            let to = body.vector(&[1, -1]);
            let y = body.op("Reshape", &[&x, &to]);
            body.op("Add", &[&x, &y])
        });
        assert_eq!(found, ["Squeeze", "Reshape", "Add"]);
    }
}
