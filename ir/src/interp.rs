//! The reference interpreter: runs a graph node by node with the ops' own definitions.

use crate::diag::Diagnostic;
use crate::dim::{Bindings, Dim, DimError, Symbol};
use crate::entity::{Entity, NodeId, ValueId};
use crate::graph::{Graph, Node};
use crate::ops::{EvalCtx, EvalError};
use crate::stage::Stage;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};
use crate::verify::verify;
use crate::weights::Weights;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// How the interpreter treats floating-point results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Computes in `f64` and never rounds; casts between floating-point types are exact. The reference for everything.
    Truth,
    /// Rounds every result to its element type.
    Typed,
}

/// Why a graph cannot be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum InterpError {
    #[error("the graph is not valid: {}", list(.0))]
    Invalid(Vec<Diagnostic>),
    #[error("input {name:?} is missing")]
    MissingInput { name: String },
    #[error("there is no input {name:?}")]
    UnknownInput { name: String },
    #[error("expected {expected} inputs, found {found}")]
    InputCount { expected: usize, found: usize },
    #[error("input {name:?}: expected element type {expected}, found {found}")]
    InputType { name: String, expected: DType, found: DType },
    #[error("input {name:?}: expected shape {expected}, found {found:?}")]
    InputShape { name: String, expected: String, found: Vec<usize> },
    #[error("input {name:?}: expected {expected} = {wanted} on axis {axis}, found {found}")]
    InputExtent { name: String, axis: usize, expected: Dim, wanted: i64, found: usize },
    #[error("input {name:?}: extent of axis {axis}: {source}")]
    InputDim {
        name: String,
        axis: usize,
        #[source]
        source: DimError,
    },
    #[error("{place}: {op}: {source}")]
    Node {
        place: String,
        op: &'static str,
        #[source]
        source: Box<EvalError>,
    },
    #[error("{place}: {op}: result {result}: expected {expected}, found {found}")]
    Result { place: String, op: &'static str, result: usize, expected: String, found: String },
}

fn list(faults: &[Diagnostic]) -> String {
    let mut text = String::new();
    for (i, fault) in faults.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}{fault}", if i == 0 { "" } else { "; " });
    }
    text
}

/// Runs one graph with its weights.
///
/// Weights are decoded when their node runs and every value is dropped after its last use, so that a model larger
/// than memory in `f64` can run layer by layer.
#[derive(Clone, Debug)]
pub struct Interpreter<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    precision: Precision,
    bindings: Bindings,
}

/// What a run computed.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Recording {
    pub outputs: BTreeMap<String, Tensor>,
    /// Every value of the outermost graph.
    pub values: BTreeMap<ValueId, Tensor>,
}

/// Sees every value of the outermost graph once it is known.
type Observer<'a> = dyn FnMut(ValueId, &Tensor) + 'a;

impl<'a> Interpreter<'a> {
    /// An interpreter for [`Precision::Truth`].
    pub fn new(graph: &'a Graph, weights: &'a Weights) -> Self {
        Self { graph, weights, precision: Precision::Truth, bindings: Bindings::new() }
    }

    /// The same with another precision.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Gives a symbol a value that the input shapes do not determine, or must agree with.
    #[must_use]
    pub fn bind(mut self, symbol: Symbol, value: i64) -> Self {
        self.bindings.insert(symbol, value);
        self
    }

    /// The outputs by name.
    ///
    /// # Errors
    /// The graph is not valid, inputs do not fit it or each other, or an op has no value for its operands.
    pub fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, InterpError> {
        self.run_observed(inputs, &mut |_, _| {})
    }

    /// The outputs by name and every value of the outermost graph.
    ///
    /// # Errors
    /// See [`Interpreter::run`].
    pub fn run_recorded(&self, inputs: &BTreeMap<String, Tensor>) -> Result<Recording, InterpError> {
        let mut values = BTreeMap::new();
        let outputs = self.run_observed(inputs, &mut |value, tensor| {
            values.insert(value, tensor.clone());
        })?;
        Ok(Recording { outputs, values })
    }

