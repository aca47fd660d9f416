//! Rewriting by equality saturation. The only place that names egg, with the rules beside it.
//!
//! A graph is cut into segments ([`segment`]), each distinct one is saturated once ([`run`]) and the cheapest equal
//! graph is taken out ([`extract`]). The result depends on graph and options alone: there are limits on iterations and
//! e-nodes, none on time.

mod cost;
mod explain;
mod expr;
mod extract;
mod lang;
mod layout;
mod product;
mod report;
mod run;
mod segment;

#[cfg(test)]
pub(crate) mod tests;

pub use cost::CostTarget;
pub use explain::{Explanation, ReplayError, Step, check, explain};
#[cfg(test)]
pub(crate) use explain::{check_equations, first_difference, random};
pub use lang::{Facts, Graph, Head, Term, Typing};
pub use report::{Absorbed, FusedScan, Outside, RewriteReport};
pub use run::Stop;

pub(crate) use expr::{Expr, Label, Labels};
pub(crate) use layout::{Chain, inner as views};
pub(crate) use product::{Factor, Product, readings, readings_of};

use crate::bisect::Counter;
use crate::rules::{self, Rule};
use extract::Extracted;
use segment::{Part, Segment, Template};
use ssmc_ir::edit::EditError;
use ssmc_ir::ops::{Mode, Op};
use ssmc_ir::{Def, Diagnostic, Loc, LocId, Rewriter, ValueId};
use std::collections::BTreeMap;

/// What rewriting may do.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct RewriteOptions {
    /// Rules whose name one of these matches anywhere are not used.
    pub disabled_rules: Vec<regex::Regex>,
    pub iteration_limit: usize,
    /// E-nodes of one segment.
    pub node_limit: usize,
    pub target: CostTarget,
    /// The length for which costs are compared.
    pub seq_len_hint: i64,
    /// The mode that every scan must have; `None` leaves it to the cost model.
    pub mode: Option<Mode>,
    /// Counts each union of a rule, and ends rewriting when it allows no other.
    pub counter: Counter,
    #[cfg(test)]
    pub(crate) more_rules: Vec<&'static Rule>,
}

impl Default for RewriteOptions {
    fn default() -> Self {
        Self {
            disabled_rules: Vec::new(),
            iteration_limit: 30,
            node_limit: 20_000,
            target: CostTarget::Cpu,
            seq_len_hint: 512,
            mode: None,
            counter: Counter::default(),
            #[cfg(test)]
            more_rules: Vec::new(),
        }
    }
}

impl RewriteOptions {
    fn rules(&self) -> Vec<&'static Rule> {
        let rules = rules::all();
        #[cfg(test)]
        let rules = rules.chain(self.more_rules.iter().copied());
        rules.filter(|rule| !self.disabled_rules.iter().any(|re| re.is_match(rule.name))).collect()
    }
}

/// Why a graph cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// An e-class of a segment has no finite term.
    #[error("segment at {place}: no finite term to extract")]
    Extract {
        /// Where the segment begins.
        place: String,
    },
    /// A scan has no form in the mode that is asked for.
    #[error("{op} at {place} has no {} mode", mode.name())]
    Mode {
        /// The scan.
        op: &'static str,
        /// Where it comes from.
        place: String,
        /// The mode asked for.
        mode: Mode,
    },
    /// The extracted graph does not fit together.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// A rewritten graph.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Rewritten {
    pub graph: ssmc_ir::Graph,
    pub report: RewriteReport,
    /// Limits that were hit; the graph is valid and equal to the old one all the same.
    pub warnings: Vec<Diagnostic>,
}

/// A limit of saturation was reached.
pub const LIMIT: &str = "ssmc::rewrite::limit";

