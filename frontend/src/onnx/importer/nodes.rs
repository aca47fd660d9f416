//! Nodes, initializers and calls of local functions.

use super::super::attrs::Attrs;
use super::super::check::{function_key, opsets, place};
use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use super::super::registry;
use super::{Failure, Frame, Imported, Importer, MAX_FOLLOWED, MAX_NODES, TAKES_NARROW, Val};
use ssmc_ir::Loc;
use std::collections::BTreeMap;
use std::rc::Rc;

impl<'m> Importer<'m> {
    /// Binds the initializers of a graph.
    pub(crate) fn initializers(&mut self, graph: &'m GraphProto) {
        for tensor in &graph.initializer {
            let name = tensor.name();
            let loc = Loc::OnnxNode { name: String::new(), op: "initializer".into(), output: name.into() };
            let value = match self.decode(tensor) {
                Ok(literal) => Some(self.literal_value(literal, name, loc)),
                Err(fault) => {
                    self.faults.push(format!("initializer {name:?}"), &fault);
                    None
                }
            };
            self.bind(name, value);
        }
    }

    /// Imports nodes in order into the present region; faults are collected.
    ///
    /// # Errors
    /// The limit on nodes is passed; nothing more is imported then.
    pub(crate) fn nodes(&mut self, nodes: &'m [NodeProto]) -> Imported<()> {
        for node in nodes {
            self.n_nodes += 1;
            self.check_limits(node)?;
            let values = match self.node(node) {
                Ok(values) => values.into_iter().map(Some).collect(),
                Err(failure) => {
                    if let Failure::Fault(fault) = failure {
                        self.faults.push(place(node), &fault);
                    }
                    vec![None; node.output.len()]
                }
            };
            for (name, value) in node.output.iter().zip(values) {
                self.bind(name, value);
            }
        }
        Ok(())
    }

    /// The limits on the whole import; the first one passed is reported once.
    fn check_limits(&mut self, node: &NodeProto) -> Imported<()> {
        let passed = if self.n_nodes > MAX_NODES {
            Some(Fault::Limit { what: "number of nodes", limit: MAX_NODES as u64 })
        } else if self.n_followed > MAX_FOLLOWED {
            Some(Fault::Limit { what: "integers followed when compiling", limit: MAX_FOLLOWED as u64 })
        } else {
            None
        };
        if let Some(fault) = passed.filter(|_| !self.stopped) {
            self.faults.push(place(node), &fault);
            self.stopped = true;
        }
        if self.stopped { Err(Failure::Reported) } else { Ok(()) }
    }

    fn node(&mut self, node: &'m NodeProto) -> Imported<Vec<Val>> {
        let inputs = node.input.iter().map(|name| self.lookup(name)).collect::<Imported<Vec<_>>>()?;
        let frame = self.frame();
        let attrs = Attrs::new(&node.attribute, frame.call.as_deref())?;
        let key = function_key(node);
        let version = frame.opsets.get(key.0).copied();
        let values = if let Some(function) = self.functions.get(&key).copied() {
            self.call(function, &attrs, inputs)?
        } else {
            let op = version.and_then(|v| registry::find(key.0, key.1, v));
            let (Some(op), Some(version)) = (op, version) else {
                return Err(Fault::Unsupported(format!("operator {}", key.1)).into());
            };
            if let Some(narrow) = inputs.iter().flatten().find_map(|v| self.narrow(*v))
                && !TAKES_NARROW.contains(&key.1)
            {
                return Err(Fault::Unsupported(format!("{narrow:?} as the element type of {}", key.1)).into());
            }
            let mut ctx = Ctx::new(self, node, attrs, inputs, version);
            let values = (op.import)(&mut ctx)?;
            ctx.all_read()?;
            values
        };
        if values.len() < node.output.len() {
            let expected = format!("at most {}", values.len());
            return Err(Fault::OutputCount { expected, found: node.output.len() }.into());
        }
        Ok(values)
    }

    /// Imports the body of a local function in place of a call.
    fn call(
        &mut self,
        function: &'m FunctionProto,
        attrs: &Attrs<'m>,
        inputs: Vec<Option<Val>>,
    ) -> Imported<Vec<Val>> {
        if inputs.len() > function.input.len() {
            let expected = format!("at most {}", function.input.len());
            return Err(Fault::InputCount { expected, found: inputs.len() }.into());
        }
        let mut call: BTreeMap<&'m str, &'m AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        call.extend(attrs.as_map());
        let mut frame = Frame {
            names: BTreeMap::new(),
            opsets: Rc::new(opsets(&function.opset_import)),
            call: Some(Rc::new(call)),
            is_function: true,
        };
        let mut absent = Vec::new();
        for (i, name) in function.input.iter().enumerate() {
            match inputs.get(i).copied().flatten() {
                Some(value) => {
                    frame.names.insert(name, Some(value));
                }
                None => absent.push(name.as_str()),
            }
        }
        if let Some(name) = absent.iter().find(|name| reads(&function.node, name)) {
            return Err(Fault::Unsupported(format!("a call without the function's input {name:?}")).into());
        }
        self.frames.push(frame);
        let result = self.nodes(&function.node).and_then(|()| {
            function
                .output
                .iter()
                .map(|name| self.lookup(name)?.ok_or_else(|| Fault::MissingInput { idx: 0 }.into()))
                .collect::<Imported<Vec<Val>>>()
        });
        self.frames.pop();
        result
    }
}

/// Whether nodes, or graphs inside them, read a name.
fn reads(nodes: &[NodeProto], name: &str) -> bool {
    nodes.iter().any(|n| {
        let graphs = n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        n.input.iter().any(|i| i == name) || graphs.into_iter().any(|g| reads(&g.node, name))
    })
}
