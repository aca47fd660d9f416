//! Saturation of one segment.

use super::RewriteOptions;
use super::cost::CostModel;
use super::extract::{Extracted, extract};
use super::lang::{Graph, Head, Term, Typing};
use super::segment::{Source, Template};
use crate::bisect::{Counter, Step};
use crate::rules::{Equation, READING, Rule};
use egg::{Applier, Id, PatternAst, Rewrite, Runner, SearchMatches, Searcher, SimpleScheduler, Subst, Var};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why saturation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// No rule finds anything new.
    Saturated,
    /// The limit of iterations was reached.
    Iterations(usize),
    /// The limit of e-nodes was reached.
    Nodes(usize),
}

/// A saturated segment.
pub(crate) struct Saturated {
    pub(crate) egraph: Graph,
    pub(crate) extracted: Extracted,
    /// The class of every node of the template: of its value, or of the tuple of its results.
    pub(crate) classes: Vec<Id>,
    pub(crate) fired: BTreeMap<&'static str, usize>,
    pub(crate) stop: Stop,
}

/// The places in one class where the rule holds. Absent operands are no tensors, so no rule is about them.
pub(super) fn equations(rule: &Rule, egraph: &Graph, id: Id) -> Vec<Equation> {
    if egraph[id].data.types.is_empty() { Vec::new() } else { (rule.find)(egraph, id) }
}

impl Searcher<Term, Typing> for &'static Rule {
    fn search_eclass_with_limit(
        &self,
        egraph: &Graph,
        eclass: Id,
        _: usize,
    ) -> Option<SearchMatches<'_, Term>> {
        // A match of a rule holds labels and extents, for which a substitution has no place: the applier finds it again.
        let is_new = equations(self, egraph, eclass).iter().any(|e| {
            let left = e.left.lookup(egraph);
            left.is_none() || left != e.right.lookup(egraph)
        });
        is_new.then(|| SearchMatches { eclass, substs: vec![Subst::default()], ast: None })
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

/// A rule and the counter of its unions.
struct Counted {
    rule: &'static Rule,
    counter: Counter,
}

impl Applier<Term, Typing> for Counted {
    fn apply_one(
        &self,
        egraph: &mut Graph,
        eclass: Id,
        _: &Subst,
        _: Option<&PatternAst<Term>>,
        rule_name: egg::Symbol,
    ) -> Vec<Id> {
        let mut changed = Vec::new();
        for equation in equations(self.rule, egraph, egraph.find(eclass)) {
            if equation.left.types() != equation.right.types() || self.counter.is_exhausted() {
                continue;
            }
            if let Some((top, seen)) = &equation.read_from {
                let (top, seen) = (top.add(egraph), seen.add(egraph));
                if egraph.find(top) != egraph.find(seen) {
                    egraph.union_trusted(top, seen, READING.name);
                }
            }
            let left = equation.left.add(egraph);
            let right = equation.right.add(egraph);
            if egraph.union_trusted(left, right, rule_name) {
                self.counter.take(Step::Rule(self.rule.name));
                changed.push(left);
            }
        }
        changed
    }
}

/// Adds the template to an e-graph; gives the ids of its nodes and roots.
pub(crate) fn insert(egraph: &mut Graph, template: &Template) -> (Vec<Id>, Vec<Id>) {
    egraph.analysis.leaves.clone_from(&template.leaves);
    let leaves: Vec<Id> =
        (0..template.leaves.len()).map(|i| egraph.add_uncanonical(Term::leaf(Head::Leaf(i)))).collect();
    let mut nodes: Vec<Id> = Vec::new();
    let value = |egraph: &mut Graph, nodes: &[Id], source: &Source| match *source {
        Source::Leaf(i) => leaves[i],
        Source::Result(node, i) => {
            if egraph[nodes[node]].data.types.len() == 1 {
                nodes[node]
            } else {
                egraph.add_uncanonical(Term { head: Head::Proj(i), children: vec![nodes[node]] })
            }
        }
    };
    for (op, operands) in &template.nodes {
        let mut children = Vec::with_capacity(operands.len());
        for operand in operands {
            children.push(match operand {
                Some(source) => value(egraph, &nodes, source),
                None => egraph.add_uncanonical(Term::leaf(Head::Absent)),
            });
        }
        nodes.push(egraph.add_uncanonical(Term { head: Head::Op(op.clone()), children }));
    }
    let roots = template.roots.iter().map(|r| value(egraph, &nodes, r)).collect();
    (nodes, roots)
}

/// Saturates a template with the rules and extracts the cheapest equal graph.
pub(crate) fn saturate(
    template: &Template,
    rules: &[&'static Rule],
    options: &RewriteOptions,
    is_explained: bool,
) -> Option<Saturated> {
    let mut egraph = Graph::new(Typing::default());
    if is_explained {
        egraph = egraph.with_explanations_enabled();
    }
    let (classes, roots) = insert(&mut egraph, template);
    egraph.rebuild();
    let rewrites: Vec<Rewrite<Term, Typing>> = rules
        .iter()
        .map(|rule| {
            let applier = Counted { rule, counter: options.counter.clone() };
            Rewrite::new(rule.name, *rule, applier).expect("rules bind no variables")
        })
        .collect();
    let runner = Runner::<Term, Typing>::new(Typing::default())
        .with_egraph(egraph)
        .with_iter_limit(options.iteration_limit)
        .with_node_limit(options.node_limit)
        .with_time_limit(Duration::MAX)
        .with_scheduler(SimpleScheduler)
        .run(&rewrites);
    let stop = match runner.stop_reason {
        Some(egg::StopReason::IterationLimit(n)) => Stop::Iterations(n),
        Some(egg::StopReason::NodeLimit(n)) => Stop::Nodes(n),
        _ => Stop::Saturated,
    };
    let mut fired: BTreeMap<&'static str, usize> = BTreeMap::new();
    for iteration in &runner.iterations {
        for rule in rules {
            if let Some(n) = iteration.applied.get(&egg::Symbol::from(rule.name)) {
                *fired.entry(rule.name).or_default() += n;
            }
        }
    }
    let egraph = runner.egraph;
    let model = CostModel::new(options.target, options.seq_len_hint).with_mode(options.mode);
    let extracted = extract(&egraph, &roots, &model)?;
    Some(Saturated { egraph, extracted, classes, fired, stop })
}