    /// The outputs by name; `observe` sees every value of the outermost graph once it is known.
    ///
    /// # Errors
    /// See [`Interpreter::run`].
    pub fn run_observed(
        &self,
        inputs: &BTreeMap<String, Tensor>,
        observe: &mut dyn FnMut(ValueId, &Tensor),
    ) -> Result<BTreeMap<String, Tensor>, InterpError> {
        let faults = verify(self.graph, Stage::Emitted);
        if !faults.is_empty() {
            return Err(InterpError::Invalid(faults));
        }
        let ports = self.graph.inputs();
        if let Some(name) = inputs.keys().find(|name| ports.iter().all(|p| p.name != **name)) {
            return Err(InterpError::UnknownInput { name: name.clone() });
        }
        let mut args = Vec::with_capacity(ports.len());
        for port in ports {
            let missing = || InterpError::MissingInput { name: port.name.clone() };
            args.push(inputs.get(&port.name).ok_or_else(missing)?);
        }
        let mut bindings = self.bindings.clone();
        bind_inputs(self.graph, &args, &mut bindings)?;
        let run = Run { weights: self.weights, precision: self.precision, bindings: &bindings };
        let rounded: Vec<_> = args.into_iter().map(|x| run.round(x.clone())).collect();
        let outputs = run.graph(self.graph, &rounded.iter().collect::<Vec<_>>(), observe)?;
        Ok(self.graph.outputs().iter().map(|p| p.name.clone()).zip(outputs).collect())
    }
}

/// Checks inputs against their types and derives the values of symbols from their shapes.
///
/// A dim that is a symbol plus a constant, or a multiple of a symbol, determines the symbol; every other dim is
/// checked once all symbols are known.
fn bind_inputs(graph: &Graph, args: &[&Tensor], bindings: &mut Bindings) -> Result<(), InterpError> {
    for (port, arg) in graph.inputs().iter().zip(args) {
        let ty = graph.ty(port.value);
        let name = || port.name.clone();
        if arg.dtype() != ty.dtype {
            return Err(InterpError::InputType { name: name(), expected: ty.dtype, found: arg.dtype() });
        }
        if arg.shape().len() != ty.rank() {
            let (expected, found) = (ty.shape.to_string(), arg.shape().to_vec());
            return Err(InterpError::InputShape { name: name(), expected, found });
        }
        for (dim, extent) in ty.shape.iter().zip(arg.shape()) {
            if let Some((symbol, value)) = solve(dim, *extent as i64) {
                bindings.entry(symbol).or_insert(value);
            }
        }
    }
    for (port, arg) in graph.inputs().iter().zip(args) {
        for (axis, (dim, extent)) in graph.ty(port.value).shape.iter().zip(arg.shape()).enumerate() {
            let name = || port.name.clone();
            let wanted =
                dim.eval(bindings).map_err(|source| InterpError::InputDim { name: name(), axis, source })?;
            if wanted != *extent as i64 {
                let (expected, found) = (dim.clone(), *extent);
                return Err(InterpError::InputExtent { name: name(), axis, expected, wanted, found });
            }
        }
    }
    Ok(())
}

/// The symbol of `c*symbol + k` for which the dim has this value, if it is of that form and `c` divides.
fn solve(dim: &Dim, value: i64) -> Option<(Symbol, i64)> {
    let mut symbols = BTreeSet::new();
    dim.collect_symbols(&mut symbols);
    let symbol = (symbols.len() == 1).then(|| symbols.pop_first()).flatten()?;
    let (mut constant, mut coeff) = (0i64, None);
    for (monomial, c) in dim.terms() {
        match monomial {
            [] => constant = c,
            [crate::dim::Atom::Symbol(_)] => coeff = Some(c),
            _ => return None,
        }
    }
    let (rest, coeff) = (value.checked_sub(constant)?, coeff?);
    (rest.checked_rem(coeff)? == 0).then(|| (symbol, rest / coeff))
}

