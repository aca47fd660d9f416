//! What makes an answer wrong: the import, a pass, a rule, or what becomes of a kernel.

use super::layers::{Layer, watch};
use super::{Call, Tensors, Verifier, pair};
use crate::compare::{Tolerance, compare};
use crate::failure::{Failure, Outcome};
use serde_json::{Value, json};
use ssmc_codegen::kernel::replay::{self, Fault, Memory};
use ssmc_ir::{Graph, InterpError, Interpreter, Model, Stage, Tensor, Weights};
use ssmc_passes::bisect::{self, BisectError, Blame, Counter};
use ssmc_passes::pipeline::PHASES;
use ssmc_runtime::{LaunchObserver, LaunchView, Session, State};
use std::fmt;

/// What makes an answer wrong.
#[derive(Clone, Debug)]
pub(super) enum Culprit {
    /// The interpreter gives other values than the reference for the imported graph.
    Import,
    /// The first step of passes and rules behind which the interpreter gives other values.
    Step(Blame),
    /// A kernel, and the stage behind which it computes something else.
    Kernel { name: String, stage: Stage, fault: String },
    /// Every stage agrees with the one before within the tolerance; the differences add up.
    Nothing,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Import => write!(
                f,
                "the imported graph gives other values than the reference in the interpreter, so the import or the \
                 reference is wrong"
            ),
            Self::Step(Blame { step, number }) => write!(
                f,
                "{step} is at fault: --bisect-limit {number} gives wrong values, --bisect-limit {} right ones",
                number - 1
            ),
            Self::Kernel { name, stage, fault } => {
                let by = match stage {
                    Stage::Kernel => "the lowering to kernels",
                    Stage::Legal => "legalization",
                    _ => "code generation",
                };
                write!(f, "{by} of kernel {name} is at fault: {fault}")
            }
            Self::Nothing => f.write_str(
                "every stage agrees with the one before it within the tolerance; the errors add up",
            ),
        }
    }
}

impl Culprit {
    pub(super) fn to_json(&self) -> Value {
        let (kind, name) = match self {
            Self::Import => ("import", String::new()),
            Self::Step(blame) => ("step", blame.step.to_string()),
            Self::Kernel { name, .. } => ("kernel", name.clone()),
            Self::Nothing => ("nothing", String::new()),
        };
        let number = match self {
            Self::Step(blame) => Some(blame.number),
            _ => None,
        };
        let stage = match self {
            Self::Kernel { stage, .. } => Some(stage.name()),
            _ => None,
        };
        json!({"kind": kind, "name": name, "number": number, "stage": stage, "message": self.to_string()})
    }
}

