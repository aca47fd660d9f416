//! Short causal convolutions with their history: what a convolution without padding reads is a tail of earlier steps
//! followed by the sequence, and the tail of both is the next history.

use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view;
use ssmc_ir::edit::Rewriter;
use ssmc_ir::ops::{Activation, CausalConv1d, Concat, Conv, Op, Slice};
use ssmc_ir::{Dim, Graph, Loc, Model, Node, NodeId, ValueId};
use std::collections::BTreeMap;

/// Replaces depthwise convolutions over `concat(history, x)` by `ssm.causal_conv1d`, whose second result is the next
/// history.
pub struct CausalConvs;

/// One convolution.
struct Plan {
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    /// `None`: zeros.
    history: Option<ValueId>,
    /// Values behind the convolution that are the next history.
    next: Vec<NodeId>,
}

impl Pass for CausalConvs {
    fn name(&self) -> &'static str {
        "causal-conv"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let plans = find(graph);
        if plans.is_empty() {
            return Ok(Changed::No);
        }
        let mut rewriter = Rewriter::new(graph);
        let mut histories: BTreeMap<NodeId, ValueId> = BTreeMap::new();
        for (id, node) in graph.nodes() {
            if let Some(next) = histories.get(&id) {
                rewriter.builder().set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
                let channels_first = rewriter.builder().transpose(*next, &[0, 2, 1])?;
                rewriter.replace(node.results[0], channels_first)?;
                continue;
            }
            let Some(plan) = plans.get(&id) else {
                rewriter.copy(node)?;
                continue;
            };
            rewriter.builder().set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
            let (y, next) = plan.emit(&mut rewriter)?;
            rewriter.replace(node.results[0], y)?;
            histories.extend(plan.next.iter().map(|slice| (*slice, next)));
            let kind = RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 };
            ctx.remarks.push(Remark { pass: self.name(), place: graph.locs().describe(node.loc), kind });
        }
        model.graph = rewriter.finish()?;
        Ok(Changed::Yes)
    }
}

impl Plan {
    /// The convolution, channels first, and the next history, time first.
    fn emit(&self, rewriter: &mut Rewriter<'_>) -> Result<(ValueId, ValueId), PassError> {
        let [x, weight] = [rewriter.get(self.x)?, rewriter.get(self.weight)?];
        let bias = self.bias.map(|bias| rewriter.get(bias)).transpose()?;
        let history = self.history.map(|history| rewriter.get(history)).transpose()?;
        let b = rewriter.builder();
        let x = b.transpose(x, &[0, 2, 1])?;
        let taps = [b.shape(weight)[0].clone(), b.shape(weight)[2].clone()];
        let weight = b.reshape(weight, taps)?;
        let history = history.map(|history| b.transpose(history, &[0, 2, 1])).transpose()?;
        let op = CausalConv1d { activation: Activation::None };
        let results = b.node(op, &[Some(x), Some(weight), bias, history, None], Vec::new())?;
        Ok((b.transpose(results[0], &[0, 2, 1])?, results[1]))
    }
}

/// The convolutions of a graph by node.
fn find(graph: &Graph) -> BTreeMap<NodeId, Plan> {
    let mut slices: BTreeMap<ValueId, Vec<(NodeId, &Slice)>> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        if let (Op::Slice(slice), Some(x)) = (&node.op, node.operands.first().copied().flatten())
            && slice.axis == 2
            && slice.stride == 1
        {
            slices.entry(x).or_default().push((id, slice));
        }
    }
    let mut plans: BTreeMap<NodeId, Plan> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let Some((mut plan, whole, tail)) = plan(graph, node) else { continue };
        for source in [whole, plan.x] {
            let start = graph.ty(source).shape[2].clone() - &tail;
            let ends = slices.get(&source).into_iter().flatten();
            let ends = ends.filter(|(at, s)| *at > id && s.len == tail && s.start == start);
            plan.next
                .extend(ends.map(|(at, _)| *at).filter(|at| !plans.values().any(|p| p.next.contains(at))));
        }
        plans.insert(id, plan);
    }
    plans
}