/// The values that are still needed, by index; inputs stay with the caller.
type Values<'a> = Vec<Option<Cow<'a, Tensor>>>;

struct Run<'a> {
    weights: &'a Weights,
    precision: Precision,
    bindings: &'a Bindings,
}

impl Run<'_> {
    fn graph(
        &self,
        graph: &Graph,
        args: &[&Tensor],
        observe: &mut Observer<'_>,
    ) -> Result<Vec<Tensor>, InterpError> {
        if args.len() != graph.inputs().len() {
            return Err(InterpError::InputCount { expected: graph.inputs().len(), found: args.len() });
        }
        let uses = last_uses(graph);
        let mut values: Values<'_> = vec![None; graph.values().len()];
        for (port, arg) in graph.inputs().iter().zip(args) {
            observe(port.value, arg);
            values[port.value.idx()] = Some(Cow::Borrowed(arg));
        }
        for (id, node) in graph.nodes() {
            for (value, tensor) in node.results.iter().zip(self.node(graph, node, &values)?) {
                observe(*value, &tensor);
                if uses[value.idx()] != Use::Never {
                    values[value.idx()] = Some(Cow::Owned(tensor));
                }
            }
            for value in node.operands.iter().copied().flatten() {
                if uses[value.idx()] == Use::LastAt(id) {
                    values[value.idx()] = None;
                }
            }
        }
        let missing = || InterpError::InputCount { expected: graph.values().len(), found: values.len() };
        graph
            .outputs()
            .iter()
            .map(|p| values[p.value.idx()].clone().map(Cow::into_owned).ok_or_else(missing))
            .collect()
    }

    fn round(&self, x: Tensor) -> Tensor {
        match self.precision {
            Precision::Truth => x,
            Precision::Typed => x.rounded(),
        }
    }

    fn node(&self, graph: &Graph, node: &Node, values: &Values<'_>) -> Result<Vec<Tensor>, InterpError> {
        let place = || graph.locs().describe(node.loc);
        let op = node.op.name();
        let operands: Vec<_> =
            node.operands.iter().map(|v| v.and_then(|v| values[v.idx()].as_deref())).collect();
        let types: Vec<TensorType> = node.results.iter().map(|v| graph.ty(*v).clone()).collect();
        let run = |region: &Graph, args: &[&Tensor]| self.graph(region, args, &mut |_, _| {});
        let ctx = EvalCtx {
            bindings: self.bindings,
            weights: self.weights,
            results: &types,
            regions: &node.regions,
            run: &run,
        };
        let fault = |source| InterpError::Node { place: place(), op, source: Box::new(source) };
        let shapes: Vec<_> =
            types.iter().map(|ty| ctx.shape(&ty.shape)).collect::<Result<_, _>>().map_err(fault)?;
        let results = node.op.eval(&ctx, &operands).map_err(fault)?;
        let described = |dtype: DType, shape: &[usize]| format!("{dtype}{shape:?}");
        if results.len() != types.len() {
            let (expected, found) = (types.len().to_string(), results.len().to_string());
            return Err(InterpError::Result { place: place(), op, result: 0, expected, found });
        }
        for (i, (tensor, ty)) in results.iter().zip(&types).enumerate() {
            if tensor.dtype() != ty.dtype || tensor.shape() != shapes[i] {
                let expected = described(ty.dtype, &shapes[i]);
                let found = described(tensor.dtype(), tensor.shape());
                return Err(InterpError::Result { place: place(), op, result: i, expected, found });
            }
        }
        Ok(results.into_iter().map(|x| self.round(x)).collect())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Never,
    LastAt(NodeId),
    Output,
}

fn last_uses(graph: &Graph) -> Vec<Use> {
    let mut uses = vec![Use::Never; graph.values().len()];
    for (id, node) in graph.nodes() {
        for value in node.operands.iter().copied().flatten() {
            uses[value.idx()] = Use::LastAt(id);
        }
    }
    for port in graph.outputs() {
        uses[port.value.idx()] = Use::Output;
    }
    uses
}

#[cfg(test)]
mod tests;
