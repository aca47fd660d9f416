//! Identities that need no choice.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::view;
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{
    Binary, BinaryFn, Broadcast, Cast, Concat, Constant, DimValue, Gather, Op, Select, Slice, Transpose,
    Unary, UnaryFn,
};
use ssmc_ir::{BuildError, DType, Dim, DimFn, Graph, GraphBuilder, Model, Node, Shape, ValueId};

/// Applies identities to every node, in regions too: views of views are one view, slices move before transposes,
/// neutral operands vanish, arithmetic on dims is done.
pub struct Simplify;

impl Pass for Simplify {
    fn name(&self) -> &'static str {
        "simplify"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = simplify(&model.graph)?;
        Ok(Changed::replace(model, graph))
    }
}

/// The graph with the identities applied.
///
/// # Errors
/// The graph is not valid.
pub(crate) fn simplify(graph: &Graph) -> Result<Graph, EditError> {
    rewrite(graph, |r, _, node| {
        if !node.regions.is_empty() {
            let regions = node.regions.iter().map(simplify).collect::<Result<_, _>>()?;
            r.copy_as(node, node.op.clone(), regions)?;
            return Ok(Action::Done);
        }
        let operands = r.operands(node)?;
        let [result] = node.results[..] else { return Ok(Action::Copy) };
        match identity(r.builder(), node, &operands)? {
            Some(new) => {
                r.replace(result, new)?;
                Ok(Action::Done)
            }
            None => Ok(Action::Copy),
        }
    })
}

type Simplified = Result<Option<ValueId>, BuildError>;

/// Op and operands of the node that defines a value of the new graph.
fn def(b: &GraphBuilder, value: ValueId) -> Option<(Op, Vec<ValueId>)> {
    let node = b.graph().def_node(value)?;
    Some((node.op.clone(), node.operands.iter().flatten().copied().collect()))
}

fn identity(b: &mut GraphBuilder, node: &Node, operands: &[Option<ValueId>]) -> Simplified {
    let xs: Vec<ValueId> = operands.iter().flatten().copied().collect();
    let Some(&x) = xs.first() else { return Ok(None) };
    if let Some(y) = before_repeating(b, &node.op, &xs)? {
        return Ok(Some(y));
    }
    match &node.op {
        Op::Reshape(op) => reshape(b, x, &op.shape).map(Some),
        Op::Transpose(op) => view::permute(b, x, &op.perm).map(Some),
        Op::Broadcast(op) => broadcast(b, x, op).map(Some),
        Op::Slice(op) => slice(b, x, op),
        Op::Cast(op) => cast(b, x, op),
        Op::Concat(Concat { .. }) if xs.len() == 1 => Ok(Some(x)),
        Op::Pad(op) if op.low.is(0) && op.high.is(0) => Ok(Some(x)),
        Op::Gather(op) => gather(b, x, xs[1], op),
        Op::Select(Select) => Ok(select(b, &xs)),
        Op::Reverse(op) => Ok(def(b, x).and_then(|(inner, xs)| (inner == op.clone().into()).then(|| xs[0]))),
        Op::Unary(Unary { f: f @ (UnaryFn::Neg | UnaryFn::Not) }) => {
            Ok(def(b, x).and_then(|(inner, xs)| (inner == Unary { f: *f }.into()).then(|| xs[0])))
        }
        Op::Binary(op) => binary(b, op.f, x, xs[1]),
        _ => Ok(None),
    }
}

/// Views on both sides of a cast are one view, before it. A view on one side stays: others may use the cast as it is.
fn reshape(b: &mut GraphBuilder, x: ValueId, shape: &[Dim]) -> Result<ValueId, BuildError> {
    if let Some((Op::Cast(cast), xs)) = def(b, x)
        && let Some((Op::Reshape(_), inner)) = def(b, xs[0])
        && b.ty(inner[0]).dtype.is_float()
        && cast.to.is_float()
    {
        let y = view::reshape(b, inner[0], shape)?;
        return b.cast(y, cast.to);
    }
    view::reshape(b, x, shape)
}

