//! From an imported model to kernels.

use crate::Error;
use ssmc_codegen::assemble::{Kernels, ProgramInput};
use ssmc_codegen::target::{CpuLevel, CpuTarget, Target};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::{DType, Graph, Model, Plan, Port, Stage, Weights};
use ssmc_passes::bisect::Counter;
use ssmc_passes::compute::{self, Between, ComputeType};
use ssmc_passes::egraph::{RewriteOptions, RewriteReport, rewrite};
use ssmc_passes::manager::Manager;
use ssmc_passes::norms::{self, Norm, Scaled};
use ssmc_passes::partition::{partition, partition_with_copies};
use ssmc_passes::pass::{Remark, RemarkKind};
use ssmc_passes::pipeline::PHASES;
use ssmc_passes::programs::{self, Program};
use ssmc_passes::states::{self, StateType};
use ssmc_passes::stream::{self, KernelInfo, StreamError, StreamOptions};
use std::time::{Duration, Instant};

/// How to compile.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// CPU levels, then GPU architectures; of each the least demanding first.
    pub targets: Vec<Target>,
    /// Rules and limits of rewriting.
    pub rewrite: RewriteOptions,
    /// Also derive `prefill` and `step` with explicit state from a model that has none.
    pub streaming: Option<StreamOptions>,
    /// The type of values between kernels of GPUs. CPUs compute with them in f32.
    pub compute: ComputeType,
    /// Whether RMS norms are folded into the products behind them where values between kernels of GPUs are bf16. Products
    /// that a library is to do cannot scale rows.
    pub fold_norms: bool,
    /// The type of recurrent states between calls, on all devices.
    pub state: StateType,
    /// How many runs of passes and unions of rules there may be, over all programs; `None` for no limit.
    pub bisect_limit: Option<usize>,
}

impl Default for CompileOptions {
    /// Levels v3 and v4, all rules.
    fn default() -> Self {
        let targets = [CpuLevel::X86_64V3, CpuLevel::X86_64V4]
            .map(|level| Target::Cpu(CpuTarget::of_level(level)))
            .to_vec();
        let (rewrite, compute) = (RewriteOptions::default(), ComputeType::F32);
        Self {
            targets,
            rewrite,
            streaming: None,
            compute,
            fold_norms: true,
            state: StateType::F32,
            bisect_limit: None,
        }
    }
}

/// One program at every stage.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the stages")]
pub struct CompiledProgram {
    pub name: &'static str,
    pub states: Vec<String>,
    pub imported: Graph,
    pub raised: Graph,
    pub rewritten: Graph,
    pub plan: Plan,
    /// The plan for GPUs, if its values between kernels have another type.
    pub gpu_plan: Option<Plan>,
    /// The weights of the stage `imported`.
    pub imported_weights: Weights,
    /// The weights of the later stages: what passes folded is among them, what no graph uses any more is not.
    pub weights: Weights,
    /// Whether states that the model has in f32 are kept in halves.
    pub has_rounded_states: bool,
    /// What the passes say about single places.
    pub remarks: Vec<Remark>,
    pub report: RewriteReport,
}

/// A plan for GPUs whose values between kernels have types of their own.
#[derive(Clone, Debug)]
pub struct GpuPlan {
    /// The plan.
    pub plan: Plan,
    /// The types of what was f32 before, in order.
    pub between: Vec<Between>,
    /// What became of norms.
    pub norms: Vec<Norm>,
}

/// A model as kernels and launch lists, with the stages that led there.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Compiled {
    pub programs: Vec<CompiledProgram>,
    pub kernels: Kernels,
    /// What deriving streaming programs found, if it was asked for.
    pub streaming: Option<StreamFacts>,
}

impl Compiled {
    /// How far results may be from those of arithmetic in `f32`, relative to the largest, because what kernels multiply,
    /// or store for each other or for the next call, is rounded. 0 if nothing is.
    pub fn rounding(&self) -> f64 {
        let is_rounded = self.programs.iter().any(|p| p.gpu_plan.is_some() || p.has_rounded_states);
        self.kernels.rounding().max(if is_rounded { 3e-2 } else { 0.0 })
    }
}

/// What deriving streaming programs found.
#[derive(Clone, Debug, Default)]
pub struct StreamFacts {
    /// The most steps of a sequence, if windows or constants of the model bound it.
    pub max_context: Option<u64>,
    /// What became of frozen kernels.
    pub kernels: Vec<KernelInfo>,
}

/// A part of compiling that is done.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Span {
    /// A program, `kernels` or `artefact`.
    pub track: String,
    pub name: String,
    pub start: Instant,
    pub time: Duration,
}

impl Span {
    fn since(track: &str, name: &str, start: Instant) -> Self {
        Self { track: track.to_owned(), name: name.to_owned(), start, time: start.elapsed() }
    }
}

