//! Checks of the graph's structure before any node is imported: names, order, operators.

use super::fault::Fault;
use super::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use super::registry;
use ssmc_ir::Diagnostic;
use std::collections::{BTreeMap, BTreeSet};

/// The newest version of the standard operator set whose semantics the importer was written against.
pub(crate) const MAX_OPSET: i64 = 28;

/// The deepest chain of local functions that call each other.
const MAX_CALL_DEPTH: usize = 32;

/// Domain, name and overload of a local function.
pub(crate) type FunctionKey<'m> = (&'m str, &'m str, &'m str);

/// The local functions of a model.
pub(crate) type Functions<'m> = BTreeMap<FunctionKey<'m>, &'m FunctionProto>;

/// The version of each operator set that a graph or function is written against.
pub(crate) type Opsets<'m> = BTreeMap<&'m str, i64>;

/// The name of an operator domain, with the two spellings of the standard one made equal.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The key of the function that a node may call.
pub(crate) fn function_key(node: &NodeProto) -> FunctionKey<'_> {
    (domain(node.domain()), node.op_type(), node.overload())
}

/// Versions by domain.
pub(crate) fn opsets(imports: &[OperatorSetIdProto]) -> Opsets<'_> {
    imports.iter().map(|o| (domain(o.domain()), o.version())).collect()
}

/// Where a node is, in the words of the IR's locations.
pub(crate) fn place(node: &NodeProto) -> String {
    let output = node.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str);
    format!("node {:?} ({}, output {output:?})", node.name(), node.op_type())
}

/// Faults collected so far.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) list: Vec<Diagnostic>,
    /// Whether one of them means that the model itself is wrong.
    pub(crate) invalid: bool,
}

impl Faults {
    /// Adds a fault.
    pub(crate) fn push(&mut self, place: impl Into<String>, fault: &Fault) {
        self.invalid |= !fault.is_unsupported();
        self.list.push(fault.at(place));
    }

    fn structure(&mut self, code: &'static str, place: impl Into<String>, message: String) {
        self.invalid = true;
        self.list.push(Diagnostic::error(code, place, message));
    }

    fn unsupported(&mut self, code: &'static str, place: impl Into<String>, message: String) {
        self.list.push(Diagnostic::error(code, place, message));
    }
}

/// Checks the graph of a model, its subgraphs and the functions that they call, and adds every fault found.
pub(crate) fn check<'m>(model: &'m ModelProto, faults: &mut Faults) -> Functions<'m> {
    let mut functions = Functions::new();
    for f in &model.functions {
        let key = (domain(f.domain()), f.name(), f.overload());
        if functions.insert(key, f).is_some() {
            faults.structure(
                "ssmc::import::duplicate",
                format!("function {:?}", f.name()),
                "defined twice".into(),
            );
        }
    }
    let mut checker =
        Checker { functions: &functions, faults, checked: BTreeSet::new(), calling: Vec::new() };
    let opsets = opsets(&model.opset_import);
    checker.opsets(&opsets, "");
    match &model.graph {
        Some(graph) => checker.graph(graph, &opsets, &[]),
        None => checker.faults.structure("ssmc::import::decode", "", "expected a graph, found none".into()),
    }
    functions
}

struct Checker<'a, 'm> {
    functions: &'a Functions<'m>,
    faults: &'a mut Faults,
    checked: BTreeSet<FunctionKey<'m>>,
    calling: Vec<FunctionKey<'m>>,
}

/// The names that a graph defines before its first node.
fn formals(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    graph
        .input
        .iter()
        .map(|i| i.name())
        .chain(graph.initializer.iter().map(|t| t.name()))
        .chain(sparse.map(|t| t.name()))
}

