//! What an importer function sees of its node, and the ways to build IR for it.

use super::attrs::Attrs;
use super::fault::Fault;
use super::importer::{Imported, Importer, Val};
use super::proto::NodeProto;
use super::shape::{self, Known};
use super::tensor::Literal;
use ssmc_ir::ops::{
    Binary, BinaryFn, Broadcast, Cast, Constant, Op, Reduce, ReduceFn, Reshape, Slice, Transpose, Unary,
    UnaryFn,
};
use ssmc_ir::{DType, Dim, Loc, Shape, TensorType};

/// One node under import.
pub(crate) struct Ctx<'a, 'm> {
    pub(crate) imp: &'a mut Importer<'m>,
    pub(crate) attrs: Attrs<'m>,
    /// The version of the operator's domain that the node is written against.
    pub(crate) version: i64,
    node: &'m NodeProto,
    inputs: Vec<Option<Val>>,
    loc: Loc,
}

impl<'a, 'm> Ctx<'a, 'm> {
    pub(crate) fn new(
        imp: &'a mut Importer<'m>,
        node: &'m NodeProto,
        attrs: Attrs<'m>,
        inputs: Vec<Option<Val>>,
        version: i64,
    ) -> Self {
        let output = node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
        let loc = Loc::OnnxNode { name: node.name().into(), op: node.op_type().into(), output };
        Self { imp, attrs, version, node, inputs, loc }
    }

    /// Every attribute was understood.
    ///
    /// # Errors
    /// One was not.
    pub(crate) fn all_read(&self) -> Result<(), Fault> {
        self.attrs.unread().map_or(Ok(()), |name| Err(Fault::UnknownAttribute { name: name.into() }))
    }

    // ---- the node

    /// Number of inputs, absent ones in between included.
    pub(crate) fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Number of outputs, unnamed ones included.
    pub(crate) fn n_outputs(&self) -> usize {
        self.node.output.len()
    }

