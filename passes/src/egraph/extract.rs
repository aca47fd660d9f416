//! Extraction of the cheapest graph, in which shared terms count once.
//!
//! First every class takes the term whose whole graph is cheapest by itself; then single choices are changed as long
//! as the graph of all roots together gets cheaper. Ties go to the term that comes first, so the result depends on
//! nothing but the e-graph.

use super::cost::CostModel;
use super::lang::{Graph, Head, Term};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// The chosen terms, children before parents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extracted {
    /// Head, positions of the children, and class.
    pub(crate) terms: Vec<(Head, Vec<usize>, Id)>,
    /// Positions of the roots.
    pub(crate) roots: Vec<usize>,
}

type Choices = BTreeMap<Id, usize>;

struct Extractor<'a> {
    egraph: &'a Graph,
    classes: Vec<Id>,
    costs: BTreeMap<Id, Vec<u64>>,
}

/// The cheapest graph that holds all roots; `None` if a class has no finite term, which egg rules out.
pub(crate) fn extract(egraph: &Graph, roots: &[Id], model: &CostModel) -> Option<Extracted> {
    let mut classes: Vec<Id> = egraph.classes().map(|c| c.id).collect();
    classes.sort_unstable();
    let cost = |term: &Term, id: Id| {
        let operands: Vec<_> = term.children.iter().map(|c| egraph[*c].data.types.as_slice()).collect();
        model.cost(&term.head, &operands, &egraph[id].data.types)
    };
    let costs = classes
        .iter()
        .map(|id| (*id, egraph[*id].nodes.iter().map(|term| cost(term, *id)).collect()))
        .collect();
    let extractor = Extractor { egraph, classes, costs };
    let roots: Vec<Id> = roots.iter().map(|r| egraph.find(*r)).collect();
    let choices = extractor.improve(extractor.greedy(), &roots)?;
    extractor.collect(&choices, &roots)
}

impl Extractor<'_> {
    fn children(&self, id: Id, term: usize) -> impl Iterator<Item = Id> + '_ {
        self.egraph[id].nodes[term].children.iter().map(|c| self.egraph.find(*c))
    }

    /// For every class, the term whose graph by itself is cheapest.
    fn greedy(&self) -> Choices {
        let mut best: BTreeMap<Id, (u64, usize, BTreeMap<Id, u64>)> = BTreeMap::new();
        loop {
            let mut changed = false;
            for id in &self.classes {
                for (i, own) in self.costs[id].iter().enumerate() {
                    let mut set = BTreeMap::from([(*id, *own)]);
                    let mut fits = true;
                    for child in self.children(*id, i) {
                        match best.get(&child) {
                            Some((_, _, inner)) if !inner.contains_key(id) => {
                                set.extend(inner.iter().map(|(k, v)| (*k, *v)));
                            }
                            _ => fits = false,
                        }
                    }
                    let total = set.values().fold(0u64, |sum, c| sum.saturating_add(*c));
                    if fits && best.get(id).is_none_or(|(old, _, _)| total < *old) {
                        best.insert(*id, (total, i, set));
                        changed = true;
                    }
                }
            }
            if !changed {
                return best.into_iter().map(|(id, (_, i, _))| (id, i)).collect();
            }
        }
    }

    /// The classes that the roots need, children first; `None` if the choices are circular.
    fn order(&self, choices: &Choices, roots: &[Id]) -> Option<Vec<Id>> {
        let (mut order, mut done, mut open) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|r| (*r, false)).collect();
        while let Some((id, is_exit)) = stack.pop() {
            if is_exit {
                open.remove(&id);
                if done.insert(id) {
                    order.push(id);
                }
                continue;
            }
            if done.contains(&id) {
                continue;
            }
            if !open.insert(id) {
                return None;
            }
            stack.push((id, true));
            for child in self.children(id, *choices.get(&id)?) {
                if open.contains(&child) {
                    return None;
                }
                if !done.contains(&child) {
                    stack.push((child, false));
                }
            }
        }
        Some(order)
    }

    fn total(&self, choices: &Choices, roots: &[Id]) -> Option<u64> {
        let order = self.order(choices, roots)?;
        Some(order.iter().fold(0u64, |sum, id| sum.saturating_add(self.costs[id][choices[id]])))
    }

    /// Makes the single change that saves most, as long as one saves anything.
    fn improve(&self, mut choices: Choices, roots: &[Id]) -> Option<Choices> {
        let mut total = self.total(&choices, roots)?;
        loop {
            let mut best: Option<(Id, usize)> = None;
            for id in self.order(&choices, roots)? {
                let old = choices[&id];
                for i in 0..self.costs[&id].len() {
                    choices.insert(id, i);
                    if let Some(cost) = self.total(&choices, roots)
                        && cost < total
                    {
                        total = cost;
                        best = Some((id, i));
                    }
                }
                choices.insert(id, old);
            }
            match best {
                Some((id, i)) => choices.insert(id, i),
                None => return Some(choices),
            };
        }
    }

    fn collect(&self, choices: &Choices, roots: &[Id]) -> Option<Extracted> {
        let order = self.order(choices, roots)?;
        let at: BTreeMap<Id, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let terms = order
            .iter()
            .map(|id| {
                let head = self.egraph[*id].nodes[choices[id]].head.clone();
                (head, self.children(*id, choices[id]).map(|c| at[&c]).collect(), *id)
            })
            .collect();
        let roots_at = roots.iter().map(|r| at[r]).collect();
        Some(Extracted { terms, roots: roots_at })
    }
}
