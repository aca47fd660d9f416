//! Other spellings of selections, products and layouts.

use super::edit::{
    attribute, constant, int_attribute, int_constants, ints_attribute, is_standard, n_users, node,
    text_attribute,
};
use super::{Scrambler, int_tensor};
use ssmc_frontend::onnx::proto::{GraphProto, NodeProto, TypeProto, tensor_proto::DataType, type_proto};
use std::collections::BTreeMap;

/// The element type and rank of every value of a graph that states them.
fn known_types(graph: &GraphProto) -> BTreeMap<String, (i32, usize)> {
    let of_type = |ty: &TypeProto| match ty.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some((tensor.elem_type(), tensor.shape.as_ref()?.dim.len())),
        _ => None,
    };
    let ports = graph.input.iter().chain(&graph.value_info).chain(&graph.output);
    let ports = ports.filter_map(|port| Some((port.name().to_owned(), of_type(port.r#type.as_ref()?)?)));
    let tensors = graph.initializer.iter().map(|t| (t.name().to_owned(), (t.data_type(), t.dims.len())));
    let constants = graph.node.iter().filter_map(|node| {
        let tensor = constant(node)?;
        Some((node.output[0].clone(), (tensor.data_type(), tensor.dims.len())))
    });
    ports.chain(tensors).chain(constants).collect()
}

/// The axis of a Gather node.
fn axis_of(node: &NodeProto) -> i64 {
    attribute(node, "axis").map_or(0, |a| a.i())
}

impl Scrambler {
    /// Gather of one constant index = a slice of length one, and Squeeze.
    pub(super) fn gathers_to_slices(&mut self, graph: &mut GraphProto) {
        // Slice has its bounds as operands since opset 10.
        if self.opset < 10 {
            return;
        }
        let known = int_constants(graph);
        let mut nodes = Vec::with_capacity(graph.node.len());
        for gather in std::mem::take(&mut graph.node) {
            let is_gather = is_standard(&gather) && gather.op_type() == "Gather" && gather.input.len() == 2;
            let index = known.get(gather.input.get(1).map_or("", String::as_str)).filter(|_| is_gather);
            let Some(index) = index.filter(|(dims, _)| dims.is_empty()).and_then(|(_, data)| data.first())
            else {
                nodes.push(gather);
                continue;
            };
            if self.rng.one_in(2) {
                nodes.push(gather);
                continue;
            }
            let axis = axis_of(&gather);
            let mut bound = |s: &mut Self, value: i64| {
                let name = s.fresh();
                graph.initializer.push(int_tensor(name.clone(), vec![1], vec![value]));
                name
            };
            // The index behind -1 is the end.
            let end = if *index == -1 { i64::MAX } else { index + 1 };
            let bounds = [*index, end, axis].map(|value| bound(self, value));
            let axes = bounds[2].clone();
            let sliced = self.fresh();
            let operands = std::iter::once(gather.input[0].clone()).chain(bounds).collect();
            nodes.push(node("Slice", operands, sliced.clone(), Vec::new()));
            let output = gather.output[0].clone();
            nodes.push(if self.opset >= 13 {
                node("Squeeze", vec![sliced, axes], output, Vec::new())
            } else {
                node("Squeeze", vec![sliced], output, vec![ints_attribute("axes", vec![axis])])
            });
            self.count("gathers to slices");
        }
        graph.node = nodes;
    }

    /// A slice of length one with its Squeeze = Gather of one index.
    pub(super) fn slices_to_gathers(&mut self, graph: &mut GraphProto) {
        if self.opset < 13 {
            return;
        }
        let known = int_constants(graph);
        let one = |name: Option<&String>| match known.get(name?)? {
            (dims, data) if dims.len() == 1 && data.len() == 1 => Some(data[0]),
            _ => None,
        };
        let users = n_users(graph);
        // By the value that is cut: what from, index and axis.
        let mut cuts: BTreeMap<String, (String, i64, i64)> = BTreeMap::new();
        for slice in
            graph.node.iter().filter(|n| is_standard(n) && n.op_type() == "Slice" && n.input.len() >= 4)
        {
            let (start, end, axis) =
                (one(slice.input.get(1)), one(slice.input.get(2)), one(slice.input.get(3)));
            let steps = slice.input.get(4).is_none_or(|name| name.is_empty() || one(Some(name)) == Some(1));
            if let (Some(start), Some(end), Some(axis)) = (start, end, axis)
                && steps
                && start >= 0
                && end == start + 1
                && users.get(&slice.output[0]) == Some(&1)
            {
                cuts.insert(slice.output[0].clone(), (slice.input[0].clone(), start, axis));
            }
        }
        for squeeze in &mut graph.node {
            if !is_standard(squeeze) || squeeze.op_type() != "Squeeze" || squeeze.input.len() != 2 {
                continue;
            }
            let Some((from, index, axis)) = cuts.get(&squeeze.input[0]) else { continue };
            // What was written for this seed before is not turned back.
            let is_ours = squeeze.input[0].starts_with('s') && squeeze.name.is_none();
            if one(squeeze.input.get(1)) != Some(*axis) || is_ours || self.rng.one_in(2) {
                continue;
            }
            let name = self.fresh();
            graph.initializer.push(int_tensor(name.clone(), Vec::new(), vec![*index]));
            let (input, output) = (vec![from.clone(), name], squeeze.output[0].clone());
            *squeeze = node("Gather", input, output, vec![int_attribute("axis", *axis)]);
            self.count("slices to gathers");
        }
        // Slices that nobody reads any more.
        let users = n_users(graph);
        graph.node.retain(|n| !cuts.contains_key(&n.output[0]) || users.contains_key(&n.output[0]));
    }

    /// MatMul = Einsum, where the ranks are known and no axis of a batch is repeated.
    pub(super) fn products(&mut self, graph: &mut GraphProto) {
        if self.opset < 12 {
            return;
        }
        let types = known_types(graph);
        for product in graph.node.iter_mut().filter(|n| is_standard(n) && n.input.len() <= 2) {
            match product.op_type() {
                "MatMul" => {
                    let rank = |i: usize| product.input.get(i).and_then(|name| types.get(name));
                    let (Some((ty, left)), Some((_, 2))) = (rank(0), rank(1)) else { continue };
                    let is_float =
                        [DataType::Float, DataType::Double].iter().any(|known| *known as i32 == *ty);
                    if !is_float || *left < 2 || *left > 8 || self.rng.one_in(2) {
                        continue;
                    }
                    let rows: String = ('a'..).take(left - 1).collect();
                    let equation = format!("{rows}y,yz->{rows}z");
                    product.op_type = Some("Einsum".to_owned());
                    product.attribute = vec![text_attribute("equation", &equation)];
                    self.count("products to einsums");
                }
                "Einsum" => {
                    let equation = attribute(product, "equation").map(|a| a.s().to_vec()).unwrap_or_default();
                    let equation: String =
                        String::from_utf8_lossy(&equation).chars().filter(|c| !c.is_whitespace()).collect();
                    if is_matmul(&equation) && self.rng.one_in(2) {
                        product.op_type = Some("MatMul".to_owned());
                        product.attribute.clear();
                        self.count("einsums to products");
                    }
                }
                _ => {}
            }
        }
    }

    /// A value turned one way and back.
    pub(super) fn transposes(&mut self, graph: &mut GraphProto) {
        let types = known_types(graph);
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut user in std::mem::take(&mut graph.node) {
            for i in 0..user.input.len() {
                let ty = types.get(&user.input[i]);
                let Some((_, rank)) = ty.filter(|(ty, rank)| *ty == DataType::Float as i32 && *rank >= 2)
                else {
                    continue;
                };
                if !is_standard(&user) || !self.rng.one_in(10) {
                    continue;
                }
                let mut perm: Vec<i64> = (0..*rank as i64).collect();
                self.rng.shuffle(&mut perm);
                let mut back = vec![0; *rank];
                perm.iter().enumerate().for_each(|(i, axis)| back[*axis as usize] = i as i64);
                let (turned, same) = (self.fresh(), self.fresh());
                let value = std::mem::replace(&mut user.input[i], same.clone());
                nodes.push(node(
                    "Transpose",
                    vec![value],
                    turned.clone(),
                    vec![ints_attribute("perm", perm)],
                ));
                nodes.push(node("Transpose", vec![turned], same, vec![ints_attribute("perm", back)]));
                self.count("transposes inserted");
            }
            nodes.push(user);
        }
        graph.node = nodes;
    }
}

/// Whether an equation is that of MatMul: the same batch labels first, then rows, sum and columns.
fn is_matmul(equation: &str) -> bool {
    let Some((inputs, output)) = equation.split_once("->") else { return false };
    let Some((left, right)) = inputs.split_once(',') else { return false };
    let labels = |text: &str| text.chars().collect::<Vec<_>>();
    let (left, right, output) = (labels(left), labels(right), labels(output));
    let n = left.len();
    let mut distinct: Vec<char> = left.iter().chain(&right).copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    n >= 2
        && right.len() == n
        && output.len() == n
        && left[..n - 2] == right[..n - 2]
        && output[..n - 1] == left[..n - 1]
        && left[n - 1] == right[n - 2]
        && output[n - 1] == right[n - 1]
        && distinct.len() == n + 1
        && distinct.iter().all(char::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::is_matmul;

    #[test]
    fn equations_of_matmul() {
        for yes in ["ij,jk->ik", "bij,bjk->bik", "abij,abjk->abik"] {
            assert!(is_matmul(yes), "{yes}");
        }
        for no in ["ij,kj->ik", "bij,jk->bik", "ij,jk->ki", "ii,ij->ij", "...ij,...jk->...ik", "bij,bjk"] {
            assert!(!is_matmul(no), "{no}");
        }
    }
}