/// Broadcasts take a tensor without axes that they repeat, and are no mere reshapes.
fn broadcast(b: &mut GraphBuilder, x: ValueId, op: &Broadcast) -> Result<ValueId, BuildError> {
    if let Some((Op::Broadcast(inner), xs)) = def(b, x) {
        let axes = inner.axes.iter().map(|axis| op.axes[*axis]).collect();
        return broadcast(b, xs[0], &Broadcast { axes, shape: op.shape.clone() });
    }
    let shape = b.shape(x).clone();
    if view::same_dense(&shape, &op.shape) {
        return view::reshape(b, x, &op.shape);
    }
    let kept: Vec<usize> = (0..shape.rank()).filter(|i| !shape[*i].is(1)).collect();
    let dims: Vec<Dim> = kept.iter().map(|i| shape[*i].clone()).collect();
    let x = view::reshape(b, x, &dims)?;
    let axes = kept.iter().map(|i| op.axes[*i]).collect();
    b.op(Broadcast { axes, shape: op.shape.clone() }, &[x])
}

/// An elementwise op on tensors that all repeat themselves along an axis: what it gives repeats itself as well.
fn before_repeating(b: &mut GraphBuilder, op: &Op, xs: &[ValueId]) -> Simplified {
    if !matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_)) {
        return Ok(None);
    }
    let shape = b.shape(xs[0]).clone();
    let mut parts = Vec::new();
    for x in xs {
        match def(b, *x) {
            Some((Op::Broadcast(op), operands)) => parts.push((op.axes, operands[0])),
            _ => return Ok(None),
        }
    }
    let varies = |axis: &usize| {
        let mut parts = parts.iter();
        parts.any(|(axes, x)| axes.iter().zip(b.shape(*x).iter()).any(|(to, d)| to == axis && !d.is(1)))
    };
    let kept: Vec<usize> = (0..shape.rank()).filter(varies).collect();
    if (0..shape.rank()).all(|axis| kept.contains(&axis) || shape[axis].is(1)) {
        return Ok(None);
    }
    let dims: Shape = kept.iter().map(|axis| shape[*axis].clone()).collect();
    let mut operands = Vec::new();
    for (axes, x) in parts {
        let from = b.shape(x).clone();
        let dense: Vec<usize> = (0..axes.len()).filter(|i| kept.contains(&axes[*i])).collect();
        let x = view::reshape(b, x, &dense.iter().map(|i| from[*i].clone()).collect::<Vec<_>>())?;
        let place = |axis: usize| kept.iter().position(|k| *k == axis);
        let to: Vec<usize> = dense.iter().filter_map(|i| place(axes[*i])).collect();
        operands.push(if *b.shape(x) == dims { x } else { b.broadcast(x, &to, dims.clone())? });
    }
    let y = b.op(op.clone(), &operands)?;
    b.broadcast(y, &kept, shape).map(Some)
}

fn slice(b: &mut GraphBuilder, x: ValueId, op: &Slice) -> Simplified {
    let whole = op.stride == 1 && op.start.is(0);
    if whole && b.shape(x)[op.axis] == op.len {
        return Ok(Some(x));
    }
    match def(b, x) {
        Some((Op::Slice(inner), xs)) if inner.axis == op.axis && inner.stride == 1 => {
            let start = inner.start + &op.start;
            Ok(Some(b.op(Slice { start, ..op.clone() }, &xs)?))
        }
        // Through the slice of another axis, if a concatenation lies behind it.
        Some((Op::Slice(inner), xs)) if inner.axis != op.axis => match of_parts(b, xs[0], op)? {
            Some(part) => match slice(b, part, &inner)? {
                Some(x) => Ok(Some(x)),
                None => b.op(inner, &[part]).map(Some),
            },
            None => Ok(None),
        },
        Some((Op::Concat(_), _)) => of_parts(b, x, op),
        Some((Op::Reshape(_), xs)) => {
            let Some(axis) = dense_axis(b.shape(x), b.shape(xs[0]), op.axis) else { return Ok(None) };
            let mut dims = b.shape(x).to_vec();
            dims[op.axis] = op.len.clone();
            let part = sliced(b, xs[0], &Slice { axis, ..op.clone() })?;
            view::reshape(b, part, &dims).map(Some)
        }
        Some((Op::Transpose(Transpose { perm }), xs)) => {
            let inner = Slice { axis: perm[op.axis], ..op.clone() };
            let x = match slice(b, xs[0], &inner)? {
                Some(x) => x,
                None => b.op(inner, &xs)?,
            };
            Ok(Some(view::permute(b, x, &perm)?))
        }
        _ => Ok(None),
    }
}

