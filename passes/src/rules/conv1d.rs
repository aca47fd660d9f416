//! Short causal convolutions: the general convolution with all its padding on the left, its bias and its activation.

use super::algebra::{binary, both_orders, splat, unary};
use super::{Direction, Equation, Exactness, Rule, fused};
use crate::egraph::{Expr, Factor, Graph, Term, views};
use egg::Id;
use ssmc_ir::Dim;
use ssmc_ir::ops::{Activation, BinaryFn, CausalConv1d, Conv, Op, UnaryFn};

pub(super) static RULES: &[Rule] = &[
    Rule {
        name: "conv-causal",
        family: "conv1d",
        equation: "conv{pads = [k-1, 0], groups = C}(x, w, bias) = causal_conv1d(x, w, bias) in [B,L,C] layout; so too \
                   for pads [k-1, k-1] cut to the first L columns, and for zeros padded before an unpadded conv",
        reason: "depthwise with unit strides and dilations; output t sees inputs t-k+1 to t",
        source: "zoo: short causal convolution",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: conv_causal,
    },
    Rule {
        name: "conv1d-bias",
        family: "conv1d",
        equation: "causal_conv1d(x, w) + bias[c] = causal_conv1d(x, w, bias); the final states are equal",
        reason: "definition of the operand bias",
        source: "zoo: short causal convolution",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: conv1d_bias,
    },
    Rule {
        name: "conv1d-silu",
        family: "conv1d",
        equation: "silu(causal_conv1d(..)) = causal_conv1d{activation = silu}(..); the final states are equal",
        reason: "definition of the activation",
        source: "zoo: short causal convolution",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: conv1d_silu,
    },
];

/// A depthwise convolution along one axis with unit strides and dilations: its pads, input, weight, bias and width.
struct Depthwise {
    pads: [usize; 2],
    x: Id,
    w: Id,
    bias: Id,
    width: usize,
}

fn depthwise(egraph: &Graph, term: &Term) -> Option<Depthwise> {
    let Some(Op::Conv(Conv { dilations, groups, pads, strides })) = term.op() else { return None };
    let [x, w, bias] = term.children[..] else { return None };
    let (x_shape, w_shape) = (&egraph[x].data.types[0].shape, &egraph[w].data.types[0].shape);
    let width = usize::try_from(w_shape.get(2)?.as_const()?).ok()?;
    let is_depthwise = x_shape.rank() == 3 && x_shape[1] == Dim::from(*groups) && w_shape[0] == x_shape[1];
    let is_plain = dilations[..] == [1] && strides[..] == [1];
    let &[low, high] = &pads[..] else { return None };
    (is_depthwise && is_plain).then_some(Depthwise { pads: [low, high], x, w, bias, width })
}

impl Depthwise {
    /// The causal convolution of a channel-major tensor, in its layout.
    fn causal(&self, egraph: &Graph, x: Expr) -> Option<Expr> {
        let w = Expr::class(egraph, self.w);
        let dims = [w.shape().first()?.clone(), w.shape().get(2)?.clone()];
        let op = CausalConv1d { activation: Activation::None };
        let bias = Expr::class(egraph, self.bias);
        let operands = vec![x.transpose(&[0, 2, 1])?, w.reshape(&dims)?, bias, Expr::absent(), Expr::absent()];
        Expr::op(op, operands)?.proj(0)?.transpose(&[0, 2, 1])
    }
}

fn conv_causal(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    let mut push = |right: Option<Expr>| {
        let right = right.filter(|r| r.types() == egraph[id].data.types);
        found.extend(right.map(|right| Equation::of(egraph, id, right)));
    };
    for term in &egraph[id].nodes {
        if let Some(conv) = depthwise(egraph, term) {
            let tail = conv.width - 1;
            if conv.pads == [tail, 0] {
                push(conv.causal(egraph, Expr::class(egraph, conv.x)));
            }
            if conv.pads == [0, 0] {
                for x in padded_by(egraph, conv.x, tail) {
                    push(conv.causal(egraph, Expr::class(egraph, x)));
                }
            }
        }
        if let Some(Op::Slice(slice)) = term.op()
            && slice.axis == 2
            && slice.start.is(0)
            && slice.stride == 1
        {
            for inner in &egraph[term.children[0]].nodes {
                let Some(conv) = depthwise(egraph, inner) else { continue };
                let has_len = egraph[conv.x].data.types[0].shape[2] == slice.len;
                if conv.pads[0] == conv.width - 1 && has_len {
                    push(conv.causal(egraph, Expr::class(egraph, conv.x)));
                }
            }
        }
    }
    found
}

/// The tensors from which the class is made by `low` zeros before axis 2.
fn padded_by(egraph: &Graph, id: Id, low: usize) -> Vec<Id> {
    let pads = egraph[id].nodes.iter().filter(|t| match t.op() {
        Some(Op::Pad(p)) => p.axis == 2 && p.high.is(0) && p.low == Dim::from(low),
        _ => false,
    });
    pads.filter(|t| splat(egraph, t.children[1]) == Some(0.0)).map(|t| egraph.find(t.children[0])).collect()
}

/// The causal convolutions without activation whose output the class is: tuple and operands.
fn plain(egraph: &Graph, id: Id) -> Vec<(Id, Vec<Expr>)> {
    let mut found = Vec::new();
    for tuple in fused::tuples(egraph, id) {
        for term in &egraph[tuple].nodes {
            if matches!(term.op(), Some(Op::CausalConv1d(c)) if c.activation == Activation::None) {
                found.push((tuple, term.children.iter().map(|c| Expr::class(egraph, *c)).collect()));
            }
        }
    }
    found
}

/// The class is the first result of `right` seen through `view`; the other result is that of `tuple`.
fn equations(
    egraph: &Graph,
    id: Id,
    tuple: Id,
    right: Option<Expr>,
    view: impl Fn(Expr) -> Option<Expr>,
) -> Option<[Equation; 2]> {
    let right = right?;
    let state = Equation { left: Expr::class(egraph, tuple).proj(1)?, right: right.clone().proj(1)? };
    Some([Equation::of(egraph, id, view(right.proj(0)?)?), state])
}

fn conv1d_bias(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for [y, bias] in binary(egraph, id, BinaryFn::Add).flat_map(both_orders) {
        for (y, chain) in views(egraph, y) {
            for (tuple, mut operands) in plain(egraph, y) {
                if !operands[2].types().is_empty() {
                    continue;
                }
                for base in Factor::numbered(egraph, bias).bases(egraph) {
                    let labels = base.label_set();
                    let [axis] = labels.iter().copied().collect::<Vec<_>>()[..] else { continue };
                    let right = (|| {
                        let bias = Expr::class(egraph, base.id).place(&base.labels, &[Some(axis)])?;
                        let (axes, bias) = chain.inverse().push(vec![axis as usize], bias)?;
                        operands[2] = if axes == [2] { bias } else { return None };
                        Expr::op(CausalConv1d { activation: Activation::None }, operands.clone())
                    })();
                    found.extend(equations(egraph, id, tuple, right, |y| chain.apply(y)).into_iter().flatten());
                }
            }
        }
    }
    found
}

fn conv1d_silu(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for y in unary(egraph, id, UnaryFn::Silu) {
        for (y, chain) in views(egraph, y) {
            for (tuple, operands) in plain(egraph, y) {
                let right = Expr::op(CausalConv1d { activation: Activation::Silu }, operands);
                found.extend(equations(egraph, id, tuple, right, |y| chain.apply(y)).into_iter().flatten());
            }
        }
    }
    found
}