/// The node as a causal convolution, with what it reads and the length of its history.
fn plan(graph: &Graph, node: &Node) -> Option<(Plan, ValueId, Dim)> {
    let Op::Conv(Conv { dilations, groups, pads, strides }) = &node.op else { return None };
    let (whole, weight) = (node.operands[0]?, node.operands[1]?);
    let (shape, taps) = (&graph.ty(whole).shape, &graph.ty(weight).shape);
    let ([_, channels, _], [n_kernels, _, width]) = (&shape[..], &taps[..]) else { return None };
    let is_depthwise = *channels == Dim::from(*groups) && n_kernels == channels;
    let is_plain = dilations[..] == [1] && strides[..] == [1] && pads[..] == [0, 0];
    if !is_depthwise || !is_plain || !graph.ty(whole).dtype.is_float() {
        return None;
    }
    let tail = Dim::from(width.as_const()? - 1);
    let joined = graph.def_node(whole)?;
    let (Op::Concat(Concat { axis: 2 }), [Some(history), Some(x)]) = (&joined.op, &joined.operands[..])
    else {
        return None;
    };
    if graph.ty(*history).shape[2] != tail {
        return None;
    }
    let is_zero = tail.is(0) || view::splat(graph, *history) == Some(0.0);
    let plan = Plan {
        x: *x,
        weight,
        bias: node.operands.get(2).copied().flatten(),
        history: (!is_zero).then_some(*history),
        next: Vec::new(),
    };
    Some((plan, whole, tail))
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{CANONICAL, RAISED};
    use crate::testing::{ops, optimized};

    fn graph(history: &str, width: usize, from: usize) -> String {
        let (tail, sum) = (width - 1, 5 + width - 1);
        format!(
            "func @f(%x: f32[batch, 3, 5], %w: f32[3, 1, {width}], %b: f32[3], %s: f32[batch, 3, {tail}]) {{
               %0 = constant {{data=[0.0], shape=[]}} : f32[]
               %z = broadcast %0 {{shape=[batch, 3, {tail}]}} : f32[batch, 3, {tail}]
               %j = concat {history}, %x {{axis=2}} : f32[batch, 3, {sum}]
               %y = conv %j, %w, %b {{groups=3}} : f32[batch, 3, 5]
               %n = slice %j {{axis=2, len={tail}, start={from}}} : f32[batch, 3, {tail}]
               return %y \"y\", %n \"s\"
             }}"
        )
    }

    #[test]
    fn a_convolution_takes_its_history_along() {
        for (history, width) in [("%s", 4), ("%z", 4), ("%s", 8), ("%z", 1)] {
            let (model, _) = optimized(&graph(history, width, 5), &[CANONICAL, RAISED]);
            let ops = ops(&model.graph);
            assert!(ops.iter().any(|op| op == "ssm.causal_conv1d"), "{}", model.graph);
            assert!(
                !ops.iter().any(|op| matches!(op.as_str(), "concat" | "conv" | "slice")),
                "{}",
                model.graph
            );
        }
    }

    #[test]
    fn columns_that_are_not_the_last_stay() {
        let (model, _) = optimized(&graph("%s", 4, 4), &[CANONICAL, RAISED]);
        let ops = ops(&model.graph);
        assert!(ops.iter().any(|op| op == "ssm.causal_conv1d"), "{}", model.graph);
        assert!(ops.iter().any(|op| op == "slice"), "{}", model.graph);
    }

    #[test]
    fn a_history_of_another_length_is_none() {
        let text = "func @f(%x: f32[2, 3, 5], %w: f32[3, 1, 3], %s: f32[2, 3, 1]) {
                      %j = concat %s, %x {axis=2} : f32[2, 3, 6]
                      %y = conv %j, %w {groups=3} : f32[2, 3, 4]
                      return %y \"y\"
                    }";
        let (model, _) = optimized(text, &[CANONICAL, RAISED]);
        assert!(!ops(&model.graph).iter().any(|op| op == "ssm.causal_conv1d"), "{}", model.graph);
    }
}