/// The slice of a value, simplified.
fn sliced(b: &mut GraphBuilder, x: ValueId, op: &Slice) -> Result<ValueId, BuildError> {
    match slice(b, x, op)? {
        Some(x) => Ok(x),
        None => b.op(op.clone(), &[x]),
    }
}

/// The axis of `from` that is axis `axis` of `shape`, where both differ only in unit axes.
fn dense_axis(shape: &[Dim], from: &[Dim], axis: usize) -> Option<usize> {
    if !view::same_dense(shape, from) || shape[axis].is(1) {
        return None;
    }
    let n_before = shape[..axis].iter().filter(|d| !d.is(1)).count();
    (0..from.len()).filter(|i| !from[*i].is(1)).nth(n_before)
}

/// The part of a concatenation that a slice along its axis takes, seen through unit axes: of one operand, or of several
/// that are slices themselves.
fn of_parts(b: &mut GraphBuilder, x: ValueId, op: &Slice) -> Simplified {
    let (concat, xs) = match def(b, x) {
        Some((Op::Concat(concat), xs)) if concat.axis == op.axis && op.stride == 1 => (concat, xs),
        Some((Op::Reshape(_), xs)) => {
            let Some(axis) = dense_axis(b.shape(x), b.shape(xs[0]), op.axis) else { return Ok(None) };
            let mut dims = b.shape(x).to_vec();
            dims[op.axis] = op.len.clone();
            let part = of_parts(b, xs[0], &Slice { axis, ..op.clone() })?;
            return part.map(|part| view::reshape(b, part, &dims)).transpose();
        }
        _ => return Ok(None),
    };
    let (Some(start), Some(len)) = (op.start.as_const(), op.len.as_const()) else { return Ok(None) };
    let mut parts = Vec::new();
    let mut offset = 0;
    for x in &xs {
        if offset >= start + len {
            break;
        }
        let Some(n) = b.shape(*x)[op.axis].as_const() else { return Ok(None) };
        let (from, to) = ((start - offset).max(0), (start + len - offset).min(n));
        if from < to {
            parts.push((*x, Slice { axis: op.axis, start: from.into(), len: (to - from).into(), stride: 1 }));
        }
        offset += n;
    }
    if let [(x, part)] = &parts[..] {
        return sliced(b, *x, part).map(Some);
    }
    let is_slice = |x: &ValueId| match def(b, *x) {
        Some((Op::Slice(_), _)) => true,
        Some((Op::Reshape(_), xs)) => matches!(def(b, xs[0]), Some((Op::Slice(_), _))),
        _ => false,
    };
    if parts.is_empty() || !parts.iter().all(|(x, _)| is_slice(x)) {
        return Ok(None);
    }
    let parts = parts.iter().map(|(x, part)| sliced(b, *x, part)).collect::<Result<Vec<_>, _>>()?;
    b.op(concat, &parts).map(Some)
}

/// Whether every number of `narrow` is one of `wide`.
pub(crate) fn embeds(narrow: DType, wide: DType) -> bool {
    use DType::{BF16, F8E4M3, F8E5M2, F16, F32, F64};
    match wide {
        F64 => narrow.is_float(),
        F32 => narrow.is_float() && narrow != F64,
        BF16 => matches!(narrow, BF16 | F8E4M3 | F8E5M2),
        F16 => matches!(narrow, F16 | F8E4M3 | F8E5M2),
        _ => narrow == wide,
    }
}

fn cast(b: &mut GraphBuilder, x: ValueId, op: &Cast) -> Simplified {
    if b.ty(x).dtype == op.to {
        return Ok(Some(x));
    }
    if let Some((Op::Cast(inner), xs)) = def(b, x)
        && embeds(b.ty(xs[0]).dtype, inner.to)
        && b.ty(xs[0]).dtype.is_float()
    {
        return b.cast(xs[0], op.to).map(Some);
    }
    Ok(None)
}

