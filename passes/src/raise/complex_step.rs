//! Graphs of one step of a complex recurrence: real and imaginary parts come in along an axis of extent 2, are turned
//! and scaled together, and go out joined again.

use super::order;
use super::product::{Term, terms};
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view::{self, Label, Labels, View};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Binary, BinaryFn, ComplexScan, Concat, Op};
use ssmc_ir::{Def, Dim, Graph, Loc, Model, NodeId, Shape, ValueId};
use std::collections::BTreeMap;

/// h' = a*h + b over complex numbers, with h from an input and h' in an output, becomes a complex scan over one step.
pub struct ComplexStep;

impl Pass for ComplexStep {
    fn name(&self) -> &'static str {
        "complex-step"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let mut updates: Vec<Update> = Vec::new();
        for update in graph.outputs().iter().filter_map(|port| find(graph, port.value)) {
            let is_apart = |other: &Update| other.nodes.iter().all(|id| !update.nodes.contains(id));
            if updates.iter().all(is_apart) {
                updates.push(update);
            }
        }
        // Readers of one part may stand before the node that computes the other one.
        let pairs: Vec<Vec<NodeId>> = updates.iter().map(|update| update.nodes.to_vec()).collect();
        let (order, stand) = order::together(graph, &pairs);
        let mut stand = stand.into_iter();
        updates.retain(|_| stand.next() == Some(true));
        if updates.is_empty() {
            return Ok(Changed::No);
        }
        let at: BTreeMap<NodeId, &Update> = updates.iter().map(|u| (u.nodes[1], u)).collect();
        let joins: BTreeMap<NodeId, &Update> = updates.iter().map(|u| (u.join, u)).collect();
        let mut last: BTreeMap<NodeId, ValueId> = BTreeMap::new();
        let mut rewriter = Rewriter::new(graph);
        for id in order {
            let node = graph.node(id);
            if let Some(update) = joins.get(&id) {
                rewriter.replace(node.results[0], last[&update.nodes[1]])?;
                continue;
            }
            rewriter.copy(node)?;
            let Some(update) = at.get(&id) else { continue };
            rewriter.builder().set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
            let [re, im, joined] = update.emit(&mut rewriter)?;
            rewriter.replace(update.parts[0].value, re)?;
            rewriter.replace(update.parts[1].value, im)?;
            last.insert(id, joined);
            let kind = RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 };
            ctx.remarks.push(Remark { pass: self.name(), place: graph.locs().describe(node.loc), kind });
        }
        model.graph = rewriter.finish()?;
        Ok(Changed::Yes)
    }
}

/// An update of a state of pairs. Labels are the axes of the state.
struct Update {
    state: ValueId,
    /// The axis with the parts.
    axis: usize,
    dims: Vec<Dim>,
    /// The state before and after the step.
    before: [View; 2],
    parts: [View; 2],
    /// Real and imaginary part of the decay.
    decay: [Term; 2],
    inputs: [Vec<Term>; 2],
    /// The nodes that compute the parts, in their order, and the one that joins them.
    nodes: [NodeId; 2],
    join: NodeId,
}

/// What a part of the next state is made of: the coefficients of both parts of the state, and the rest.
struct Mixed {
    coefs: [Term; 2],
    rest: Vec<Term>,
}