    /// Name of the output.
    pub(crate) fn output_name(&self) -> &'m str {
        self.node.output.first().map_or("", String::as_str)
    }

    /// The value of an input that must be there.
    pub(crate) fn input(&self, idx: usize) -> Result<Val, Fault> {
        self.opt(idx).ok_or(Fault::MissingInput { idx })
    }

    /// The value of an input.
    pub(crate) fn opt(&self, idx: usize) -> Option<Val> {
        self.inputs.get(idx).copied().flatten()
    }

    /// All inputs, none of which may be absent.
    pub(crate) fn all_inputs(&self) -> Result<Vec<Val>, Fault> {
        if self.inputs.is_empty() {
            return Err(Fault::MissingInput { idx: 0 });
        }
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// At most this many inputs.
    pub(crate) fn at_most_inputs(&self, n: usize) -> Result<(), Fault> {
        if self.inputs.len() > n {
            return Err(Fault::InputCount { expected: format!("at most {n}"), found: self.inputs.len() });
        }
        Ok(())
    }

    // ---- values

    pub(crate) fn ty(&self, v: Val) -> &TensorType {
        self.imp.ty(v)
    }

    pub(crate) fn dtype(&self, v: Val) -> DType {
        self.ty(v).dtype
    }

    pub(crate) fn dims(&self, v: Val) -> Vec<Dim> {
        self.ty(v).shape.to_vec()
    }

    pub(crate) fn rank(&self, v: Val) -> usize {
        self.ty(v).rank()
    }

    pub(crate) fn known(&self, v: Val) -> Option<&Known> {
        self.imp.known(v)
    }

    pub(crate) fn literal(&self, v: Val) -> Option<&Literal> {
        self.imp.literal(v)
    }

    /// The dims that an input holds.
    ///
    /// # Errors
    /// It is absent, no integer tensor, or depends on data.
    pub(crate) fn dims_input(&self, idx: usize, what: &'static str) -> Result<Vec<Dim>, Fault> {
        let v = self.input(idx)?;
        if !self.dtype(v).is_int() {
            let (expected, found) = ("integers".into(), self.ty(v).to_string());
            return Err(Fault::Input { idx, expected, found });
        }
        self.known(v).map(|k| k.elems.clone()).ok_or(Fault::NotKnown { idx, what })
    }

    /// The constants that an input holds.
    ///
    /// # Errors
    /// It is absent, no integer tensor, or not constant.
    pub(crate) fn ints_input(&self, idx: usize, what: &'static str) -> Result<Vec<i64>, Fault> {
        let dims = self.dims_input(idx, what)?;
        dims.iter().map(Dim::as_const).collect::<Option<_>>().ok_or(Fault::NotKnown { idx, what })
    }

    /// The constant boolean that an input holds.
    pub(crate) fn bool_input(&self, idx: usize, what: &'static str) -> Result<bool, Fault> {
        let v = self.input(idx)?;
        let known = self.known(v).ok_or(Fault::NotKnown { idx, what })?;
        match known.as_consts().as_deref() {
            Some([one]) if known.dtype == DType::Bool => Ok(*one != 0),
            _ => Err(Fault::Input {
                idx,
                expected: "one constant boolean".into(),
                found: self.ty(v).to_string(),
            }),
        }
    }

    /// The one constant that an input holds.
    pub(crate) fn int_input(&self, idx: usize, what: &'static str) -> Result<i64, Fault> {
        match self.ints_input(idx, what)?.as_slice() {
            [one] => Ok(*one),
            other => {
                Err(Fault::Input { idx, expected: "one element".into(), found: other.len().to_string() })
            }
        }
    }

    /// Axes from an attribute in old operator sets and from an input in new ones, each below `rank`, ascending.
    /// `None` if neither is there.
    pub(crate) fn axes(
        &self,
        input_since: i64,
        idx: usize,
        rank: usize,
    ) -> Result<Option<Vec<usize>>, Fault> {
        let axes = if self.version >= input_since {
            if self.opt(idx).is_none() {
                return Ok(None);
            }
            self.ints_input(idx, "axes")?
        } else {
            match self.attrs.ints("axes")? {
                None => return Ok(None),
                Some(axes) => axes.to_vec(),
            }
        };
        let mut resolved = axes
            .iter()
            .map(|a| shape::axis(*a, rank).map_err(|_| self.bad_axes(&axes, rank)))
            .collect::<Result<Vec<usize>, _>>()?;
        resolved.sort_unstable();
        if resolved.windows(2).any(|w| w[0] == w[1]) {
            return Err(self.bad_axes(&axes, rank));
        }
        Ok(Some(resolved))
    }

    fn bad_axes(&self, axes: &[i64], rank: usize) -> Fault {
        self.attrs.wrong("axes", format!("different axes of a tensor of rank {rank}"), format!("{axes:?}"))
    }

    /// The attribute `axis` of a tensor of this rank.
    pub(crate) fn axis(&self, default: i64, rank: usize) -> Result<usize, Fault> {
        shape::axis(self.attrs.int_or("axis", default)?, rank)
    }

    // ---- building

    /// A known integer tensor as a result of the node.
    pub(crate) fn make_known(&mut self, known: Known) -> Val {
        self.imp.known_value(known, self.loc.clone())
    }

    /// A literal tensor as a result of the node.
    pub(crate) fn make_literal(&mut self, literal: Literal) -> Val {
        self.imp.literal_value(literal, self.output_name(), self.loc.clone())
    }

    /// The first result of a node without absent operands.
    pub(crate) fn emit(&mut self, op: impl Into<Op>, operands: &[Val]) -> Result<Val, Fault> {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        let results = self.imp.emit(&self.loc, op.into(), &operands, Vec::new())?;
        results.first().copied().ok_or_else(|| Fault::Ir("no result".into()))
    }

    /// All results of a node.
    pub(crate) fn emit_all(
        &mut self,
        op: impl Into<Op>,
        operands: &[Option<Val>],
        regions: Vec<ssmc_ir::Graph>,
    ) -> Result<Vec<Val>, Fault> {
        self.imp.emit(&self.loc, op.into(), operands, regions)
    }

    /// A scalar constant.
    pub(crate) fn scalar(&mut self, dtype: DType, x: f64) -> Result<Val, Fault> {
        self.emit(Constant::scalar(dtype, x), &[])
    }

    /// A scalar constant repeated to the type of `like`.
    pub(crate) fn splat(&mut self, x: f64, like: Val) -> Result<Val, Fault> {
        let scalar = self.scalar(self.dtype(like), x)?;
        let dims = self.dims(like);
        self.broadcast_to(scalar, &dims)
    }

    /// Repeats a tensor to a shape, aligned at the last axis.
    pub(crate) fn broadcast_to(&mut self, v: Val, dims: &[Dim]) -> Result<Val, Fault> {
        let from = self.dims(v);
        if from == dims {
            return Ok(v);
        }
        shape::check_shape(dims)?;
        let Some(offset) = dims.len().checked_sub(from.len()) else {
            return Err(Fault::Broadcast { a: self.ty(v).clone(), b: self.ty(v).with_shape(dims) });
        };
        let axes = (offset..dims.len()).collect();
        self.emit(Broadcast { axes, shape: Shape::from(dims) }, &[v])
    }

    /// Repeats all tensors to their common shape.
    pub(crate) fn broadcast_all(&mut self, values: &[Val]) -> Result<Vec<Val>, Fault> {
        let mut common: Vec<Dim> = Vec::new();
        for v in values {
            let dims = self.dims(*v);
            common = shape::broadcast(&common, &dims).ok_or_else(|| Fault::Broadcast {
                a: self.ty(*v).with_shape(common.as_slice()),
                b: self.ty(*v).clone(),
            })?;
        }
        values.iter().map(|v| self.broadcast_to(*v, &common)).collect()
    }

    /// The same elements under another shape.
    pub(crate) fn reshape(&mut self, v: Val, dims: &[Dim]) -> Result<Val, Fault> {
        let from = self.dims(v);
        if from == dims {
            return Ok(v);
        }
        shape::check_shape(dims)?;
        let (n, m) = (shape::product(&from)?, shape::product(dims)?);
        if n != m {
            let (from, to) = (Shape::from(from), Shape::from(dims));
            return Err(match (n.as_const(), m.as_const()) {
                (Some(_), Some(_)) => Fault::Mismatch {
                    what: "shape".into(),
                    expected: format!("as many elements as {from}"),
                    found: to.to_string(),
                },
                _ => Fault::Unproven(format!("{from} and {to} have equally many elements")),
            });
        }
        if let Some(known) = self.known(v).and_then(|k| k.reshaped(&Shape::from(dims))) {
            return Ok(self.make_known(known));
        }
        self.emit(Reshape { shape: Shape::from(dims) }, &[v])
    }

    /// Permutes axes.
    pub(crate) fn transpose(&mut self, v: Val, perm: &[usize]) -> Result<Val, Fault> {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return Ok(v);
        }
        if let Some(known) = self.known(v).and_then(|k| k.transpose(perm)) {
            return Ok(self.make_known(known));
        }
        self.emit(Transpose { perm: perm.to_vec() }, &[v])
    }

    /// Elements along one axis.
    pub(crate) fn slice(
        &mut self,
        v: Val,
        axis: usize,
        start: Dim,
        len: Dim,
        stride: i64,
    ) -> Result<Val, Fault> {
        if start.is(0) && stride == 1 && self.ty(v).shape[axis] == len {
            return Ok(v);
        }
        if let Some(known) = self.known(v).and_then(|k| k.slice(axis, &start, &len, stride)) {
            return Ok(self.make_known(known));
        }
        self.emit(Slice { axis, start, len, stride }, &[v])
    }

    /// Converts elements.
    pub(crate) fn cast(&mut self, v: Val, to: DType) -> Result<Val, Fault> {
        if self.dtype(v) == to { Ok(v) } else { self.emit(Cast { to }, &[v]) }
    }

    /// A function of one tensor.
    pub(crate) fn unary(&mut self, f: UnaryFn, v: Val) -> Result<Val, Fault> {
        self.emit(Unary { f }, &[v])
    }

    /// A function of two tensors, with broadcasting.
    pub(crate) fn binary(&mut self, f: BinaryFn, a: Val, b: Val) -> Result<Val, Fault> {
        let both = self.broadcast_all(&[a, b])?;
        self.emit(Binary { f }, &both)
    }

    /// A function of a tensor and a number.
    pub(crate) fn binary_scalar(&mut self, f: BinaryFn, a: Val, x: f64) -> Result<Val, Fault> {
        let b = self.splat(x, a)?;
        self.emit(Binary { f }, &[a, b])
    }

    /// Combines elements along ascending axes, which stay with extent 1 if `keep`.
    pub(crate) fn reduce(&mut self, f: ReduceFn, v: Val, axes: &[usize], keep: bool) -> Result<Val, Fault> {
        let mut dims = self.dims(v);
        let reduced = if axes.is_empty() { v } else { self.emit(Reduce { axes: axes.to_vec(), f }, &[v])? };
        if !keep {
            return Ok(reduced);
        }
        for axis in axes {
            dims[*axis] = Dim::from(1);
        }
        self.reshape(reduced, &dims)
    }
}

/// The one result of a node.
pub(crate) fn one(v: Val) -> Imported<Vec<Val>> {
    Ok(vec![v])
}
