//! The only door for new nodes.

use crate::dim::Dim;
use crate::entity::{LocId, ValueId};
use crate::graph::{Def, Graph, Node, Port, ValueData};
use crate::loc::{Loc, LocTable};
use crate::ops::{
    Arity, Binary, BinaryFn, Broadcast, Cast, Constant, Contract, Op, OpError, Reshape, Slice, Transpose,
    Unary, UnaryFn, WeightRef,
};
use crate::types::{DType, Shape, TensorType};

/// An op does not fit the operands that the builder was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {op}: {source}")]
#[expect(missing_docs, reason = "the fields are named in the message")]
pub struct BuildError {
    pub place: String,
    pub op: &'static str,
    #[source]
    pub source: OpError,
}

/// Builds a graph node by node; each node's types are inferred and checked when it is added.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    loc: LocId,
}

impl GraphBuilder {
    /// An empty graph of this name.
    pub fn new(name: impl Into<String>) -> Self {
        let mut graph = Graph { name: name.into(), ..Graph::default() };
        let loc = graph.locs.intern(Loc::Unknown);
        Self { graph, loc }
    }

    /// Continues a graph that exists already; its outputs are kept.
    pub fn extend(mut graph: Graph) -> Self {
        let loc = graph.locs.intern(Loc::Unknown);
        Self { graph, loc }
    }

    /// An empty graph of this name that starts with the locations of another one, under the same ids.
    pub fn with_locs(name: impl Into<String>, locs: LocTable) -> Self {
        Self::extend(Graph { name: name.into(), locs, ..Graph::default() })
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.graph.ty(value)
    }

    /// The shape of a value.
    pub fn shape(&self, value: ValueId) -> &Shape {
        &self.graph.ty(value).shape
    }

    /// Nodes added from now on come from here.
    pub fn set_loc(&mut self, loc: Loc) -> LocId {
        self.loc = self.graph.locs.intern(loc);
        self.loc
    }

    /// Adds a location without making it the present one.
    pub fn intern_loc(&mut self, loc: Loc) -> LocId {
        self.graph.locs.intern(loc)
    }

    /// Nodes added from now on have this location.
    pub fn set_loc_id(&mut self, loc: LocId) {
        self.loc = loc;
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        let def = Def::Input(self.graph.inputs.len());
        let value = self.graph.values.push(ValueData { ty, def });
        self.graph.inputs.push(Port { name: name.into(), value });
        value
    }

    /// Adds an output.
    pub fn output(&mut self, name: impl Into<String>, value: ValueId) {
        self.graph.outputs.push(Port { name: name.into(), value });
    }

    /// Adds a node and returns its results. Absent optional operands at the end may be left out.
    ///
    /// # Errors
    /// The op does not take these operands.
    pub fn node(
        &mut self,
        op: impl Into<Op>,
        operands: &[Option<ValueId>],
        regions: Vec<Graph>,
    ) -> Result<Vec<ValueId>, BuildError> {
        let op = op.into();
        let left_out = op.operands().iter().skip(operands.len());
        let left_out = left_out.take_while(|o| o.arity == Arity::Optional).map(|_| None);
        let operands: Vec<_> = operands.iter().copied().chain(left_out).collect();
        let types: Vec<_> = operands.iter().map(|v| v.map(|v| self.graph.ty(v))).collect();
        let types = op.infer(&types, &regions).map_err(|source| BuildError {
            place: self.graph.locs.describe(self.loc),
            op: op.name(),
            source,
        })?;
        let id = crate::entity::Entity::new(self.graph.nodes.len());
        let mut results = Vec::with_capacity(types.len());
        for (i, ty) in types.into_iter().enumerate() {
            results.push(self.graph.values.push(ValueData { ty, def: Def::Result(id, i) }));
        }
        self.graph.nodes.push(Node { op, operands, results: results.clone(), regions, loc: self.loc });
        Ok(results)
    }