/// A gather of one known index, or of several that follow each other, is a slice.
fn gather(b: &mut GraphBuilder, x: ValueId, indices: ValueId, op: &Gather) -> Simplified {
    let Some(extent) = b.shape(x)[op.axis].as_const() else { return Ok(None) };
    let Some((Op::Constant(c), _)) = def(b, indices) else { return Ok(None) };
    if c.shape.rank() == 1
        && let Some((start, len)) = run(&c, extent)
    {
        let part = Slice { axis: op.axis, start: start.into(), len: len.into(), stride: 1 };
        return sliced(b, x, &part).map(Some);
    }
    let Some(index) = c.as_scalar().map(|i| i as i64) else { return Ok(None) };
    let index = if index < 0 { index + extent } else { index };
    if !(0..extent).contains(&index) {
        return Ok(None);
    }
    let mut dims = b.shape(x).to_vec();
    dims.splice(op.axis..=op.axis, c.shape.iter().cloned());
    let part = Slice { axis: op.axis, start: index.into(), len: 1.into(), stride: 1 };
    let part = match slice(b, x, &part)? {
        Some(part) => part,
        None => b.op(part, &[x])?,
    };
    view::reshape(b, part, &dims).map(Some)
}

/// First and number of the indices, if there are several, one after the other, inside of an axis.
fn run(c: &Constant, extent: i64) -> Option<(i64, i64)> {
    let size = c.dtype.bits() / 8;
    if size == 0 || c.data.len() < 2 * size {
        return None;
    }
    let indices: Option<Vec<i64>> =
        c.data.chunks_exact(size).map(|e| ssmc_ir::scalar::decode(c.dtype, e).map(|i| i as i64)).collect();
    let indices = indices?;
    let start = if indices[0] < 0 { indices[0] + extent } else { indices[0] };
    let follow = indices.windows(2).all(|pair| pair[1] == pair[0] + 1 && (pair[0] < 0) == (pair[1] < 0));
    let len = indices.len() as i64;
    (follow && start >= 0 && start + len <= extent).then_some((start, len))
}

fn select(b: &GraphBuilder, xs: &[ValueId]) -> Option<ValueId> {
    if xs[1] == xs[2] {
        return Some(xs[1]);
    }
    let cond = view::splat(b.graph(), xs[0])?;
    Some(if cond == 0.0 { xs[2] } else { xs[1] })
}

/// The dim that an `i64` scalar holds.
fn as_dim(b: &GraphBuilder, x: ValueId) -> Option<Dim> {
    match &b.graph().def_node(x)?.op {
        Op::DimValue(d) => Some(d.value.clone()),
        Op::Constant(Constant { dtype: DType::I64, shape, data }) if *shape == Shape::scalar() => {
            Some(Dim::from(i64::from_le_bytes(data.get(..8)?.try_into().ok()?)))
        }
        _ => None,
    }
}

fn binary(b: &mut GraphBuilder, f: BinaryFn, x: ValueId, y: ValueId) -> Simplified {
    if let (Some(p), Some(q)) = (as_dim(b, x), as_dim(b, y)) {
        let value = match f {
            BinaryFn::Add => p + q,
            BinaryFn::Sub => p - q,
            BinaryFn::Mul => p * q,
            BinaryFn::Min => Dim::apply(DimFn::Min, &p, &q),
            BinaryFn::Max => Dim::apply(DimFn::Max, &p, &q),
            _ => return Ok(None),
        };
        return if value.is_undefined() { Ok(None) } else { b.op(DimValue { value }, &[]).map(Some) };
    }
    let number = |v| view::splat(b.graph(), v);
    match (f, number(x), number(y)) {
        (BinaryFn::Mul, _, Some(1.0)) | (BinaryFn::Div | BinaryFn::Pow, _, Some(1.0)) => Ok(Some(x)),
        (BinaryFn::Mul, Some(1.0), _) => Ok(Some(y)),
        (BinaryFn::Pow, _, Some(2.0)) if b.ty(x).dtype.is_float() => {
            b.op(Binary { f: BinaryFn::Mul }, &[x, x]).map(Some)
        }
        _ => Ok(None),
    }
}