fn find(graph: &Graph, output: ValueId) -> Option<Update> {
    let Def::Result(join, _) = graph.def(output) else { return None };
    let node = graph.node(join);
    let Op::Concat(Concat { axis }) = node.op else { return None };
    let [Some(re), Some(im)] = node.operands[..] else { return None };
    let ty = graph.ty(output);
    let is_unit = |v: ValueId| graph.ty(v).shape[axis].is(1);
    if !ty.dtype.is_float() || !is_unit(re) || !is_unit(im) {
        return None;
    }
    let labels: Labels =
        ty.shape.iter().enumerate().map(|(i, d)| (i != axis && !d.is(1)).then_some(i as Label)).collect();
    let part = |value| View { value, labels: labels.clone() }.base(graph);
    let parts = [part(re), part(im)];
    let [first, second] = [node_of(graph, parts[0].value)?, node_of(graph, parts[1].value)?];
    if first == second {
        return None;
    }
    let nodes = [first.min(second), first.max(second)];
    let states = graph.inputs().iter().map(|port| port.value).filter(|v| graph.ty(*v) == ty);
    for state in states {
        let part_of = |view: &View| part_index(graph, view, (state, axis), &labels);
        let is_part = |view: &View| part_of(view).is_some();
        let mixed = |i: usize| mixed(terms(graph, parts[i].clone(), &is_part)?, &part_of);
        let (Some((re, before)), Some((im, _))) = (mixed(0), mixed(1)) else { continue };
        let [p, q] = re.coefs;
        let [q2, p2] = im.coefs;
        if p != p2 || q.factors != q2.factors || q.scale != -q2.scale {
            continue;
        }
        return Some(Update {
            state,
            axis,
            dims: ty.shape.to_vec(),
            before,
            parts: parts.clone(),
            decay: [p, q2],
            inputs: [re.rest, im.rest],
            nodes,
            join,
        });
    }
    None
}

fn node_of(graph: &Graph, value: ValueId) -> Option<NodeId> {
    match graph.def(value) {
        Def::Result(node, _) => Some(node),
        Def::Input(_) => None,
    }
}

/// Which part of the state a value is.
fn part_index(graph: &Graph, view: &View, (state, axis): (ValueId, usize), labels: &Labels) -> Option<usize> {
    let node = graph.def_node(view.value)?;
    let Op::Slice(s) = &node.op else { return None };
    let is_part = node.operands[0] == Some(state) && s.axis == axis && s.len.is(1) && view.labels == *labels;
    s.start.as_const().filter(|_| is_part).and_then(|i| usize::try_from(i).ok())
}

/// Terms sorted by the part of the state that they hold, with the parts.
fn mixed(terms: Vec<Term>, part_of: &dyn Fn(&View) -> Option<usize>) -> Option<(Mixed, [View; 2])> {
    let mut coefs = [None, None];
    let mut parts = [None, None];
    let mut rest = Vec::new();
    for mut term in terms {
        let Some((i, part)) = term.factors.iter().enumerate().find_map(|(i, v)| Some((i, part_of(v)?)))
        else {
            rest.push(term);
            continue;
        };
        let view = term.factors.remove(i);
        if term.factors.iter().any(|v| part_of(v).is_some()) || coefs[part].replace(term).is_some() {
            return None;
        }
        parts[part] = Some(view);
    }
    let ([Some(re), Some(im)], [Some(before_re), Some(before_im)]) = (coefs, parts) else { return None };
    Some((Mixed { coefs: [re, im], rest }, [before_re, before_im]))
}

impl Update {
    /// The label of the batch, if the decay does not differ along the first axis, and the labels of the state.
    fn axes(&self) -> (Option<Label>, Vec<Label>) {
        let is_axis = |l: &Label| *l as usize != self.axis && !self.dims[*l as usize].is(1);
        let mut all: Vec<Label> = (0..self.dims.len() as Label).filter(is_axis).collect();
        let mut factors = self.decay.iter().flat_map(|t| &t.factors);
        let is_batch = all.first() == Some(&0) && !factors.any(|f| f.labels.contains(&Some(0)));
        if is_batch { (Some(all.remove(0)), all) } else { (None, all) }
    }

