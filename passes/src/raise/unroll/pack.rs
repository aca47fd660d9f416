//! Packs: one value for each step of an unrolled loop.
//!
//! A pack is proved to be a tensor that is indexed by the step, or the same op applied to packs. What is neither can
//! only be stacked as it stands.

use super::chain::Route;
use super::key::{Keys, index, places};
use crate::cse::is_commutative;
use ssmc_ir::ops::{Binary, BinaryFn, Constant, Contract, Op, Spec};
use ssmc_ir::{Def, Entity, Graph, Node, NodeId, Shape, ValueId};
use std::collections::HashMap;

/// An index into [`Packs`].
pub(super) type PackId = usize;

/// What the values of a pack are.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// All the same.
    Same(ValueId),
    /// Elements `start, start + step, ..` along one axis, which stays with extent 1.
    Indexed { x: ValueId, axis: usize, start: i64, step: i64 },
    /// Literals, stacked along a new first axis.
    Literal(Constant),
    /// The carried state before each step.
    Carried,
    /// The states `start, start + step, ..` of another chain.
    States { chain: usize, start: i64, step: i64 },
    /// An op on packs.
    Node { op: Op, operands: Vec<Option<PackId>>, node: NodeId, result: usize },
    /// The pack of the step before, after `first`.
    Delayed { of: PackId, first: ValueId },
    /// Nothing in common.
    Apart,
}

/// Packs of one length with their forms; operands come first.
#[derive(Clone, Debug)]
pub(super) struct Packs<'a> {
    pub(super) graph: &'a Graph,
    pub(super) values: Vec<Vec<ValueId>>,
    pub(super) forms: Vec<Form>,
}

/// Finds packs.
pub(super) struct Packer<'a, 'b> {
    packs: Packs<'a>,
    keys: &'b Keys,
    /// Chain and index of every value that is a state of an accepted chain.
    states: &'b [Option<(usize, usize)>],
    /// In packs of one value: what is to be taken apart.
    route: Option<&'b Route>,
    ids: HashMap<Vec<ValueId>, PackId>,
}

/// A step with more nodes than this is no step.
const MAX_PACKS: usize = 400;

impl<'a, 'b> Packer<'a, 'b> {
    pub(super) fn new(graph: &'a Graph, keys: &'b Keys, states: &'b [Option<(usize, usize)>]) -> Self {
        let packs = Packs { graph, values: Vec::new(), forms: Vec::new() };
        Self { packs, keys, states, route: None, ids: HashMap::new() }
    }

    /// Takes apart the values on the route and no others.
    pub(super) fn along(
        graph: &'a Graph,
        keys: &'b Keys,
        states: &'b [Option<(usize, usize)>],
        route: &'b Route,
    ) -> Self {
        Self { route: Some(route), ..Self::new(graph, keys, states) }
    }