    /// Adds a node without absent operands and returns its first result.
    ///
    /// # Errors
    /// The op does not take these operands.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId, BuildError> {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Ok(self.node(op, &operands, Vec::new())?[0])
    }

    /// A function of one tensor.
    ///
    /// # Errors
    /// The element type does not fit.
    pub fn unary(&mut self, f: UnaryFn, x: ValueId) -> Result<ValueId, BuildError> {
        self.op(Unary { f }, &[x])
    }

    /// A function of two tensors of equal type.
    ///
    /// # Errors
    /// The types differ or do not fit.
    pub fn binary(&mut self, f: BinaryFn, x: ValueId, y: ValueId) -> Result<ValueId, BuildError> {
        self.op(Binary { f }, &[x, y])
    }

    /// The product written as `bld,ed->ble`; for specs in source code.
    ///
    /// # Errors
    /// The shapes do not fit the labels.
    pub fn contract(&mut self, spec: &str, operands: &[ValueId]) -> Result<ValueId, BuildError> {
        self.op(Contract::new(spec), operands)
    }

    /// A real scalar.
    ///
    /// # Errors
    /// Never for real types.
    pub fn scalar(&mut self, dtype: DType, x: f64) -> Result<ValueId, BuildError> {
        self.op(Constant::scalar(dtype, x), &[])
    }

    /// A scalar repeated to the type of `like`.
    ///
    /// # Errors
    /// Never for real types.
    pub fn splat(&mut self, x: f64, like: ValueId) -> Result<ValueId, BuildError> {
        let ty = self.ty(like).clone();
        let scalar = self.scalar(ty.dtype, x)?;
        self.broadcast(scalar, &[], ty.shape)
    }

    /// Operand axis `i` becomes axis `axes[i]` of `shape`. No node if nothing changes.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn broadcast(
        &mut self,
        x: ValueId,
        axes: &[usize],
        shape: impl Into<Shape>,
    ) -> Result<ValueId, BuildError> {
        let shape = shape.into();
        if *self.shape(x) == shape {
            return Ok(x);
        }
        self.op(Broadcast { axes: axes.to_vec(), shape }, &[x])
    }

    /// The same elements under another shape. No node if nothing changes.
    ///
    /// # Errors
    /// The numbers of elements differ.
    pub fn reshape(&mut self, x: ValueId, shape: impl Into<Shape>) -> Result<ValueId, BuildError> {
        let shape = shape.into();
        if *self.shape(x) == shape { Ok(x) } else { self.op(Reshape { shape }, &[x]) }
    }

    /// Permutes axes. No node if nothing changes.
    ///
    /// # Errors
    /// `perm` is not a permutation.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId, BuildError> {
        if perm.is_sorted() && perm.len() == self.ty(x).rank() {
            return Ok(x);
        }
        self.op(Transpose { perm: perm.to_vec() }, &[x])
    }

    /// `len` elements from `start` along one axis. No node if nothing changes.
    ///
    /// # Errors
    /// The slice does not lie in the operand.
    pub fn slice(
        &mut self,
        x: ValueId,
        axis: usize,
        start: impl Into<Dim>,
        len: impl Into<Dim>,
    ) -> Result<ValueId, BuildError> {
        let (start, len) = (start.into(), len.into());
        if start.is(0) && self.shape(x).get(axis) == Some(&len) {
            return Ok(x);
        }
        self.op(Slice { axis, start, len, stride: 1 }, &[x])
    }

    /// Converts elements. No node if nothing changes.
    ///
    /// # Errors
    /// A complex tensor would become real.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, BuildError> {
        if self.ty(x).dtype == to { Ok(x) } else { self.op(Cast { to }, &[x]) }
    }

    /// A weight whose bytes lie beside the graph.
    ///
    /// # Errors
    /// The type has a symbol.
    pub fn weight(&mut self, name: impl Into<String>, ty: &TensorType) -> Result<ValueId, BuildError> {
        self.op(WeightRef { dtype: ty.dtype, name: name.into(), shape: ty.shape.clone() }, &[])
    }

    /// The finished graph.
    pub fn finish(mut self) -> Graph {
        self.graph.locs.share();
        self.graph
    }
}