/// What compiling has reached, as [`Compiler::compile_until`] shows it.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Reached<'a> {
    /// What is about to be compiled.
    Programs(&'a [Program]),
    /// A part is done.
    Done(&'a Span),
    /// Streaming programs were derived and compiled.
    Streaming(&'a StreamFacts),
    /// All programs have been rewritten: the steps that counted for the limit.
    Counted(&'a Counter),
    /// A program's graph at a stage from `imported` to `rewritten`.
    Graph { program: &'a str, stage: Stage, graph: &'a Graph, weights: &'a Weights },
    /// A program at stage `partitioned`.
    Plan { program: &'a str, plan: &'a Plan },
    /// The plan of a program for GPUs, if it is another one.
    GpuPlan { program: &'a str, plan: &'a Plan },
    /// All programs at stage `kernel`.
    Kernels(&'a Kernels),
}

/// Compiles models.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    options: CompileOptions,
}

impl Compiler {
    /// A compiler with these options.
    pub fn new(options: CompileOptions) -> Self {
        Self { options }
    }

    /// Runs every stage up to kernels.
    ///
    /// # Errors
    /// The first stage that cannot go on, with the node.
    pub fn compile(&self, model: &Model) -> Result<Compiled, Error> {
        let compiled = self.compile_until(model, Stage::Kernel, &mut |_| {})?;
        Ok(compiled.expect("nothing stops before stage `kernel`"))
    }

    /// Runs the stages up to `last` and shows each program at each of them; `None` if that is before `kernel`.
    ///
    /// # Errors
    /// See [`Compiler::compile`]; what was reached before the fault has been shown.
    pub fn compile_until(
        &self,
        model: &Model,
        last: Stage,
        observe: &mut dyn FnMut(Reached<'_>),
    ) -> Result<Option<Compiled>, Error> {
        let mut compiled = Vec::new();
        let programs = programs::derive(&model.graph)?;
        let streaming = match &self.options.streaming {
            Some(options) => match programs.iter().find_map(|p| Some((p.name, p.states.first()?))) {
                Some((program, state)) => {
                    return Err(Error::HasState { program, state: state.clone() });
                }
                None => Some(streamed(model, options)?),
            },
            None => None,
        };
        let counter = Counter::new(self.options.bisect_limit);
        let mut scaled = Scaled::default();
        let parts = [
            Some((programs, model)),
            streaming.as_ref().map(|(programs, raised, _)| (programs.clone(), raised)),
        ];
        for (programs, model) in parts.into_iter().flatten() {
            observe(Reached::Programs(&programs));
            for program in programs {
                compiled.extend(self.program(program, model, last, (&counter, &mut scaled), observe)?);
            }
        }
        if let Some((_, _, facts)) = &streaming {
            observe(Reached::Streaming(facts));
        }
        observe(Reached::Counted(&counter));
        if last < Stage::Kernel {
            return Ok(None);
        }
        let inputs: Vec<ProgramInput<'_>> = compiled
            .iter()
            .map(|p| ProgramInput {
                name: p.name,
                plan: &p.plan,
                gpu_plan: p.gpu_plan.as_ref(),
                weights: &p.weights,
                states: &p.states,
            })
            .collect();
        let start = Instant::now();
        let kernels = Kernels::lower(&inputs, &self.options.targets)?;
        observe(Reached::Done(&Span::since("kernels", "lower", start)));
        observe(Reached::Kernels(&kernels));
        let streaming = streaming.map(|(_, _, facts)| facts);
        Ok(Some(Compiled { programs: compiled, kernels, streaming }))
    }

    /// How a program of this name is rewritten. A step has one position, which no mode divides.
    pub fn rewrite_options(&self, program: &str, counter: &Counter) -> RewriteOptions {
        let mut options = RewriteOptions { counter: counter.clone(), ..self.options.rewrite.clone() };
        if program == "step" {
            options.seq_len_hint = 1;
            options.mode = None;
        }
        options
    }

    /// The plan for GPUs, if the values between their kernels are to have other types than those of a plan. Weights that
    /// it needs besides are added to `weights`.
    ///
    /// # Errors
    /// The graph cannot be rebuilt, or a weight's bytes do not fit its type.
    pub fn gpu_plan(
        &self,
        plan: &Plan,
        weights: &mut Weights,
        scaled: &mut Scaled,
    ) -> Result<Option<GpuPlan>, Error> {
        let has_gpu = self.options.targets.iter().any(|target| matches!(target, Target::Gpu(_)));
        let half = self.options.compute.half(&plan.graph).filter(|_| has_gpu);
        let Some(half) = half else { return Ok(None) };
        let rounded = compute::round(plan, half)?;
        let plan = partition(&rounded.graph)?;
        if !self.options.fold_norms {
            return Ok(Some(GpuPlan { plan, between: rounded.values, norms: Vec::new() }));
        }
        let folded = norms::fold(&plan, weights, scaled)?;
        let plan = partition_with_copies(&folded.graph)?;
        Ok(Some(GpuPlan { plan, between: rounded.values, norms: folded.norms }))
    }

    /// Whether a program has states in f32 that are to be kept in halves.
    fn has_rounded_states(&self, program: &Program) -> bool {
        let is_rounded = |port: &Port| {
            program.states.contains(&port.name) && program.graph.ty(port.value).dtype == DType::F32
        };
        self.options.state.half().is_some() && program.graph.outputs().iter().any(is_rounded)
    }

    /// One program up to `last`, at most `partitioned`; `None` if it stops before that.
    fn program(
        &self,
        program: Program,
        model: &Model,
        last: Stage,
        (counter, scaled): (&Counter, &mut Scaled),
        observe: &mut dyn FnMut(Reached<'_>),
    ) -> Result<Option<CompiledProgram>, Error> {
        let name = program.name;
        let imported = rename_output(&program.graph, "logits_last", "logits")?;
        let mut staged =
            Model { graph: imported.clone(), weights: model.weights.clone(), ..Model::default() };
        let mut show = |stage, model: &Model| {
            observe(Reached::Graph { program: name, stage, graph: &model.graph, weights: &model.weights });
        };
        let passes = Manager::new()
            .stop_after(last)
            .count(counter.clone())
            .on_stage(&mut show)
            .run(&mut staged, PHASES)?;
        for run in &passes.runs {
            let (track, pass) = (name.to_owned(), run.pass.to_owned());
            observe(Reached::Done(&Span { track, name: pass, start: run.start, time: run.time }));
        }
        if last < Stage::Rewritten {
            return Ok(None);
        }
        let options = self.rewrite_options(name, counter);
        let start = Instant::now();
        let rewritten = rewrite(&staged.graph, &options)?;
        observe(Reached::Done(&Span::since(name, "rewrite", start)));
        let Model { graph: raised, mut weights, .. } = staged;
        let report = rewritten.report;
        let [imported, raised, rewritten] = [imported, raised, rewritten.graph];
        let has_rounded_states = self.has_rounded_states(&program);
        let [imported, raised, rewritten] = match self.options.state.half().filter(|_| has_rounded_states) {
            Some(half) => {
                let keep = |graph: Graph| states::keep_in(half, &graph, &program.states);
                [keep(imported)?, keep(raised)?, keep(rewritten)?]
            }
            None => [imported, raised, rewritten],
        };
        let graph = &rewritten;
        observe(Reached::Graph { program: name, stage: Stage::Rewritten, graph, weights: &weights });
        if last < Stage::Partitioned {
            return Ok(None);
        }
        let start = Instant::now();
        let plan = partition(&rewritten)?;
        observe(Reached::Done(&Span::since(name, "partition", start)));
        observe(Reached::Plan { program: name, plan: &plan });
        let gpu_plan = self.gpu_plan(&plan, &mut weights, scaled)?.map(|gpu| gpu.plan);
        if let Some(plan) = &gpu_plan {
            observe(Reached::GpuPlan { program: name, plan });
        }
        Ok(Some(CompiledProgram {
            name,
            states: program.states,
            imported,
            raised,
            rewritten,
            plan,
            gpu_plan,
            imported_weights: model.weights.clone(),
            weights,
            has_rounded_states,
            remarks: passes.remarks,
            report,
        }))
    }
}

/// The streaming programs of a model, with the raised model whose weights they use.
fn streamed(model: &Model, options: &StreamOptions) -> Result<(Vec<Program>, Model, StreamFacts), Error> {
    let mut raised = Model { graph: model.graph.clone(), weights: model.weights.clone(), ..Model::default() };
    let report = Manager::new().run(&mut raised, PHASES)?;
    let streaming = stream::derive(&raised.graph, &raised.weights, options).map_err(|error| {
        let state = report.remarks.iter().find_map(|remark| match &remark.kind {
            RemarkKind::State { input, output } => Some((input.clone(), output.clone())),
            _ => None,
        });
        // What is wrong with time in a graph that has none helps nobody.
        state.map_or(error, |(input, output)| StreamError::IsStep { input, output })
    })?;
    for (name, weight) in streaming.weights {
        raised.weights.insert(name, weight);
    }
    let facts = StreamFacts { max_context: streaming.max_context, kernels: streaming.kernels };
    Ok((streaming.programs, raised, facts))
}

/// The graph with an output under another name; the same graph if there is no such output.
fn rename_output(graph: &Graph, from: &str, to: &str) -> Result<Graph, EditError> {
    if graph.output(from).is_none() {
        return Ok(graph.clone());
    }
    let mut rewriter = Rewriter::new(graph);
    for (_, node) in graph.nodes() {
        rewriter.copy(node)?;
    }
    let rename = |port: &Port| Port {
        name: if port.name == from { to.to_owned() } else { port.name.clone() },
        value: port.value,
    };
    rewriter.finish_with(&graph.outputs().iter().map(rename).collect::<Vec<_>>())
}