    /// What was found. A pack that is another one a step later, but for its first value, is known by that.
    pub(super) fn finish(self) -> Packs<'a> {
        let mut packs = self.packs;
        let n = packs.values.first().map_or(0, Vec::len);
        let is_known = |form: &Form| matches!(form, Form::Indexed { .. } | Form::Node { .. });
        let known: HashMap<&[ValueId], PackId> = (0..packs.forms.len())
            .filter(|id| n > 1 && is_known(&packs.forms[*id]))
            .map(|id| (&packs.values[id][..n - 1], id))
            .collect();
        let delayed: Vec<(PackId, Form)> = (0..packs.forms.len())
            .filter(|id| n > 1 && matches!(packs.forms[*id], Form::Apart))
            .filter_map(|id| {
                let (first, rest) = packs.values[id].split_first()?;
                Some((id, Form::Delayed { of: *known.get(rest)?, first: *first }))
            })
            .collect();
        for (id, form) in delayed {
            packs.forms[id] = form;
        }
        packs
    }

    /// A pack of other packs with one more step before it, in which only its form matters; `None` if what it takes has
    /// no such step.
    pub(super) fn preceded(&mut self, packs: &Packs<'a>, id: PackId, carried: PackId) -> Option<PackId> {
        let form = match &packs.forms[id] {
            Form::Same(x) => Form::Same(*x),
            Form::Carried => return Some(carried),
            Form::Indexed { x, axis, start, step } => {
                let extent = self.packs.graph.ty(*x).shape[*axis].as_const()?;
                let start = Some(start - step).filter(|start| (0..extent).contains(start))?;
                Form::Indexed { x: *x, axis: *axis, start, step: *step }
            }
            Form::Node { op, operands, node, result } => {
                let mut preceded = Vec::new();
                for operand in operands {
                    preceded.push(match operand {
                        Some(operand) => Some(self.preceded(packs, *operand, carried)?),
                        None => None,
                    });
                }
                Form::Node { op: op.clone(), operands: preceded, node: *node, result: *result }
            }
            Form::Literal(_) | Form::States { .. } | Form::Delayed { .. } | Form::Apart => return None,
        };
        let values = &packs.values[id];
        self.packs.values.push(values[..1].iter().chain(values).copied().collect());
        self.packs.forms.push(form);
        Some(self.packs.forms.len() - 1)
    }

    /// The pack of carried states.
    pub(super) fn carried(&mut self, values: Vec<ValueId>) -> PackId {
        self.push(values, Form::Carried)
    }

    /// The pack of the sums of two packs.
    pub(super) fn sum(&mut self, values: Vec<ValueId>, [x, y]: [PackId; 2]) -> PackId {
        let Def::Result(node, result) = self.packs.graph.def(values[1]) else {
            return self.push(values, Form::Apart);
        };
        let op = Binary { f: BinaryFn::Add }.into();
        self.push(values, Form::Node { op, operands: vec![Some(x), Some(y)], node, result })
    }

    fn push(&mut self, values: Vec<ValueId>, form: Form) -> PackId {
        let id = self.packs.forms.len();
        self.ids.insert(values.clone(), id);
        self.packs.values.push(values);
        self.packs.forms.push(form);
        id
    }

    /// The pack of these values, which have one type.
    pub(super) fn pack(&mut self, values: Vec<ValueId>) -> PackId {
        if let Some(id) = self.ids.get(&values) {
            return *id;
        }
        let is_leaf = self.route.is_none_or(|route| !route.values.contains(&values[0]));
        let leaf = is_leaf.then(|| self.leaf(&values)).flatten();
        let form = leaf.or_else(|| self.node(&values)).unwrap_or(Form::Apart);
        self.push(values, form)
    }

    fn leaf(&self, values: &[ValueId]) -> Option<Form> {
        let (&first, rest) = values.split_first()?;
        if rest.iter().all(|v| *v == first) {
            return Some(Form::Same(first));
        }
        if let Some((chain, _)) = self.states[first.idx()] {
            let indices = values
                .iter()
                .map(|v| self.states[v.idx()].filter(|(c, _)| *c == chain).map(|(_, i)| i as i64));
            let (start, step) = progression(indices)?;
            return Some(Form::States { chain, start, step });
        }
        let node = self.packs.graph.def_node(first)?;
        match &node.op {
            Op::Slice(op) => {
                let (x, _) = index(self.packs.graph, node, op)?;
                let indices = values.iter().map(|v| {
                    let node = self.packs.graph.def_node(*v)?;
                    let Op::Slice(other) = &node.op else { return None };
                    let (y, i) = index(self.packs.graph, node, other)?;
                    (x == y && op.axis == other.axis).then_some(i)
                });
                let (start, step) = progression(indices)?;
                Some(Form::Indexed { x, axis: op.axis, start, step })
            }
            Op::Constant(c) => {
                let mut data = Vec::new();
                for v in values {
                    match self.packs.graph.def_op(*v) {
                        Some(Op::Constant(other)) if (other.dtype, &other.shape) == (c.dtype, &c.shape) => {
                            data.extend_from_slice(&other.data);
                        }
                        _ => return None,
                    }
                }
                if c.dtype.bits() < 8 {
                    return None;
                }
                let rows = ssmc_ir::Dim::from(values.len() as i64);
                let shape: Shape = std::iter::once(&rows).chain(c.shape.iter()).collect();
                Some(Form::Literal(Constant { dtype: c.dtype, shape, data }))
            }
            _ => None,
        }
    }

    fn node(&mut self, values: &[ValueId]) -> Option<Form> {
        if self.packs.forms.len() >= MAX_PACKS {
            return None;
        }
        let mut nodes = Vec::with_capacity(values.len());
        let Def::Result(first, result) = self.packs.graph.def(values[0]) else { return None };
        for v in values {
            match self.packs.graph.def(*v) {
                Def::Result(id, i) if i == result => nodes.push(self.packs.graph.node(id)),
                _ => return None,
            }
        }
        // The first step may start from something else, so another one is the model.
        let model = nodes[nodes.len() / 2];
        if !model.regions.is_empty() || model.operands.is_empty() {
            return None;
        }
        let aligned: Vec<Vec<Option<ValueId>>> =
            nodes.iter().map(|n| self.aligned(model, n)).collect::<Option<_>>()?;
        let mut columns = Vec::new();
        for i in 0..model.operands.len() {
            let column: Option<Vec<ValueId>> = aligned.iter().map(|operands| operands[i]).collect();
            let is_absent = aligned.iter().all(|operands| operands[i].is_none());
            if column.is_none() && !is_absent {
                return None;
            }
            if let Some(column) = &column {
                let ty = self.packs.graph.ty(column[0]);
                if column.iter().any(|v| self.packs.graph.ty(*v) != ty) {
                    return None;
                }
            }
            columns.push(column);
        }
        let operands = columns.into_iter().map(|column| column.map(|c| self.pack(c))).collect();
        let op = match &model.op {
            Op::Contract(op) => Contract { spec: op.spec.renamed() }.into(),
            op => op.clone(),
        };
        Some(Form::Node { op, operands, node: first, result })
    }

    /// The operands of a node in the order of those of the model; `None` if it is no such node.
    fn aligned(&self, model: &Node, node: &Node) -> Option<Vec<Option<ValueId>>> {
        if node.operands.len() != model.operands.len() {
            return None;
        }
        let (Op::Contract(want), Op::Contract(has)) = (&model.op, &node.op) else {
            if model.op != node.op {
                return None;
            }
            if !is_commutative(&model.op) {
                return Some(node.operands.clone());
            }
            let order = self.matched(model, node, |_| Vec::new(), |_| Vec::new())?;
            return Some(order.into_iter().map(|j| node.operands[j]).collect());
        };
        let order = self.matched(model, node, |i| places(&want.spec, i), |i| places(&has.spec, i))?;
        let inputs = order.iter().map(|j| has.spec.inputs[*j].clone()).collect();
        let spec = Spec { inputs, output: has.spec.output.clone() }.renamed();
        (spec == want.spec.renamed()).then(|| order.into_iter().map(|j| node.operands[j]).collect())
    }

    /// For each operand of the model that of the node which computes the same; those left over keep their order.
    fn matched(
        &self,
        model: &Node,
        node: &Node,
        want: impl Fn(usize) -> Vec<Option<usize>>,
        has: impl Fn(usize) -> Vec<Option<usize>>,
    ) -> Option<Vec<usize>> {
        let key = |v: Option<ValueId>| v.map(|v| self.keys.of(v));
        let n = model.operands.len();
        let mut order: Vec<Option<usize>> = vec![None; n];
        let mut free: Vec<usize> = (0..n).collect();
        for (i, place) in order.iter_mut().enumerate() {
            let fits = |j: &usize| key(model.operands[i]) == key(node.operands[*j]) && want(i) == has(*j);
            *place = free.iter().position(fits).map(|at| free.remove(at));
        }
        for (i, place) in order.iter_mut().enumerate() {
            if place.is_none() {
                let at = free.iter().position(|j| want(i) == has(*j))?;
                *place = Some(free.remove(at));
            }
        }
        order.into_iter().collect()
    }
}

impl Packs<'_> {
    /// The packs that this one is made from, itself included, operands first; what is delayed may come before that
    /// which it delays.
    pub(super) fn reachable(&self, id: PackId) -> Vec<PackId> {
        let mut seen = vec![false; self.forms.len()];
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut seen[id], true) {
                continue;
            }
            match &self.forms[id] {
                Form::Node { operands, .. } => stack.extend(operands.iter().flatten()),
                Form::Delayed { of, .. } => stack.push(*of),
                _ => {}
            }
        }
        (0..self.forms.len()).filter(|id| seen[*id]).collect()
    }
}

/// First element and difference of an arithmetic progression that is not constant.
fn progression(indices: impl Iterator<Item = Option<i64>>) -> Option<(i64, i64)> {
    let indices: Vec<i64> = indices.collect::<Option<_>>()?;
    let [first, second, ..] = indices[..] else { return None };
    let step = second - first;
    let is_one = indices.windows(2).all(|w| w[1] - w[0] == step);
    (is_one && step != 0).then_some((first, step))
}
