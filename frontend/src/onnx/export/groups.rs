//! Tensors that repeat themselves along part of an axis: an axis of heads that is groups times heads of a group.

use super::body::Name;
use super::writer::Writer;
use ssmc_ir::ops::Op;
use ssmc_ir::{Dim, Graph, Node, ValueId};

/// What an axis of a value walks over.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Walk {
    /// An axis of the source.
    Along(usize),
    /// The same elements, this often.
    Repeat(Dim),
}

/// A value as a view of a smaller one.
#[derive(Clone, Debug)]
pub(super) struct Repeated {
    /// The smaller value.
    pub(super) source: ValueId,
    /// The axes of the source in the order of the value's.
    pub(super) perm: Vec<usize>,
    /// The extents that the axis is made of: as many different elements, each as often.
    pub(super) groups: i64,
    pub(super) times: i64,
}

impl Writer<'_> {
    /// Channels that are groups of their own by their axis, but read the same b and c as others: these and c.
    pub(super) fn regrouped(&self, node: &Node) -> Option<(Repeated, Repeated)> {
        let at = |i: usize| node.operands[i].filter(|v| self.ty(*v).rank() == 4);
        let single = self.ty(node.results[0]).shape[3].is(1);
        let of = |value: ValueId| repeated(self.graph, value, 2);
        let (b, c) = (of(at(3).filter(|_| single)?)?, of(at(4)?)?);
        (b.groups == c.groups && b.times == c.times).then_some((b, c))
    }

    /// The operands of a selective scan with one group for all channels that read the same b and c.
    pub(super) fn in_groups(
        &mut self,
        node: &Node,
        (b, c): &(Repeated, Repeated),
    ) -> Result<Vec<Option<Name>>, String> {
        let [groups, times] = [Dim::from(b.groups), Dim::from(b.times)];
        let mut actuals = Vec::new();
        for (i, value) in node.operands.iter().enumerate() {
            let Some(value) = *value else {
                actuals.push(None);
                continue;
            };
            let mut dims = self.ty(value).shape.to_vec();
            let name = match i {
                3 | 4 => {
                    let part = if i == 3 { b } else { c };
                    dims[2] = groups.clone();
                    let x = self.full(part.source)?;
                    let x = self.body.transpose(&x, &part.perm);
                    self.reshaped(&x, &dims.into())?
                }
                _ => {
                    // Groups and rows stand where the axis of single channels and its unit axis stood.
                    let axis = match i {
                        2 | 5 | 7 => 0,
                        8 => 1,
                        _ => 2,
                    };
                    dims.splice(axis..axis + 2, [groups.clone(), times.clone()]);
                    let x = self.full(value)?;
                    self.reshaped(&x, &dims.into())?
                }
            };
            actuals.push(Some(name));
        }
        Ok(actuals)
    }
}

/// The value as one whose `axis` repeats every element of a smaller axis, if it is one by its views.
fn repeated(graph: &Graph, value: ValueId, axis: usize) -> Option<Repeated> {
    let (source, axes) = trace(graph, value);
    let shape = &graph.ty(source).shape;
    let [Walk::Along(own), Walk::Repeat(times)] = &axes[axis][..] else { return None };
    let (groups, times) = (shape[*own].as_const()?, times.as_const()?);
    let mut perm = Vec::new();
    for (i, walks) in axes.iter().enumerate() {
        for walk in walks.iter().take(if i == axis { 1 } else { usize::MAX }) {
            match walk {
                Walk::Along(from) => perm.push(*from),
                Walk::Repeat(_) => return None,
            }
        }
    }
    // What no axis walks over has one element.
    let rest = (0..shape.rank()).filter(|i| !perm.contains(i)).collect::<Vec<_>>();
    if !rest.iter().all(|i| shape[*i].is(1)) {
        return None;
    }
    perm.extend(rest);
    Some(Repeated { source, perm, groups, times })
}

/// The value behind transposes, broadcasts and reshapes that join axes, and what each axis walks over there, outer
/// walks first. Extents of 1 are left out.
fn trace(graph: &Graph, value: ValueId) -> (ValueId, Vec<Vec<Walk>>) {
    let shape = &graph.ty(value).shape;
    let mut source = value;
    let mut axes: Vec<Vec<Walk>> =
        (0..shape.rank()).map(|i| if shape[i].is(1) { Vec::new() } else { vec![Walk::Along(i)] }).collect();
    while let Some(node) = graph.def_node(source) {
        let Some(x) = node.operands.first().copied().flatten() else { break };
        let from = &graph.ty(x).shape;
        let inner: Vec<Vec<Walk>> = match &node.op {
            Op::Transpose(op) => op.perm.iter().map(|axis| vec![Walk::Along(*axis)]).collect(),
            Op::Broadcast(op) => (0..op.shape.rank())
                .map(|axis| match op.axes.iter().position(|a| *a == axis) {
                    Some(i) if from[i] == op.shape[axis] => vec![Walk::Along(i)],
                    _ => vec![Walk::Repeat(op.shape[axis].clone())],
                })
                .collect(),
            Op::Reshape(op) => match joined(from, &op.shape) {
                Some(inner) => inner,
                None => break,
            },
            _ => break,
        };
        for walks in &mut axes {
            let through = |walk: Walk| match walk {
                Walk::Along(axis) => inner[axis].clone(),
                walk => vec![walk],
            };
            *walks = std::mem::take(walks).into_iter().flat_map(through).collect();
            walks.retain(|walk| !matches!(walk, Walk::Along(axis) if from[*axis].is(1)));
            walks.retain(|walk| !matches!(walk, Walk::Repeat(times) if times.is(1)));
        }
        source = x;
    }
    (source, axes)
}

/// The axes that each axis of a reshape joins; `None` if it divides one.
fn joined(from: &[Dim], to: &[Dim]) -> Option<Vec<Vec<Walk>>> {
    let mut rest = (0..from.len()).filter(|i| !from[*i].is(1)).peekable();
    let mut all = Vec::new();
    for dim in to {
        let mut walks = Vec::new();
        let mut product = Dim::from(1);
        while product != *dim {
            let axis = rest.next()?;
            product = product * from[axis].clone();
            walks.push(Walk::Along(axis));
            if walks.len() > from.len() {
                return None;
            }
        }
        all.push(walks);
    }
    rest.next().is_none().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_behind_views() {
        let graph = ssmc_ir::parse(
            "func @f(%x: f32[4, 16, seq_len]) {
               %1 = broadcast %x {axes=[1, 3, 4], shape=[1, 4, 90, 16, seq_len]} : f32[1, 4, 90, 16, seq_len]
               %2 = reshape %1 {shape=[360, 16, seq_len]} : f32[360, 16, seq_len]
               %3 = transpose %2 {perm=[2, 0, 1]} : f32[seq_len, 360, 16]
               %4 = reshape %3 {shape=[1, seq_len, 360, 16]} : f32[1, seq_len, 360, 16]
               return %4 \"y\"
             }",
        )
        .unwrap();
        let value = graph.outputs()[0].value;
        let found = repeated(&graph, value, 2).unwrap();
        assert_eq!((found.groups, found.times, found.perm), (4, 90, vec![2, 0, 1]));
        assert_eq!(found.source, graph.inputs()[0].value);
        assert!(repeated(&graph, value, 3).is_none());
    }
}