impl<'m> Checker<'_, 'm> {
    fn opsets(&mut self, opsets: &Opsets<'m>, place: &str) {
        match opsets.get("") {
            Some(version) if *version > MAX_OPSET => self.faults.unsupported(
                "ssmc::import::unsupported_opset",
                place,
                format!("operator set version {version} is not supported, the newest is {MAX_OPSET}"),
            ),
            Some(version) if *version < 1 => self.faults.structure(
                "ssmc::import::opset",
                place,
                format!("expected an operator set version from 1, found {version}"),
            ),
            Some(_) | None => {}
        }
    }

    fn graph(&mut self, graph: &'m GraphProto, opsets: &Opsets<'m>, outer: &[&BTreeSet<&'m str>]) {
        for (what, names) in [
            ("input", graph.input.iter().map(|i| i.name()).collect::<Vec<_>>()),
            ("initializer", graph.initializer.iter().map(|t| t.name()).collect()),
        ] {
            let mut seen = BTreeSet::new();
            for name in names {
                if name.is_empty() {
                    self.faults.structure(
                        "ssmc::import::name",
                        graph.name(),
                        format!("an {what} without a name"),
                    );
                } else if !seen.insert(name) {
                    let message = format!("the name is used by two {what}s");
                    self.faults.structure("ssmc::import::duplicate", format!("{what} {name:?}"), message);
                }
            }
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |v| v.name());
            let message = "sparse initializers are not supported".to_owned();
            self.faults.unsupported("ssmc::import::unsupported", format!("initializer {name:?}"), message);
        }
        let defined = self.nodes(&graph.node, formals(graph).collect(), opsets, outer);
        for output in &graph.output {
            let known = |n: &str| defined.contains(n) || outer.iter().any(|o| o.contains(n));
            if !known(output.name()) {
                let message = "expected a value of the graph, found none of this name".to_owned();
                self.faults.structure(
                    "ssmc::import::missing_value",
                    format!("output {:?}", output.name()),
                    message,
                );
            }
        }
    }

    /// Checks a list of nodes and returns the names defined after it.
    fn nodes(
        &mut self,
        nodes: &'m [NodeProto],
        mut defined: BTreeSet<&'m str>,
        opsets: &Opsets<'m>,
        outer: &[&BTreeSet<&'m str>],
    ) -> BTreeSet<&'m str> {
        let mut producers: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, node) in nodes.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                if defined.contains(output.as_str()) || producers.insert(output, i).is_some() {
                    let message = format!("value {output:?} is defined twice");
                    self.faults.structure("ssmc::import::duplicate", place(node), message);
                }
            }
        }
        let cyclic = on_cycles(nodes, &producers);
        for (i, node) in nodes.iter().enumerate() {
            for input in node.input.iter().filter(|x| !x.is_empty()) {
                if defined.contains(input.as_str()) || outer.iter().any(|o| o.contains(input.as_str())) {
                    continue;
                }
                let (code, message) = match producers.get(input.as_str()) {
                    None => ("ssmc::import::missing_value", format!("input {input:?} is not defined")),
                    Some(_) if cyclic[i] => {
                        ("ssmc::import::cycle", format!("input {input:?} is on or behind a cycle"))
                    }
                    Some(at) => (
                        "ssmc::import::order",
                        format!(
                            "expected nodes in topological order, found input {input:?} made later by {}",
                            place(&nodes[*at])
                        ),
                    ),
                };
                self.faults.structure(code, place(node), message);
            }
            self.operator(node, opsets);
            let visible: Vec<_> = outer.iter().copied().chain([&defined]).collect();
            for attribute in &node.attribute {
                for graph in attribute.g.iter().chain(&attribute.graphs) {
                    self.graph(graph, opsets, &visible);
                }
            }
            defined.extend(node.output.iter().filter(|o| !o.is_empty()).map(String::as_str));
        }
        defined
    }

    fn operator(&mut self, node: &'m NodeProto, opsets: &Opsets<'m>) {
        let key = function_key(node);
        if let Some(function) = self.functions.get(&key) {
            return self.function(key, function, node);
        }
        let Some(version) = opsets.get(key.0) else {
            let message = format!("the operator set of domain {:?} is not imported", key.0);
            return self.faults.structure("ssmc::import::opset", place(node), message);
        };
        if registry::find(key.0, key.1, *version).is_none() {
            let name = if key.0.is_empty() { "ai.onnx" } else { key.0 };
            let reason = registry::refusal(key.0, key.1, *version);
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            let message = format!("operator {name}::{} version {version} is not supported{reason}", key.1);
            self.faults.unsupported("ssmc::import::unsupported_op", place(node), message);
        }
    }

    fn function(&mut self, key: FunctionKey<'m>, function: &'m FunctionProto, node: &NodeProto) {
        if self.calling.contains(&key) {
            let message = format!("function {:?} calls itself", key.1);
            return self.faults.structure("ssmc::import::recursion", place(node), message);
        }
        if !self.checked.insert(key) {
            return;
        }
        if self.calling.len() >= MAX_CALL_DEPTH {
            let fault = Fault::Limit { what: "depth of function calls", limit: MAX_CALL_DEPTH as u64 };
            return self.faults.push(place(node), &fault);
        }
        self.calling.push(key);
        let opsets = opsets(&function.opset_import);
        self.opsets(&opsets, &format!("function {:?}", key.1));
        let inputs: BTreeSet<&str> = function.input.iter().map(String::as_str).collect();
        let defined = self.nodes(&function.node, inputs, &opsets, &[]);
        for output in function.output.iter().filter(|o| !defined.contains(o.as_str())) {
            let message = format!("expected a value of the function, found no {output:?}");
            self.faults.structure("ssmc::import::missing_value", format!("function {:?}", key.1), message);
        }
        self.calling.pop();
    }
}

/// For each node, whether it reaches itself through inputs. Captures of subgraphs cannot close a cycle that the order
/// check misses, because they are looked up among the values already defined.
fn on_cycles(nodes: &[NodeProto], producers: &BTreeMap<&str, usize>) -> Vec<bool> {
    let mut pending: Vec<usize> = vec![0; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for at in node.input.iter().filter_map(|x| producers.get(x.as_str())) {
            pending[i] += 1;
            users[*at].push(i);
        }
    }
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|i| pending[*i] == 0).collect();
    while let Some(i) = ready.pop() {
        for user in &users[i] {
            pending[*user] -= 1;
            if pending[*user] == 0 {
                ready.push(*user);
            }
        }
    }
    pending.iter().map(|p| *p > 0).collect()
}