    /// Both parts of the next state, each like the value that it replaces, and both joined.
    fn emit(&self, r: &mut Rewriter<'_>) -> Result<[ValueId; 3], EditError> {
        let (batch, state) = self.axes();
        let extent = |l: &Label| self.dims[*l as usize].clone();
        let rows = batch.as_ref().map_or(Dim::from(1), extent);
        let steps = |rows: Dim| -> Vec<Dim> {
            [rows, Dim::from(1)].into_iter().chain(state.iter().map(extent)).collect()
        };
        let whole: Vec<Label> = batch.iter().chain(&state).copied().collect();
        let mut operands = Vec::new();
        for term in &self.decay {
            let x = self.sum(r, std::slice::from_ref(term), &state)?;
            operands.push(Some(view::reshape(r.builder(), x, &steps(Dim::from(1)))?));
        }
        for terms in &self.inputs {
            let x = self.sum(r, terms, &whole)?;
            operands.push(Some(view::reshape(r.builder(), x, &steps(rows.clone()))?));
        }
        let order: Labels = whole.iter().copied().map(Some).collect();
        let single: Vec<Dim> = std::iter::once(rows).chain(state.iter().map(extent)).collect();
        for view in &self.before {
            let x = r.get(view.value)?;
            let dims: Vec<Dim> = whole.iter().map(extent).collect();
            let x = view::spread(r.builder(), x, &view.labels, &order, &dims)?;
            operands.push(Some(view::reshape(r.builder(), x, &single)?));
        }
        operands.push(None);
        let shapes =
            [r.old().ty(self.parts[0].value).shape.clone(), r.old().ty(self.parts[1].value).shape.clone()];
        let b = r.builder();
        let results = b.node(ComplexScan { reverse: false }, &operands, Vec::new())?;
        let flat: Vec<Dim> = whole.iter().map(extent).collect();
        let mut new = Vec::new();
        for ((x, part), shape) in results[..2].iter().zip(&self.parts).zip(&shapes) {
            let x = view::reshape(b, *x, &flat)?;
            new.push(view::spread(b, x, &order, &part.labels, shape)?);
        }
        let mut dims = self.dims.clone();
        dims[self.axis] = Dim::from(1);
        let target: Labels = (0..self.dims.len() as Label).map(|l| whole.contains(&l).then_some(l)).collect();
        let mut last = Vec::new();
        for x in &results[2..] {
            let x = view::reshape(b, *x, &flat)?;
            last.push(view::spread(b, x, &order, &target, &dims)?);
        }
        let joined = b.op(Concat { axis: self.axis }, &last)?;
        Ok([new[0], new[1], joined])
    }

