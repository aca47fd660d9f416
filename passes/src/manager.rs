//! Runs passes in order, and shows what they do.

use crate::bisect::{Counter, Step};
use crate::pass::{Changed, Pass, PassCtx, PassError, Remark};
use ssmc_ir::{Diagnostic, Model, Stage, verify, verify_weights};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The passes that lead to a stage.
#[derive(Clone, Copy)]
pub struct Phase {
    /// The stage that is reached after the last one.
    pub stage: Stage,
    /// In order of execution.
    pub passes: &'static [&'static dyn Pass],
}

/// One execution of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct PassRun {
    pub stage: Stage,
    pub pass: &'static str,
    /// `None` if the pass was disabled or lies beyond the limit of the counter.
    pub changed: Option<Changed>,
    pub nodes_before: usize,
    pub nodes_after: usize,
    pub start: Instant,
    pub time: Duration,
}

/// What a run of the manager gives beside the model.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Report {
    pub runs: Vec<PassRun>,
    pub remarks: Vec<Remark>,
}

/// Why the passes did not come through.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum ManagerError {
    #[error("pass {pass}: {source}")]
    Pass {
        pass: &'static str,
        #[source]
        source: PassError,
    },
    #[error("pass {pass} left an invalid graph: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid { pass: &'static str, faults: Vec<Diagnostic> },
    #[error("expected the name of a pass ({}), found {found:?}", known.join(", "))]
    UnknownPass { known: Vec<&'static str>, found: String },
}

/// Called with the model at every stage that is reached.
pub type StageHook<'a> = Box<dyn FnMut(Stage, &Model) + 'a>;

/// The single entry for running passes.
pub struct Manager<'a> {
    verify_each: bool,
    stop_after: Stage,
    disabled: BTreeSet<String>,
    counter: Counter,
    on_stage: Option<StageHook<'a>>,
}

impl Default for Manager<'_> {
    fn default() -> Self {
        Self {
            verify_each: cfg!(debug_assertions),
            stop_after: Stage::Emitted,
            disabled: BTreeSet::new(),
            counter: Counter::default(),
            on_stage: None,
        }
    }
}

impl<'a> Manager<'a> {
    /// A manager that runs everything, and verifies after each pass in debug builds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the graph is verified after each pass.
    #[must_use]
    pub fn verify_each(mut self, yes: bool) -> Self {
        self.verify_each = yes;
        self
    }

    /// Does not start phases after this stage.
    #[must_use]
    pub fn stop_after(mut self, stage: Stage) -> Self {
        self.stop_after = stage;
        self
    }

    /// Leaves out the pass of this name, wherever it occurs.
    #[must_use]
    pub fn disable(mut self, pass: impl Into<String>) -> Self {
        self.disabled.insert(pass.into());
        self
    }

    /// Counts each run of a pass, and runs none that the counter does not allow.
    #[must_use]
    pub fn count(mut self, counter: Counter) -> Self {
        self.counter = counter;
        self
    }

    /// Shows the model at every stage that is reached, the first one included.
    #[must_use]
    pub fn on_stage(mut self, hook: impl FnMut(Stage, &Model) + 'a) -> Self {
        self.on_stage = Some(Box::new(hook));
        self
    }

    /// Runs the phases in order.
    ///
    /// # Errors
    /// A disabled name is no pass; a pass failed, or left an invalid graph.
    pub fn run(&mut self, model: &mut Model, phases: &[Phase]) -> Result<Report, ManagerError> {
        let known: Vec<_> = phases.iter().flat_map(|p| p.passes).map(|p| p.name()).collect();
        if let Some(found) = self.disabled.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(ManagerError::UnknownPass { known, found: found.clone() });
        }
        let mut ctx = PassCtx::default();
        let mut runs = Vec::new();
        self.show(Stage::Imported, model);
        let last = self.stop_after;
        for phase in phases.iter().filter(|p| p.stage <= last) {
            for pass in phase.passes {
                let is_on =
                    !self.disabled.contains(pass.name()) && self.counter.take(Step::Pass(pass.name()));
                let nodes_before = model.graph.nodes().len();
                let start = Instant::now();
                let changed =
                    if is_on { Some(self.run_one(*pass, phase.stage, model, &mut ctx)?) } else { None };
                runs.push(PassRun {
                    stage: phase.stage,
                    pass: pass.name(),
                    changed,
                    nodes_before,
                    nodes_after: model.graph.nodes().len(),
                    start,
                    time: start.elapsed(),
                });
            }
            self.show(phase.stage, model);
        }
        Ok(Report { runs, remarks: ctx.remarks })
    }

    fn run_one(
        &self,
        pass: &dyn Pass,
        stage: Stage,
        model: &mut Model,
        ctx: &mut PassCtx,
    ) -> Result<Changed, ManagerError> {
        let name = pass.name();
        let changed = pass.run(model, ctx).map_err(|source| ManagerError::Pass { pass: name, source })?;
        if self.verify_each && changed.is_yes() {
            let mut faults = verify(&model.graph, stage);
            faults.extend(verify_weights(&model.graph, &model.weights));
            if !faults.is_empty() {
                return Err(ManagerError::Invalid { pass: name, faults });
            }
        }
        Ok(changed)
    }

    fn show(&mut self, stage: Stage, model: &Model) {
        if let Some(hook) = &mut self.on_stage {
            hook(stage, model);
        }
    }
}

#[cfg(test)]
mod tests;