/// Rewrites a canonical or raised graph.
///
/// # Errors
/// A bug in a rule; every graph of primitive ops can be rewritten.
pub fn rewrite(graph: &ssmc_ir::Graph, options: &RewriteOptions) -> Result<Rewritten, RewriteError> {
    let rules = options.rules();
    let mut done: BTreeMap<Template, Taken> = BTreeMap::new();
    let mut report = report::Builder::default();
    let mut warnings = Vec::new();
    let mut rewriter = Rewriter::new(graph);
    for part in segment::cut(graph) {
        let segment = match part {
            Part::Opaque(id) => {
                for v in graph.node(id).operands.iter().flatten() {
                    ensure(&mut rewriter, *v)?;
                }
                rewriter.copy(graph.node(id))?;
                continue;
            }
            Part::Segment(segment) => segment,
        };
        let place =
            || segment.nodes.first().map_or_else(String::new, |n| graph.locs().describe(graph.node(*n).loc));
        if !done.contains_key(&segment.template) {
            let saturated = run::saturate(&segment.template, &rules, options, false)
                .ok_or_else(|| RewriteError::Extract { place: place() })?;
            if saturated.stop != Stop::Saturated {
                let message = format!("rewriting stopped early: {:?}", saturated.stop).to_lowercase();
                warnings.push(Diagnostic::warning(LIMIT, place(), message));
            }
            report.template(&saturated);
            let origins = report::origins(&segment.template, &saturated);
            done.insert(segment.template.clone(), Taken { extracted: saturated.extracted, origins });
        }
        let taken = &done[&segment.template];
        replay(&mut rewriter, &segment, taken)?;
        report.segment(graph, &segment, taken);
    }
    for port in graph.outputs() {
        ensure(&mut rewriter, port.value)?;
    }
    let new = rewriter.finish()?;
    if let Some(mode) = options.mode {
        check_mode(&new, mode)?;
    }
    let report = report.finish(&new);
    Ok(Rewritten { graph: new, report, warnings })
}

/// The mode of a scan; `None` for other ops.
fn mode_of(op: &Op) -> Option<Mode> {
    match op {
        Op::Scan(_) | Op::DiscretizedScan(_) | Op::SelectiveScan(_) => Some(Mode::Recurrent),
        Op::Ssd(ssd) => Some(ssd.mode),
        _ => None,
    }
}

/// Whether every scan of the graph, its regions included, has this mode.
fn check_mode(graph: &ssmc_ir::Graph, mode: Mode) -> Result<(), RewriteError> {
    for (_, node) in graph.nodes() {
        node.regions.iter().try_for_each(|region| check_mode(region, mode))?;
        if mode_of(&node.op).is_some_and(|found| found != mode) {
            let place = graph.locs().describe(node.loc);
            return Err(RewriteError::Mode { op: node.op.name(), place, mode });
        }
    }
    Ok(())
}

/// Copies what the value is computed from, where that has not happened yet: weights and constants.
fn ensure(rewriter: &mut Rewriter<'_>, value: ValueId) -> Result<(), EditError> {
    let mut stack = vec![value];
    while let Some(v) = stack.pop() {
        if rewriter.get(v).is_ok() {
            continue;
        }
        let Def::Result(id, _) = rewriter.old().def(v) else { continue };
        let node = rewriter.old().node(id);
        let missing: Vec<ValueId> =
            node.operands.iter().flatten().copied().filter(|v| rewriter.get(*v).is_err()).collect();
        if missing.is_empty() {
            rewriter.copy(node)?;
        } else {
            stack.push(v);
            stack.extend(missing);
        }
    }
    Ok(())
}

/// What is kept of a template's e-graph, which is large, for the segments of this template.
pub(crate) struct Taken {
    pub(crate) extracted: Extracted,
    /// For every extracted term, the nodes of the template that it stands for.
    pub(crate) origins: Vec<Vec<usize>>,
}

/// Builds the extracted graph of a segment with the segment's own leaves.
fn replay(rewriter: &mut Rewriter<'_>, segment: &Segment, taken: &Taken) -> Result<(), EditError> {
    let old = rewriter.old();
    let mut results: Vec<Vec<ValueId>> = Vec::new();
    for (at, (head, children, _)) in taken.extracted.terms.iter().enumerate() {
        results.push(match head {
            Head::Absent => Vec::new(),
            Head::Leaf(i) => {
                ensure(rewriter, segment.leaves[*i])?;
                vec![rewriter.get(segment.leaves[*i])?]
            }
            Head::Proj(i) => vec![results[children[0]][*i]],
            Head::Op(op) => {
                let operands: Vec<_> = children.iter().map(|c| results[*c].first().copied()).collect();
                let mut from: Vec<LocId> =
                    taken.origins[at].iter().map(|n| old.node(segment.nodes[*n]).loc).collect();
                from.sort_unstable();
                from.dedup();
                let builder = rewriter.builder();
                match from[..] {
                    [loc] => builder.set_loc_id(loc),
                    _ => {
                        builder.set_loc(Loc::Derived { by: "rewrite".into(), from });
                    }
                }
                builder.node(op.clone(), &operands, Vec::new())?
            }
        });
    }
    for (root, at) in segment.roots.iter().zip(&taken.extracted.roots) {
        rewriter.replace(*root, results[*at][0])?;
    }
    Ok(())
}
