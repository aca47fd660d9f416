//! Values read as views of other values, and axes that bear labels.

use ssmc_ir::ops::{Broadcast, Op, Transpose};
use ssmc_ir::{BuildError, Dim, Graph, GraphBuilder, Node, Shape, ValueId};

/// An axis label of a product; unit axes have none.
pub(crate) type Label = u32;
/// The label of every axis of a value.
pub(crate) type Labels = Vec<Option<Label>>;

/// A value whose axes bear labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) value: ValueId,
    pub(crate) labels: Labels,
}

/// Whether two shapes are equal but for unit axes.
pub(crate) fn same_dense(x: &[Dim], y: &[Dim]) -> bool {
    x.iter().filter(|d| !d.is(1)).eq(y.iter().filter(|d| !d.is(1)))
}

/// Whether the node only lays its operand out anew: [`View::base`] takes it off.
pub(crate) fn is_view(graph: &Graph, node: &Node) -> bool {
    match &node.op {
        Op::Broadcast(_) | Op::Transpose(_) => true,
        Op::Reshape(r) => node.operands[0].is_some_and(|x| same_dense(&r.shape, &graph.ty(x).shape)),
        _ => false,
    }
}

impl View {
    /// The value with its axes numbered.
    pub(crate) fn numbered(graph: &Graph, value: ValueId) -> Self {
        let shape = &graph.ty(value).shape;
        let labels = shape.iter().enumerate().map(|(i, d)| (!d.is(1)).then_some(i as Label)).collect();
        Self { value, labels }
    }

    /// The labels that are present, in order of the axes.
    pub(crate) fn dense(&self) -> Vec<Label> {
        self.labels.iter().flatten().copied().collect()
    }

    /// What the value is a view of: broadcasts, transposes, and reshapes of unit axes are taken off.
    pub(crate) fn base(mut self, graph: &Graph) -> Self {
        while let Some(inner) = self.step(graph) {
            self = inner;
        }
        self
    }

    fn step(&self, graph: &Graph) -> Option<Self> {
        let node = graph.def_node(self.value)?;
        let value = node.operands.first().copied().flatten()?;
        let shape = &graph.ty(value).shape;
        let labels = match &node.op {
            Op::Broadcast(b) => {
                let axes = b.axes.iter().zip(shape.iter());
                axes.map(|(to, d)| if d.is(1) { None } else { self.labels[*to] }).collect()
            }
            Op::Transpose(t) => {
                let mut labels = vec![None; t.perm.len()];
                for (to, from) in t.perm.iter().enumerate() {
                    labels[*from] = self.labels[to];
                }
                labels
            }
            Op::Reshape(r) if same_dense(&r.shape, shape) => {
                let mut dense = self.labels.iter().flatten();
                shape.iter().map(|d| if d.is(1) { None } else { dense.next().copied() }).collect()
            }
            _ => return None,
        };
        Some(Self { value, labels })
    }
}

/// The number that every element of the value equals, seen through views.
pub(crate) fn splat(graph: &Graph, value: ValueId) -> Option<f64> {
    let node = graph.def_node(value)?;
    match &node.op {
        Op::Constant(c) => {
            let size = c.dtype.bits() / 8;
            if size == 0 {
                return c.as_scalar();
            }
            let mut elems = c.data.chunks_exact(size);
            let first = elems.next()?;
            if elems.all(|e| e == first) { ssmc_ir::scalar::decode(c.dtype, first) } else { None }
        }
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => splat(graph, node.operands[0]?),
        Op::Cast(c) if c.to.is_float() => {
            splat(graph, node.operands[0]?).map(|x| ssmc_ir::scalar::round(c.to, x))
        }
        _ => None,
    }
}

/// Permutes axes; a permutation that moves only unit axes is a reshape.
pub(crate) fn permute(b: &mut GraphBuilder, x: ValueId, perm: &[usize]) -> Result<ValueId, BuildError> {
    let shape = b.shape(x).clone();
    let moved: Vec<usize> = perm.iter().copied().filter(|axis| !shape[*axis].is(1)).collect();
    if moved.is_sorted() {
        let dims: Shape = perm.iter().map(|axis| shape[*axis].clone()).collect();
        return b.reshape(x, dims);
    }
    match b.graph().def_node(x).map(|n| (n.op.clone(), n.operands.clone())) {
        Some((Op::Transpose(inner), operands)) => {
            let composed: Vec<usize> = perm.iter().map(|axis| inner.perm[*axis]).collect();
            permute(b, operands[0].expect("the operand is required"), &composed)
        }
        _ => b.op(Transpose { perm: perm.to_vec() }, &[x]),
    }
}

/// The value with exactly the axes `target`, in this order; unit axes are dropped.
pub(crate) fn place(
    b: &mut GraphBuilder,
    x: ValueId,
    labels: &[Option<Label>],
    target: &[Label],
) -> Result<ValueId, BuildError> {
    let axis_of =
        |label: Label| labels.iter().position(|l| *l == Some(label)).expect("the value bears the label");
    let dims: Vec<Dim> = target.iter().map(|l| b.shape(x)[axis_of(*l)].clone()).collect();
    let units = (0..labels.len()).filter(|axis| labels[*axis].is_none());
    let perm: Vec<usize> = target.iter().map(|l| axis_of(*l)).chain(units).collect();
    let x = permute(b, x, &perm)?;
    reshape(b, x, &dims)
}

/// The value spread over `shape`, whose axes bear `target`: axes come in order, missing ones are repeated.
pub(crate) fn spread(
    b: &mut GraphBuilder,
    x: ValueId,
    labels: &[Option<Label>],
    target: &[Option<Label>],
    shape: &[Dim],
) -> Result<ValueId, BuildError> {
    let axes: Vec<usize> =
        (0..target.len()).filter(|i| target[*i].is_some() && labels.contains(&target[*i])).collect();
    let kept: Vec<Label> = axes.iter().filter_map(|i| target[*i]).collect();
    let x = place(b, x, labels, &kept)?;
    if same_dense(b.shape(x), shape) {
        return reshape(b, x, shape);
    }
    b.op(Broadcast { axes, shape: Shape::from(shape) }, &[x])
}

/// The same elements under another shape; a reshape of a reshape is one.
pub(crate) fn reshape(b: &mut GraphBuilder, x: ValueId, shape: &[Dim]) -> Result<ValueId, BuildError> {
    if b.shape(x)[..] == *shape {
        return Ok(x);
    }
    match b.graph().def_node(x) {
        Some(node) if matches!(node.op, Op::Reshape(_)) => {
            let inner = node.operands[0].expect("the operand is required");
            reshape(b, inner, shape)
        }
        _ => b.reshape(x, Shape::from(shape)),
    }
}
