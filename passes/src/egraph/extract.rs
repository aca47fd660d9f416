//! Extraction of the cheapest graph, in which shared terms count once.
//!
//! First every class takes the term whose whole graph is cheapest by itself; then single choices are changed as long
//! as the graph of all roots together gets cheaper. Ties go to the term that comes first, so the result depends on
//! nothing but the e-graph.

use super::cost::CostModel;
use super::lang::{Graph, Head, Term};
use egg::Id;
use std::collections::BTreeMap;

/// The chosen terms, children before parents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extracted {
    /// Head, positions of the children, and class.
    pub(crate) terms: Vec<(Head, Vec<usize>, Id)>,
    /// Positions of the roots.
    pub(crate) roots: Vec<usize>,
}

/// One term of a class: what it costs, and the positions of its children's classes.
struct Choice {
    cost: u64,
    children: Vec<usize>,
}

/// The position of the chosen term of every class; `None` where no term is finite.
type Choices = Vec<Option<usize>>;

/// Classes by their positions among the sorted ids, for tables instead of maps.
struct Extractor<'a> {
    egraph: &'a Graph,
    classes: Vec<Id>,
    choices: Vec<Vec<Choice>>,
}

/// The cheapest graph that holds all roots; `None` if a class has no finite term, which egg rules out.
pub(crate) fn extract(egraph: &Graph, roots: &[Id], model: &CostModel) -> Option<Extracted> {
    let mut classes: Vec<Id> = egraph.classes().map(|c| c.id).collect();
    classes.sort_unstable();
    let positions: BTreeMap<Id, usize> = classes.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let choice = |term: &Term, id: Id| {
        let operands: Vec<_> = term.children.iter().map(|c| egraph[*c].data.types.as_slice()).collect();
        Choice {
            cost: model.cost(&term.head, &operands, &egraph[id].data.types),
            children: term.children.iter().map(|c| positions[&egraph.find(*c)]).collect(),
        }
    };
    let choices =
        classes.iter().map(|id| egraph[*id].nodes.iter().map(|term| choice(term, *id)).collect()).collect();
    let roots: Vec<usize> = roots.iter().map(|r| positions[&egraph.find(*r)]).collect();
    let extractor = Extractor { egraph, classes, choices };
    let chosen = extractor.improve(extractor.greedy(), &roots)?;
    extractor.collect(&chosen, &roots)
}

/// The graph of a class by itself.
struct Whole {
    total: u64,
    choice: usize,
    /// Its classes and what each costs.
    parts: Vec<(usize, u64)>,
}

impl Extractor<'_> {
    /// For every class, the term whose graph by itself is cheapest.
    fn greedy(&self) -> Choices {
        let n = self.classes.len();
        let mut best: Vec<Option<Whole>> = (0..n).map(|_| None).collect();
        // What each class of the graph at hand costs, and the graph that last wrote it.
        let (mut costs, mut writer, mut graph) = (vec![0u64; n], vec![0usize; n], 0);
        loop {
            let mut changed = false;
            for class in 0..n {
                for (i, choice) in self.choices[class].iter().enumerate() {
                    graph += 1;
                    let mut members = vec![class];
                    (costs[class], writer[class]) = (choice.cost, graph);
                    let inner: Option<Vec<_>> = choice.children.iter().map(|c| best[*c].as_ref()).collect();
                    let Some(inner) = inner else { continue };
                    let mut parts = inner.iter().flat_map(|whole| &whole.parts);
                    let fits = parts.all(|(member, cost)| {
                        costs[*member] = *cost;
                        if std::mem::replace(&mut writer[*member], graph) != graph {
                            members.push(*member);
                        }
                        *member != class
                    });
                    if !fits {
                        continue;
                    }
                    let total = members.iter().fold(0u64, |sum, m| sum.saturating_add(costs[*m]));
                    if best[class].as_ref().is_none_or(|old| total < old.total) {
                        let parts = members.into_iter().map(|m| (m, costs[m])).collect();
                        best[class] = Some(Whole { total, choice: i, parts });
                        changed = true;
                    }
                }
            }
            if !changed {
                return best.into_iter().map(|whole| Some(whole?.choice)).collect();
            }
        }
    }

    /// The classes that the roots need, children first; `None` if the choices are circular.
    fn order(&self, chosen: &Choices, roots: &[usize]) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.classes.len()];
        let mut order = Vec::new();
        let mut stack: Vec<(usize, bool)> = roots.iter().rev().map(|r| (*r, false)).collect();
        while let Some((class, is_exit)) = stack.pop() {
            if is_exit {
                marks[class] = Mark::Done;
                order.push(class);
                continue;
            }
            match marks[class] {
                Mark::Done => continue,
                Mark::Open => return None,
                Mark::New => marks[class] = Mark::Open,
            }
            stack.push((class, true));
            for child in &self.choices[class][chosen[class]?].children {
                match marks[*child] {
                    Mark::Open => return None,
                    Mark::New => stack.push((*child, false)),
                    Mark::Done => {}
                }
            }
        }
        Some(order)
    }

    fn total(&self, chosen: &Choices, roots: &[usize]) -> Option<u64> {
        let order = self.order(chosen, roots)?;
        order
            .iter()
            .try_fold(0u64, |sum, class| Some(sum.saturating_add(self.choices[*class][chosen[*class]?].cost)))
    }

    /// Makes the single change that saves most, as long as one saves anything.
    fn improve(&self, mut chosen: Choices, roots: &[usize]) -> Option<Choices> {
        let mut total = self.total(&chosen, roots)?;
        loop {
            let mut best: Option<(usize, usize)> = None;
            for class in self.order(&chosen, roots)? {
                let old = chosen[class];
                for i in (0..self.choices[class].len()).filter(|i| Some(*i) != old) {
                    chosen[class] = Some(i);
                    if let Some(cost) = self.total(&chosen, roots)
                        && cost < total
                    {
                        total = cost;
                        best = Some((class, i));
                    }
                }
                chosen[class] = old;
            }
            match best {
                Some((class, i)) => chosen[class] = Some(i),
                None => return Some(chosen),
            }
        }
    }

    fn collect(&self, chosen: &Choices, roots: &[usize]) -> Option<Extracted> {
        let order = self.order(chosen, roots)?;
        let mut at = vec![0; self.classes.len()];
        let mut terms = Vec::with_capacity(order.len());
        for (i, class) in order.into_iter().enumerate() {
            at[class] = i;
            let (id, choice) = (self.classes[class], chosen[class]?);
            let head = self.egraph[id].nodes[choice].head.clone();
            let children = self.choices[class][choice].children.iter().map(|c| at[*c]).collect();
            terms.push((head, children, id));
        }
        Some(Extracted { terms, roots: roots.iter().map(|r| at[*r]).collect() })
    }
}
