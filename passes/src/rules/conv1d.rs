//! Short causal convolutions: the general convolution with all its padding on the left, its bias and its activation.

use super::algebra::{binary, splat, unary};
use super::{Direction, Equation, Exactness, Rule, fused};
use crate::egraph::{Chain, Expr, Factor, Graph, Term, views};
use egg::Id;
use ssmc_ir::Dim;
use ssmc_ir::ops::{Activation, Binary, BinaryFn, CausalConv1d, Conv, Op, Unary, UnaryFn};

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
        let operands =
            vec![x.transpose(&[0, 2, 1])?, w.reshape(&dims)?, bias, Expr::absent(), Expr::absent()];
        Expr::op(op, operands)?.proj(0)?.transpose(&[0, 2, 1])
    }
}

fn conv_causal(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    let mut push = |term: &Term, right: Option<Expr>| {
        let right = right.filter(|r| r.types() == egraph[id].data.types);
        found.extend(right.map(|right| Equation::between(Expr::term(egraph, term), right)));
    };
    for term in &egraph[id].nodes {
        if let Some(conv) = depthwise(egraph, term) {
            let tail = conv.width - 1;
            if conv.pads == [tail, 0] {
                push(term, conv.causal(egraph, Expr::class(egraph, conv.x)));
            }
            if conv.pads == [0, 0] {
                for x in padded_by(egraph, conv.x, tail) {
                    push(term, conv.causal(egraph, Expr::class(egraph, x)));
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
                    push(term, conv.causal(egraph, Expr::class(egraph, conv.x)));
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

/// The causal convolutions without activation whose output the class is: their operands.
fn plain(egraph: &Graph, id: Id) -> Vec<Vec<Expr>> {
    let mut found = Vec::new();
    for tuple in fused::tuples(egraph, id) {
        for term in &egraph[tuple].nodes {
            if matches!(term.op(), Some(Op::CausalConv1d(c)) if c.activation == Activation::None) {
                found.push(term.children.iter().map(|c| Expr::class(egraph, *c)).collect());
            }
        }
    }
    found
}

/// One convolution followed by something else (`left` of its y) is another; their final states are equal.
fn equations(
    from: Option<Expr>,
    to: Option<Expr>,
    chain: &Chain,
    left: impl Fn(Expr) -> Option<Expr>,
) -> Option<[Equation; 2]> {
    let (from, to) = (from?, to?);
    let state = Equation::between(from.clone().proj(1)?, to.clone().proj(1)?);
    let left = left(chain.apply(from.proj(0)?)?)?;
    Some([Equation::between(left, chain.apply(to.proj(0)?)?), state])
}

fn conv1d_bias(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    let pairs = binary(egraph, id, BinaryFn::Add).flat_map(|[p, q]| [(p, q, false), (q, p, true)]);
    for (y, addend, is_swapped) in pairs {
        for (y, chain) in views(egraph, y) {
            for operands in plain(egraph, y) {
                if !operands[2].types().is_empty() {
                    continue;
                }
                for base in Factor::numbered(egraph, addend).bases(egraph) {
                    let labels = base.label_set();
                    let [axis] = labels.iter().copied().collect::<Vec<_>>()[..] else { continue };
                    let op = CausalConv1d { activation: Activation::None };
                    let from = Expr::op(op.clone(), operands.clone());
                    let to = (|| {
                        let bias = Expr::class(egraph, base.id).place(&base.labels, &[Some(axis)])?;
                        let (axes, bias) = chain.inverse().push(vec![axis as usize], bias)?;
                        let mut operands = operands.clone();
                        operands[2] = if axes == [2] { bias } else { return None };
                        Expr::op(op, operands)
                    })();
                    let sum = |y| {
                        let addend = Expr::class(egraph, addend);
                        let operands = if is_swapped { vec![addend, y] } else { vec![y, addend] };
                        Expr::op(Binary { f: BinaryFn::Add }, operands)
                    };
                    found.extend(equations(from, to, &chain, sum).into_iter().flatten());
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
            for operands in plain(egraph, y) {
                let conv = |activation| Expr::op(CausalConv1d { activation }, operands.clone());
                let (from, to) = (conv(Activation::None), conv(Activation::Silu));
                let silu = |y| Expr::op(Unary { f: UnaryFn::Silu }, vec![y]);
                found.extend(equations(from, to, &chain, silu).into_iter().flatten());
            }
        }
    }
    found
}