    /// The sum of terms over axes with these labels.
    fn sum(&self, r: &mut Rewriter<'_>, terms: &[Term], labels: &[Label]) -> Result<ValueId, EditError> {
        let dtype = r.old().ty(self.state).dtype;
        let dims: Vec<Dim> = labels.iter().map(|l| self.dims[*l as usize].clone()).collect();
        let target: Labels = labels.iter().copied().map(Some).collect();
        let number = |r: &mut Rewriter<'_>, x: f64| -> Result<ValueId, EditError> {
            let scalar = r.builder().scalar(dtype, x)?;
            Ok(r.builder().broadcast(scalar, &[], Shape::from(&dims[..]))?)
        };
        let mut sum: Option<ValueId> = None;
        for term in terms {
            let mut product = None;
            if term.scale != 1.0 || term.factors.is_empty() {
                product = Some(number(r, term.scale)?);
            }
            for factor in &term.factors {
                let x = r.get(factor.value)?;
                let x = view::spread(r.builder(), x, &factor.labels, &target, &dims)?;
                product = Some(match product {
                    None => x,
                    Some(p) => r.builder().op(Binary { f: BinaryFn::Mul }, &[p, x])?,
                });
            }
            sum = match (sum, product) {
                (Some(s), Some(p)) => Some(r.builder().op(Binary { f: BinaryFn::Add }, &[s, p])?),
                (sum, product) => sum.or(product),
            };
        }
        match sum {
            Some(sum) => Ok(sum),
            None => number(r, 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{CANONICAL, RAISED};
    use crate::testing::{ops, optimized};

    /// One step whose real part is `p - q + b` and whose imaginary part is `s + t`.
    fn step(re: &str) -> String {
        format!(
            "func @f(%u: f32[batch, 4], %h: f32[batch, 4, 3, 2]) {{
               %ar = weight {{name=\"ar\", shape=[4, 3]}} : f32[4, 3]
               %ai = weight {{name=\"ai\", shape=[4, 3]}} : f32[4, 3]
               %hr0 = slice %h {{axis=3, len=1}} : f32[batch, 4, 3, 1]
               %hr = reshape %hr0 {{shape=[batch, 4, 3]}} : f32[batch, 4, 3]
               %hi0 = slice %h {{axis=3, len=1, start=1}} : f32[batch, 4, 3, 1]
               %hi = reshape %hi0 {{shape=[batch, 4, 3]}} : f32[batch, 4, 3]
               %br = broadcast %ar {{axes=[1, 2], shape=[batch, 4, 3]}} : f32[batch, 4, 3]
               %bi = broadcast %ai {{axes=[1, 2], shape=[batch, 4, 3]}} : f32[batch, 4, 3]
               %b = broadcast %u {{axes=[0, 1], shape=[batch, 4, 3]}} : f32[batch, 4, 3]
               %p = mul %br, %hr : f32[batch, 4, 3]
               %q = mul %bi, %hi : f32[batch, 4, 3]
               %s = mul %br, %hi : f32[batch, 4, 3]
               %t = mul %hr, %bi : f32[batch, 4, 3]
               %turned = {re} %p, %q : f32[batch, 4, 3]
               %re = add %turned, %b : f32[batch, 4, 3]
               %im = add %s, %t : f32[batch, 4, 3]
               %c = sub %re, %im : f32[batch, 4, 3]
               %y = reduce %c {{axes=[2]}} : f32[batch, 4]
               %re1 = reshape %re {{shape=[batch, 4, 3, 1]}} : f32[batch, 4, 3, 1]
               %im1 = reshape %im {{shape=[batch, 4, 3, 1]}} : f32[batch, 4, 3, 1]
               %next = concat %re1, %im1 {{axis=3}} : f32[batch, 4, 3, 2]
               return %y \"y\", %next \"h\"
             }}"
        )
    }

    #[test]
    fn a_step_is_a_scan_of_length_one() {
        let (model, report) = optimized(&step("sub"), &[CANONICAL, RAISED]);
        let found = ops(&model.graph);
        assert_eq!(found.iter().filter(|op| *op == "ssm.complex_scan").count(), 1, "{}", model.graph);
        assert!(report.remarks.iter().any(|r| r.pass == "complex-step"));
    }

    #[test]
    fn what_does_not_depend_on_the_state_is_computed_once() {
        let sum = "%v = add %u, %u2 : f32[batch, 4]\n%b = broadcast %v";
        let text =
            step("sub").replace("%b = broadcast %u", sum).replace("(%u: ", "(%u2: f32[batch, 4], %u: ");
        let (model, _) = optimized(&text, &[CANONICAL, RAISED]);
        let found = ops(&model.graph);
        assert_eq!(found.iter().filter(|op| *op == "ssm.complex_scan").count(), 1, "{}", model.graph);
        assert_eq!(found.iter().filter(|op| *op == "add").count(), 1, "{}", model.graph);
    }

    #[test]
    fn readers_of_one_part_may_come_before_the_other_part() {
        let im = "%im = add %s, %t : f32[batch, 4, 3]\n";
        let text = step("sub").replace(im, &format!("%early = tanh %re : f32[batch, 4, 3]\n{im}"));
        let text = text.replace("%c = sub %re, %im", "%c = sub %early, %im");
        let (model, _) = optimized(&text, &[CANONICAL, RAISED]);
        let found = ops(&model.graph);
        assert_eq!(found.iter().filter(|op| *op == "ssm.complex_scan").count(), 1, "{}", model.graph);
    }

    #[test]
    fn what_is_no_rotation_stays() {
        let (model, _) = optimized(&step("add"), &[CANONICAL, RAISED]);
        assert!(!ops(&model.graph).iter().any(|op| op == "ssm.complex_scan"), "{}", model.graph);
    }
}
