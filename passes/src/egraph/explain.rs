//! Why a fused graph equals the one that came in, as egg proves it, and the replay of every step.

use super::lang::{Graph, Head, Term};
use super::run::{self, Saturated};
use super::segment::{self, Part, Template};
use super::{RewriteError, RewriteOptions};
use crate::rules::{self, Exactness};
use egg::{FlatTerm, RecExpr};
use ssmc_ir::ops::Op;
use ssmc_ir::{
    BuildError, DType, Dim, GraphBuilder, InterpError, Interpreter, Tensor, TensorError, TensorType, ValueId,
    Weights,
};
use std::collections::{BTreeMap, BTreeSet};

/// One rewrite of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub rule: &'static str,
    /// Whether the rule is used from right to left.
    pub is_backward: bool,
    /// The part of the term that it changed, as it is after the step; deep parts are left out.
    pub term: String,
}

/// A chain of rewrites from a value of the old graph to its fused form.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Where the value comes from.
    pub place: String,
    /// The fused ops that the final term contains and the first one does not.
    pub fused: Vec<&'static str>,
    /// The rewrites, in order.
    pub steps: Vec<Step>,
    terms: Vec<FlatTerm<Term>>,
    leaves: Vec<TensorType>,
}

/// A step does not hold, or cannot be run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum ReplayError {
    #[error("step {step} ({rule}): expected {expected}, found {found} at element {element}")]
    Differs { step: usize, rule: &'static str, element: usize, expected: f64, found: f64 },
    #[error("step {step}: a term has no value")]
    Malformed { step: usize },
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Run(#[from] InterpError),
    #[error("random input: {0}")]
    Input(#[from] TensorError),
    #[error("type {0} has no extent for the small sizes of a replay")]
    Extent(TensorType),
}

/// Explains every fused value of the distinct segments of a graph.
///
/// # Errors
/// See [`super::rewrite`].
pub fn explain(graph: &ssmc_ir::Graph, options: &RewriteOptions) -> Result<Vec<Explanation>, RewriteError> {
    let rules = options.rules();
    let mut seen: BTreeSet<Template> = BTreeSet::new();
    let mut found = Vec::new();
    for part in segment::cut(graph) {
        let Part::Segment(segment) = part else { continue };
        if !seen.insert(segment.template.clone()) {
            continue;
        }
        let place = |node: usize| graph.locs().describe(graph.node(segment.nodes[node]).loc);
        let mut saturated = run::saturate(&segment.template, &rules, options, true)
            .ok_or_else(|| RewriteError::Extract { place: place(0) })?;
        for (node, at) in fused_values(&segment.template, &saturated) {
            let proof = prove(&mut saturated, node, at, &segment.template.leaves);
            found.extend(proof.map(|e| Explanation { place: place(node), ..e }));
        }
    }
    Ok(found)
}

/// The nodes of the template whose value is, up to layout, a result of a fused op of the extracted graph: the last
/// such node for each op; with the position of the value.
fn fused_values(template: &Template, saturated: &Saturated) -> Vec<(usize, usize)> {
    let terms = &saturated.extracted.terms;
    let mut by_owner: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (at, (_, _, class)) in terms.iter().enumerate() {
        let mut owner = at;
        while let (Head::Proj(0) | Head::Op(Op::Reshape(_) | Op::Transpose(_)), [child]) =
            (&terms[owner].0, &terms[owner].1[..])
        {
            owner = *child;
        }
        if !matches!(&terms[owner].0, Head::Op(op) if op.fused()) {
            continue;
        }
        let nodes = saturated.classes.iter().enumerate().rev();
        let last = nodes.into_iter().find(|(_, id)| saturated.egraph.find(**id) == *class);
        if let Some((node, _)) = last.filter(|(node, _)| template.nodes[*node].0.results().len() == 1) {
            by_owner.insert(owner, (node, at));
        }
    }
    by_owner.into_values().collect()
}

/// The extracted term at this position.
fn term_at(saturated: &Saturated, at: usize) -> RecExpr<Term> {
    let mut expr = RecExpr::default();
    for (head, children, _) in &saturated.extracted.terms[..=at] {
        let children = children.iter().map(|c| egg::Id::from(*c)).collect();
        expr.add(Term { head: head.clone(), children });
    }
    expr
}

fn prove(saturated: &mut Saturated, node: usize, at: usize, leaves: &[TensorType]) -> Option<Explanation> {
    let left = saturated.egraph.id_to_expr(saturated.classes[node]);
    let right = term_at(saturated, at);
    let terms = flat(&mut saturated.egraph, &left, &right);
    let ops = |expr: &FlatTerm<Term>| {
        let mut ops = BTreeSet::new();
        collect_fused(expr, &mut ops);
        ops
    };
    let fused = ops(terms.last()?).difference(&ops(terms.first()?)).copied().collect();
    let steps = terms.iter().skip(1).filter_map(step).collect();
    Some(Explanation { place: String::new(), fused, steps, terms, leaves: leaves.to_vec() })
}

fn flat(egraph: &mut Graph, left: &RecExpr<Term>, right: &RecExpr<Term>) -> Vec<FlatTerm<Term>> {
    egraph.explain_equivalence(left, right).make_flat_explanation().clone()
}

fn collect_fused(term: &FlatTerm<Term>, out: &mut BTreeSet<&'static str>) {
    if let Head::Op(op) = &term.node.head
        && op.fused()
    {
        out.insert(op.name());
    }
    term.children.iter().for_each(|c| collect_fused(c, out));
}

/// The rewrite that led to this term.
fn step(term: &FlatTerm<Term>) -> Option<Step> {
    let found = term.forward_rule.map(|r| (r, false)).or(term.backward_rule.map(|r| (r, true)));
    match found {
        Some((rule, is_backward)) => {
            let rule = rules::named(rule.as_str())?.name;
            Some(Step { rule, is_backward, term: shown(term, 3) })
        }
        None => term.children.iter().find_map(step),
    }
}

fn shown(term: &FlatTerm<Term>, depth: usize) -> String {
    if term.children.is_empty() {
        return term.node.to_string();
    }
    if depth == 0 {
        return format!("({} ..)", term.node);
    }
    let children: Vec<_> = term.children.iter().map(|c| shown(c, depth - 1)).collect();
    format!("({} {})", term.node, children.join(" "))
}

/// The extent of every symbol in a replay.
const EXTENT: i64 = 3;

/// Runs every step of an explanation on random tensors and compares both sides; gives the number of steps compared.
///
/// # Errors
/// The sides of a step differ by more than its exactness class allows, or a term cannot be run.
pub fn check(explanation: &Explanation, seed: u64) -> Result<usize, ReplayError> {
    let Explanation { terms, leaves, .. } = explanation;
    let outputs = run_terms(terms, leaves, seed)?;
    for i in 1..terms.len() {
        let rule = step(&terms[i]).map_or("congruence", |s| s.rule);
        let exactness = rules::named(rule).map_or(Exactness::Bitwise, |r| r.exactness);
        if let Some((element, expected, found)) = first_difference(&outputs[i - 1], &outputs[i], exactness) {
            return Err(ReplayError::Differs { step: i, rule, element, expected, found });
        }
    }
    Ok(terms.len().saturating_sub(1))
}

/// The values of terms for random leaves.
fn run_terms(terms: &[FlatTerm<Term>], leaves: &[TensorType], seed: u64) -> Result<Vec<Tensor>, ReplayError> {
    let mut graph = GraphBuilder::new("replay");
    let mut inputs = BTreeMap::new();
    let mut values = Vec::new();
    let small = |d: &Dim| {
        let mut symbols = BTreeSet::new();
        d.collect_symbols(&mut symbols);
        d.substitute(&symbols.into_iter().map(|s| (s, Dim::from(EXTENT))).collect())
    };
    for (i, ty) in leaves.iter().enumerate() {
        let ty = TensorType::new(ty.dtype, ty.shape.iter().map(small).collect::<ssmc_ir::Shape>());
        let name = format!("leaf{i}");
        inputs.insert(name.clone(), random(&ty, seed.wrapping_add(i as u64))?);
        values.push(graph.input(name, ty));
    }
    let mut replay = Replay { graph, leaves: values, memo: BTreeMap::new(), small: &small };
    let name = |i: usize| format!("step{i}");
    for (i, term) in terms.iter().enumerate() {
        let value = replay.add(term)?.first().copied().ok_or(ReplayError::Malformed { step: i })?;
        replay.graph.output(name(i), value);
    }
    let graph = replay.graph.finish();
    let mut outputs = Interpreter::new(&graph, &Weights::new()).run(&inputs)?;
    let output = |i| outputs.remove(&name(i)).ok_or(ReplayError::Malformed { step: i });
    (0..terms.len()).map(output).collect()
}

/// Runs both sides of every equation that a rule finds in a graph; gives the number of equations.
#[cfg(test)]
pub(crate) fn check_equations(graph: &ssmc_ir::Graph, rule: &str, seed: u64) -> Result<usize, ReplayError> {
    let rule = rules::named(rule).expect("the rule exists");
    let mut n = 0;
    for part in segment::cut(graph) {
        let Part::Segment(segment) = part else { continue };
        let mut egraph = Graph::new(super::Typing::default());
        run::insert(&mut egraph, &segment.template);
        egraph.rebuild();
        let mut ids: Vec<egg::Id> = egraph.classes().map(|c| c.id).collect();
        ids.sort_unstable();
        for id in ids {
            for equation in run::equations(rule, &egraph, id) {
                let mut sides = vec![equation.left, equation.right];
                sides.extend(equation.read_from.into_iter().flat_map(|(top, seen)| [top, seen]));
                let terms: Vec<_> = sides.iter().map(|side| flat_term(&mut egraph.clone(), side)).collect();
                let values = run_terms(&terms, &segment.template.leaves, seed)?;
                for value in &values[1..] {
                    if let Some((element, expected, found)) =
                        first_difference(&values[0], value, rule.exactness)
                    {
                        return Err(ReplayError::Differs {
                            step: n,
                            rule: rule.name,
                            element,
                            expected,
                            found,
                        });
                    }
                }
                n += 1;
            }
        }
    }
    Ok(n)
}

#[cfg(test)]
fn flat_term(egraph: &mut Graph, side: &super::Expr) -> FlatTerm<Term> {
    fn build(expr: &RecExpr<Term>, id: egg::Id) -> FlatTerm<Term> {
        let node = expr[id].clone();
        let children = node.children.iter().map(|c| build(expr, *c)).collect();
        FlatTerm { node, backward_rule: None, forward_rule: None, children }
    }
    let id = side.add(egraph);
    let expr = egraph.id_to_expr(id);
    build(&expr, egg::Id::from(expr.len() - 1))
}

/// The first element in which two tensors differ more than the exactness class allows. Both were computed in f64.
pub(crate) fn first_difference(
    old: &Tensor,
    new: &Tensor,
    exactness: Exactness,
) -> Option<(usize, f64, f64)> {
    let (old, new) = (old.to_f64(), new.to_f64());
    let peak = old.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    let allowed = match exactness {
        Exactness::Bitwise => 0.0,
        Exactness::Reassociates => 1e-10 * (1.0 + peak),
        Exactness::Approximates => 1e-5 * (1.0 + peak),
    };
    let differs = |x: f64, y: f64| !(x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= allowed);
    (old.iter().zip(&new).enumerate()).find(|(_, (x, y))| differs(**x, **y)).map(|(i, (x, y))| (i, *x, *y))
}

/// Numbers in -1..1 for floats, an ascending row of 0 and 1 along the last axis for integers.
pub(crate) fn random(ty: &TensorType, seed: u64) -> Result<Tensor, ReplayError> {
    let dims = ty.shape.as_const().ok_or_else(|| ReplayError::Extent(ty.clone()))?;
    let shape: Vec<usize> = dims
        .iter()
        .map(|d| usize::try_from(*d).map_err(|_| ReplayError::Extent(ty.clone())))
        .collect::<Result<_, _>>()?;
    let n: usize = shape.iter().product();
    let last = shape.last().copied().unwrap_or(1).max(1);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    Ok(match ty.dtype {
        DType::Bool => Tensor::bools(shape, (0..n).map(|_| next() > 0.0).collect())?,
        dtype if dtype.is_int() => {
            Tensor::ints(dtype, shape, (0..n).map(|i| i64::from(i % last > last / 2)).collect())?
        }
        dtype if dtype.is_complex() => return Err(ReplayError::Extent(ty.clone())),
        dtype => Tensor::floats(dtype, shape, (0..n).map(|_| next()).collect())?.rounded(),
    })
}

/// Builds the terms of all steps into one graph, each distinct part once.
struct Replay<'a> {
    graph: GraphBuilder,
    leaves: Vec<ValueId>,
    memo: BTreeMap<(Head, Vec<Vec<ValueId>>), Vec<ValueId>>,
    small: &'a dyn Fn(&Dim) -> Dim,
}

impl Replay<'_> {
    fn add(&mut self, term: &FlatTerm<Term>) -> Result<Vec<ValueId>, ReplayError> {
        let children: Vec<Vec<ValueId>> =
            term.children.iter().map(|c| self.add(c)).collect::<Result<_, _>>()?;
        let key = (term.node.head.clone(), children);
        if let Some(known) = self.memo.get(&key) {
            return Ok(known.clone());
        }
        let (head, children) = &key;
        let results = match head {
            Head::Absent => Vec::new(),
            Head::Leaf(i) => self.leaves.get(*i).copied().into_iter().collect(),
            Head::Proj(i) => children[0].get(*i).copied().into_iter().collect(),
            Head::Op(op) => {
                let mut op = op.clone();
                op.attrs(&mut |_: &'static str, attr: ssmc_ir::ops::AttrMut<'_>| match attr {
                    ssmc_ir::ops::AttrMut::Dim(d) => *d = (self.small)(d),
                    ssmc_ir::ops::AttrMut::Shape(s) => *s = s.iter().map(self.small).collect(),
                    _ => {}
                });
                let operands: Vec<_> = children.iter().map(|c| c.first().copied()).collect();
                self.graph.node(op, &operands, Vec::new())?
            }
        };
        self.memo.insert(key, results.clone());
        Ok(results)
    }
}