impl Verifier<'_> {
    /// Goes through the stages of a call that has failed. `first` is the first launch that differs.
    pub(super) fn culprit(
        &self,
        call: &Call<'_>,
        expected: &Tensors,
        first: Option<&Layer>,
        session: &mut Session,
        state: Option<State>,
    ) -> Outcome<Culprit> {
        let program = self.program(call.program)?;
        let mut inputs = call.inputs.clone();
        inputs.extend(call.states.iter().map(pair));
        let tolerance = self.tolerance;
        let differs = |graph: &Graph, weights: &Weights| -> Result<bool, InterpError> {
            let found = Interpreter::new(graph, weights).run(&inputs)?;
            Ok(differ(expected, &found, tolerance))
        };
        let failed = |error: InterpError| Failure::from(ssmc::Error::from(error));
        if differs(&program.imported, &program.imported_weights).map_err(failed)? {
            return Ok(Culprit::Import);
        }
        let imported = Model {
            graph: program.imported.clone(),
            weights: program.imported_weights.clone(),
            ..Model::default()
        };
        if differs(&program.rewritten, &program.weights).map_err(failed)? {
            let options = self.compiler.rewrite_options(call.program, &Counter::default());
            let blame = bisect::blame(&imported, PHASES, &options, differs).map_err(bisect_failed)?;
            if let Some(blame) = blame {
                return Ok(Culprit::Step(blame));
            }
        }
        match first {
            Some(layer) => self.kernel(call, layer, session, state),
            None => Ok(Culprit::Nothing),
        }
    }

    /// Runs the kernel of a launch in the interpreter, before and after legalization, on what the launch read.
    fn kernel(
        &self,
        call: &Call<'_>,
        layer: &Layer,
        session: &mut Session,
        mut state: Option<State>,
    ) -> Outcome<Culprit> {
        let kernels = &self.compiled.kernels;
        let level = kernels.targets.iter().position(|t| t.name() == session.level()).unwrap_or(0);
        let device = kernels.targets[level].device();
        let entry = kernels.programs.iter().find(|p| p.name == call.program && p.device == device);
        let Some(index) = entry.and_then(|p| p.launches.get(layer.launch)).map(|launch| launch.kernel) else {
            return Ok(Culprit::Nothing);
        };
        let mut seen = Seen { launch: layer.launch, memory: Vec::new(), grid: 0, dims: Vec::new() };
        watch(call, session, state.as_mut(), &mut seen)?;
        let [before, after] = &seen.memory[..] else { return Ok(Culprit::Nothing) };
        let lowered = &kernels.kernels[index];
        let culprit = |stage, fault: String| Culprit::Kernel { name: lowered.name.clone(), stage, fault };
        let differs = |memory: &Memory| {
            let bytes = memory.arg(layer.arg).and_then(|bytes| bytes.get(..layer.n_bytes()));
            let found =
                bytes.and_then(|b| Tensor::from_bytes(layer.truth.dtype(), layer.truth.shape(), b).ok());
            let found = found.map_or_else(Vec::new, |tensor| tensor.to_f64());
            !compare(&layer.truth.to_f64(), &found, self.tolerance).is_some_and(|d| d.passed())
        };
        let Some(form) = kernels.form(lowered, level) else { return Ok(Culprit::Nothing) };
        match replay::run(form, seen.grid, &seen.dims, before) {
            Err(fault) => return Ok(culprit(Stage::Kernel, fault.to_string())),
            Ok(memory) if differs(&memory) => {
                return Ok(culprit(Stage::Kernel, "its kernel gives other values than the graph".to_owned()));
            }
            Ok(_) => {}
        }
        let legal = ssmc_codegen::assemble::legal(kernels, level).map_err(ssmc::Error::from)?;
        let Some(legal) = legal.iter().find(|legal| legal.name == lowered.name) else {
            return Ok(Culprit::Nothing);
        };
        match replay::check(legal, seen.grid, &seen.dims, before, after) {
            Err(fault @ Fault::Interpreter { .. }) => Ok(culprit(Stage::Legal, fault.to_string())),
            Err(fault) => Ok(culprit(Stage::Emitted, fault.to_string())),
            Ok(()) => {
                Ok(culprit(Stage::Legal, "its legal form gives other values than its kernel".to_owned()))
            }
        }
    }
}

fn bisect_failed(error: BisectError<InterpError>) -> Failure {
    Failure::from(match error {
        BisectError::Passes(error) => ssmc::Error::from(error),
        BisectError::Rewrite(error) => ssmc::Error::from(error),
        BisectError::Check(error) => ssmc::Error::from(error),
    })
}

/// Whether one of the expected tensors is not what was found.
fn differ(expected: &Tensors, found: &Tensors, tolerance: Tolerance) -> bool {
    expected.iter().any(|(name, expected)| {
        found.get(name).is_some_and(|found| {
            let same_shape = expected.shape() == found.shape();
            let difference = same_shape.then(|| compare(&expected.to_f64(), &found.to_f64(), tolerance));
            !difference.flatten().is_some_and(|d| d.passed())
        })
    })
}

/// The memory of one launch before and after it.
struct Seen {
    launch: usize,
    memory: Vec<Memory>,
    grid: i64,
    dims: Vec<i64>,
}

impl Seen {
    fn copy(&mut self, launch: &LaunchView<'_>) {
        if launch.launch == self.launch {
            self.memory.push(Memory::copy(&launch.args));
            (self.grid, self.dims) = (launch.grid, launch.dims.to_vec());
        }
    }
}

impl LaunchObserver for Seen {
    fn before(&mut self, launch: &LaunchView<'_>) {
        self.copy(launch);
    }

    fn after(&mut self, launch: &LaunchView<'_>) {
        self.copy(launch);
    }
}
