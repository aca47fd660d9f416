//! ONNX models rewritten into equivalent ones, which look as if another exporter had written them.
//!
//! A compiler that recognizes structure gives the same results and counts for them. Every change keeps the function
//! that a model computes, but for the order in which a product sums its terms.

mod edit;
mod layout;
mod names;
#[cfg(test)]
mod tests;

use ssmc_frontend::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};
use std::collections::{BTreeMap, BTreeSet};

/// SplitMix64, so that a seed gives the same model everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Yes in one of `n` cases.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// What was changed, by kind.
pub type Changes = BTreeMap<&'static str, usize>;

/// Rewrites the model; the same seed does it in the same way.
pub fn scramble(model: &mut ModelProto, seed: u64) -> Changes {
    let opset = model
        .opset_import
        .iter()
        .filter(|o| matches!(o.domain(), "" | "ai.onnx"))
        .map(|o| o.version())
        .max()
        .unwrap_or(0);
    let mut s =
        Scrambler { rng: Rng::new(seed), changes: Changes::new(), opset, n_fresh: 0, taken: BTreeSet::new() };
    let Some(graph) = &mut model.graph else { return s.changes };
    s.taken = names::all(graph);
    s.share(graph);
    s.gathers_to_slices(graph);
    s.slices_to_gathers(graph);
    s.products(graph);
    s.duplicate(graph);
    s.transposes(graph);
    s.constants(graph);
    edit::each_graph(graph, &mut |graph| {
        s.swap_operands(graph);
        s.reorder(graph);
    });
    s.rename(graph);
    s.changes
}

struct Scrambler {
    rng: Rng,
    changes: Changes,
    /// The version of the standard operators.
    opset: i64,
    n_fresh: usize,
    taken: BTreeSet<String>,
}

impl Scrambler {
    fn count(&mut self, what: &'static str) {
        *self.changes.entry(what).or_default() += 1;
    }

