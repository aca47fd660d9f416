//! Stopping after so many changes, and finding the change that makes an answer wrong.
//!
//! Each run of a pass and each union that a rule makes in an e-graph is one step. They come in a fixed order, so a
//! limit on their number gives the same graph every time, and halving the limit finds the first step that matters.

use crate::egraph::{self, RewriteError, RewriteOptions};
use crate::manager::{Manager, ManagerError, Phase};
use ssmc_ir::{Graph, Model, Weights};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One run of the pass of this name.
    Pass(&'static str),
    /// One union of the rewrite rule of this name.
    Rule(&'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass(name) => write!(f, "pass {name}"),
            Self::Rule(name) => write!(f, "rule {name}"),
        }
    }
}

#[derive(Debug, Default)]
struct Steps {
    limit: Option<usize>,
    taken: usize,
    last: Option<Step>,
}

/// Counts the steps of a compilation and ends them at a limit. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Mutex<Steps>>);

impl Counter {
    /// A counter that allows `limit` steps; `None` allows all.
    pub fn new(limit: Option<usize>) -> Self {
        Self(Arc::new(Mutex::new(Steps { limit, ..Steps::default() })))
    }

    /// Takes one step, if another one is allowed.
    pub(crate) fn take(&self, step: Step) -> bool {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.limit.is_some_and(|limit| steps.taken >= limit) {
            return false;
        }
        steps.taken += 1;
        steps.last = Some(step);
        true
    }

    /// Whether no other step is allowed.
    pub fn is_exhausted(&self) -> bool {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.limit.is_some_and(|limit| steps.taken >= limit)
    }

    /// How many steps were taken.
    pub fn taken(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).taken
    }

    /// The last step that was taken.
    pub fn last(&self) -> Option<Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last
    }
}

/// The step that makes an answer wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The step.
    pub step: Step,
    /// Its number, from 1: with a limit of one less, the answer is right.
    pub number: usize,
}

/// Why no step was found.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the errors of what is run")]
pub enum BisectError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Passes(#[from] ManagerError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Check(E),
}

/// Finds the first step of passes and rules after which `is_wrong` says yes; `None` if it does not for the rewritten
/// graph. The imported graph counts as right.
///
/// # Errors
/// A stage or the check fails.
pub fn blame<E: std::error::Error + 'static>(
    imported: &Model,
    phases: &[Phase],
    options: &RewriteOptions,
    mut is_wrong: impl FnMut(&Graph, &Weights) -> Result<bool, E>,
) -> Result<Option<Blame>, BisectError<E>> {
    let mut after = |limit: Option<usize>| -> Result<(bool, Counter), BisectError<E>> {
        let counter = Counter::new(limit);
        let mut model = imported.clone();
        Manager::new().count(counter.clone()).run(&mut model, phases)?;
        let options = RewriteOptions { counter: counter.clone(), ..options.clone() };
        let rewritten = egraph::rewrite(&model.graph, &options)?;
        let wrong = is_wrong(&rewritten.graph, &model.weights).map_err(BisectError::Check)?;
        Ok((wrong, counter))
    };
    let (wrong, all) = after(None)?;
    if !wrong {
        return Ok(None);
    }
    let (mut right, mut first_wrong, mut step) = (0, all.taken(), all.last());
    while first_wrong - right > 1 {
        let middle = right + (first_wrong - right) / 2;
        let (wrong, counter) = after(Some(middle))?;
        if wrong {
            (first_wrong, step) = (middle, counter.last());
        } else {
            right = middle;
        }
    }
    Ok(step.map(|step| Blame { step, number: first_wrong }))
}

#[cfg(test)]
mod tests;