    /// A name that no value has.
    fn fresh(&mut self) -> String {
        loop {
            self.n_fresh += 1;
            let name = format!("s{}", self.n_fresh);
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Operands of commutative operators change places.
    fn swap_operands(&mut self, graph: &mut GraphProto) {
        for node in graph.node.iter_mut().filter(|node| edit::is_standard(node)) {
            if matches!(node.op_type(), "Add" | "Mul" | "And" | "Or" | "Xor" | "Equal" | "Max" | "Min")
                && node.input.len() == 2
                && self.rng.one_in(2)
            {
                node.input.swap(0, 1);
                self.count("operands swapped");
            }
        }
    }

    /// Nodes in another order in which each comes behind what it reads.
    fn reorder(&mut self, graph: &mut GraphProto) {
        let nodes = std::mem::take(&mut graph.node);
        let makers: BTreeMap<&str, usize> = nodes
            .iter()
            .enumerate()
            .flat_map(|(i, node)| node.output.iter().filter(|o| !o.is_empty()).map(move |o| (o.as_str(), i)))
            .collect();
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        let mut waits: Vec<usize> = vec![0; nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            let read = edit::reads(node);
            let needed: BTreeSet<usize> = read.iter().filter_map(|name| makers.get(name).copied()).collect();
            for maker in needed.into_iter().filter(|maker| *maker != i) {
                users[maker].push(i);
                waits[i] += 1;
            }
        }
        let mut ready: Vec<usize> = (0..nodes.len()).filter(|i| waits[*i] == 0).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while !ready.is_empty() {
            let at = self.rng.below(ready.len());
            let next = ready.swap_remove(at);
            order.push(next);
            for user in &users[next] {
                waits[*user] -= 1;
                if waits[*user] == 0 {
                    ready.push(*user);
                }
            }
        }
        // A graph with a cycle is not ours to mend.
        if order.len() != nodes.len() {
            graph.node = nodes;
            return;
        }
        let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
        graph.node = order.iter().filter_map(|i| nodes[*i].take()).collect();
        self.count("graphs reordered");
    }

    /// Constant nodes become initializers and the other way around.
    fn constants(&mut self, graph: &mut GraphProto) {
        let fixed: BTreeSet<String> = graph.input.iter().map(|i| i.name().to_owned()).collect();
        let outputs: BTreeSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let (mut nodes, mut tensors) = (Vec::new(), Vec::new());
        for node in std::mem::take(&mut graph.node) {
            let value = edit::constant(&node).filter(|_| !outputs.contains(&node.output[0])).cloned();
            match value {
                Some(mut tensor) if self.rng.one_in(2) => {
                    tensor.name = Some(node.output[0].clone());
                    tensors.push(tensor);
                    self.count("constants to initializers");
                }
                _ => nodes.push(node),
            }
        }
        for tensor in std::mem::take(&mut graph.initializer) {
            let small = edit::is_inline(&tensor) && !fixed.contains(tensor.name());
            if small && !outputs.contains(tensor.name()) && self.rng.one_in(2) {
                nodes.insert(0, edit::constant_node(tensor));
                self.count("initializers to constants");
            } else {
                tensors.push(tensor);
            }
        }
        (graph.node, graph.initializer) = (nodes, tensors);
    }

    /// Equal nodes become one.
    fn share(&mut self, graph: &mut GraphProto) {
        let outputs: BTreeSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        let mut kept = Vec::new();
        for mut node in std::mem::take(&mut graph.node) {
            edit::rename_reads(&mut node, &renamed);
            let is_pure = edit::is_pure(&node) && node.output.iter().all(|o| !outputs.contains(o));
            let key = format!(
                "{:?}",
                (node.op_type(), node.domain(), &node.input, &node.attribute, node.output.len())
            );
            match seen.get(&key) {
                Some(first) if is_pure && self.rng.one_in(2) => {
                    renamed.extend(node.output.iter().cloned().zip(first.iter().cloned()));
                    self.count("nodes shared");
                }
                _ => {
                    if is_pure {
                        seen.entry(key).or_insert_with(|| node.output.clone());
                    }
                    kept.push(node);
                }
            }
        }
        graph.node = kept;
    }

    /// Nodes with several users are computed once for each of some of them.
    fn duplicate(&mut self, graph: &mut GraphProto) {
        let users = edit::n_users(graph);
        let makers: BTreeMap<String, NodeProto> = graph
            .node
            .iter()
            .filter(|node| edit::is_pure(node) && node.output.len() == 1)
            .map(|node| (node.output[0].clone(), node.clone()))
            .collect();
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            for i in 0..node.input.len() {
                let shared = users.get(&node.input[i]).is_some_and(|n| *n > 1);
                if let Some(maker) = makers.get(&node.input[i]).filter(|_| shared)
                    && self.rng.one_in(12)
                {
                    let name = self.fresh();
                    nodes.push(NodeProto { output: vec![name.clone()], ..maker.clone() });
                    node.input[i] = name;
                    self.count("nodes duplicated");
                }
            }
            nodes.push(node);
        }
        graph.node = nodes;
    }

    /// Every value that is neither input nor output of the model gets another name, and so does every node.
    fn rename(&mut self, graph: &mut GraphProto) {
        let kept: BTreeSet<String> =
            graph.input.iter().chain(&graph.output).map(|port| port.name().to_owned()).collect();
        let mut old: Vec<String> =
            names::all(graph).into_iter().filter(|name| !kept.contains(name)).collect();
        self.rng.shuffle(&mut old);
        let free = (0..).map(|i| format!("v{i}")).filter(|name| !kept.contains(name));
        let new: BTreeMap<String, String> = old.into_iter().zip(free).collect();
        self.changes.insert("values renamed", new.len());
        let mut n_nodes = 0;
        edit::each_graph(graph, &mut |graph| names::apply(graph, &new, &mut n_nodes));
    }
}

/// A tensor of integers.
fn int_tensor(name: String, dims: Vec<i64>, data: Vec<i64>) -> TensorProto {
    TensorProto {
        name: Some(name),
        dims,
        data_type: Some(DataType::Int64 as i32),
        int64_data: data,
        ..TensorProto::default()
    }
}
