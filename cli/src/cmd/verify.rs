//! `ssmc verify`

mod blame;
mod layers;
#[cfg(feature = "oracle")]
mod oracle;
mod sequences;
#[cfg(test)]
#[cfg(feature = "llvm")]
mod tests;

use super::language;
use crate::compare::{Difference, Tolerance, compare};
use crate::failure::{Failure, Kind, Outcome};
use crate::model::Job;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{Progress, print, print_json, table};
use crate::session;
use crate::tensors::{self, Tensors};
use serde_json::{Value, json};
use ssmc::{Compiled, CompiledProgram, Compiler, Rng};
use ssmc_artifact::{Program, SymbolRole};
use ssmc_ir::{Bindings, Interpreter, Symbol, Tensor};
use ssmc_runtime::{Artifact, Session, State, Tensor as Buffer};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// An ONNX file or a model folder
    model: PathBuf,
    /// Compare with recorded tensors instead of the interpreter: a .npz file with inputs and outputs of `forward`, or
    /// a folder with inputs_0.npz, outputs_0.npz, inputs_1.npz ...
    #[arg(long, value_name = "PATH")]
    reference: Option<PathBuf>,
    /// Compare with what another engine computes from the same file, on the recorded inputs or on random ones; needs
    /// ssmc built with the feature `oracle`
    #[arg(long, value_name = "ENGINE")]
    against: Option<Engine>,
    /// Compare every kernel's outputs even if all outputs agree. Where one does not, the first kernel that differs and
    /// the pass, rule or kernel at fault are named in any case
    #[arg(long)]
    per_layer: bool,
    /// Allowed error, relative to the largest magnitude of each reference tensor [default: 1e-4, or 3e-2 if kernels
    /// round rows to bf16 or 8 bits]
    #[arg(long)]
    rtol: Option<f64>,
    /// Allowed absolute error on top
    #[arg(long, default_value_t = 0.0)]
    atol: f64,
    /// Length of the random sequence for the comparison with the interpreter
    #[arg(long, default_value_t = 8)]
    len: usize,
    /// Seed of the random inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// An engine of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    /// tract-onnx
    Tract,
}

/// The comparison of one output.
struct Compared {
    case: String,
    program: String,
    output: String,
    /// `None` if the shapes differ.
    difference: Option<Difference>,
}

impl Compared {
    fn passed(&self) -> bool {
        self.difference.as_ref().is_some_and(Difference::passed)
    }
}

/// What is compared, and how.
struct Verifier<'a> {
    args: &'a Args,
    compiled: &'a Compiled,
    compiler: &'a Compiler,
    artifact: &'a Artifact,
    tolerance: Tolerance,
    progress: &'a Progress,
    compared: Vec<Compared>,
    layers: Vec<layers::Layer>,
    /// What makes the first wrong answer wrong.
    culprit: Option<blame::Culprit>,
    /// The results of nodes beside those of another engine.
    nodes: Vec<NodeResult>,
}

/// The comparison of a result of a node of the file, as the interpreter and another engine compute it.
struct NodeResult {
    case: String,
    node: String,
    op: String,
    value: String,
    /// `None` if the shapes differ.
    difference: Option<Difference>,
}

impl NodeResult {
    fn passed(&self) -> bool {
        self.difference.as_ref().is_some_and(Difference::passed)
    }

    fn describe(&self) -> String {
        format!("node {:?} ({}), result {:?}", self.node, self.op, self.value)
    }

    fn row(&self) -> Vec<String> {
        vec![
            if self.passed() { "  ok" } else { "  FAILED" }.to_owned(),
            self.case.clone(),
            format!("{} {}", self.op, self.node),
            self.value.clone(),
            outcome(self.difference.as_ref()),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "case": self.case, "node": self.node, "op": self.op, "value": self.value, "passed": self.passed(),
            "difference": self.difference.as_ref().map(Difference::to_json),
        })
    }
}

fn outcome(difference: Option<&Difference>) -> String {
    match difference {
        None => "the shapes differ".to_owned(),
        Some(d) => format!("error {:.2e} of {:.2e}", d.error, d.peak),
    }
}

/// One call: inputs without states, and the states before it.
struct Call<'a> {
    case: String,
    program: &'a str,
    inputs: Tensors,
    states: Tensors,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    if args.len < 2 {
        return Err(Failure::usage("--len must be at least 2"));
    }
    if args.against.is_some() && cfg!(not(feature = "oracle")) {
        let message = "--against: this ssmc is built without the feature `oracle`";
        return Err(Failure::new(Kind::Unsupported, message));
    }
    let compile = args.compile.to_run(&args.session);
    let mut job = Job::new(&args.model, &compile)?;
    let model = job.import()?;
    let compiled = job.compile(&model)?;
    let (artifact, _dir) = job.temporary(&compiled, &model)?;
    job.trace.write()?;
    let rtol = args.rtol.unwrap_or_else(|| compiled.rounding().max(1e-4));
    let tolerance = Tolerance { rtol, atol: args.atol };
    let mut verifier = Verifier {
        args,
        compiled: &compiled,
        compiler: &job.compiler,
        artifact: &artifact,
        tolerance,
        progress: &job.progress,
        compared: Vec::new(),
        layers: Vec::new(),
        culprit: None,
        nodes: Vec::new(),
    };
    job.progress.say("comparing");
    match (&args.reference, args.against) {
        (Some(path), _) => verifier.with_reference(path)?,
        (None, None) => verifier.with_interpreter()?,
        (None, Some(_)) => {}
    }
    #[cfg(feature = "oracle")]
    if let Some(Engine::Tract) = args.against {
        verifier.with_tract()?;
    }
    let found = Found {
        compared: verifier.compared,
        layers: verifier.layers,
        culprit: verifier.culprit,
        nodes: verifier.nodes,
    };
    drop(job);
    finish(args, &found, json)
}

impl Verifier<'_> {
    fn program(&self, name: &str) -> Outcome<&CompiledProgram> {
        let found = self.compiled.programs.iter().find(|p| p.name == name);
        found.ok_or_else(|| Failure::usage(format!("the model has no program {name}")))
    }

    fn entry(&self, name: &str) -> Outcome<&Program> {
        let found = self.artifact.manifest().programs.iter().find(|p| p.name == name);
        found.ok_or_else(|| Failure::usage(format!("the model has no program {name}")))
    }

    /// Every program against the interpreter, on random inputs; `step` continues `prefill`.
    fn with_interpreter(&mut self) -> Outcome {
        let programs: Vec<(&'static str, bool)> = self
            .compiled
            .programs
            .iter()
            .map(|p| Ok((p.name, self.entry(p.name)?.stateful)))
            .collect::<Outcome<_>>()?;
        let is_stateful = language::require_language_model(self.artifact.manifest()).is_ok();
        self.progress.expect(programs.len() + if is_stateful { 2 } else { 0 });
        let mut chain = Chain::default();
        for (name, stateful) in programs {
            self.progress.say(format!("comparing {name}"));
            let mut rng = Rng::new(self.args.seed);
            let manifest = self.artifact.manifest();
            let inputs = tensors::random(manifest, self.entry(name)?, 1, self.args.len, &mut rng)?;
            let call = Call { case: "random".to_owned(), program: name, inputs, states: Tensors::new() };
            if !stateful {
                self.stateless(&call, None)?;
            } else if is_stateful {
                self.stateful(call, &mut chain)?;
            } else {
                return Err(Failure::input(format!("program {name} has state, but is no prefill or step")));
            }
            self.progress.advance();
        }
        if is_stateful {
            self.sequences()?;
        }
        Ok(())
    }

    /// `forward` against recorded tensors.
    fn with_reference(&mut self, path: &Path) -> Outcome {
        let cases = cases(path)?;
        self.progress.expect(cases.len());
        for (case, inputs, outputs) in cases {
            self.progress.say(format!("comparing case {case}"));
            let entry = self.entry("forward")?;
            let is_input = |name: &str| entry.inputs.iter().any(|info| info.name == name);
            let is_output = |name: &str| entry.outputs.iter().any(|info| info.name == name);
            let given: Tensors = inputs.iter().filter(|(n, _)| is_input(n)).map(pair).collect();
            let expected: Tensors = outputs.iter().filter(|(n, _)| is_output(n)).map(pair).collect();
            if expected.is_empty() {
                let known: Vec<&str> = entry.outputs.iter().map(|info| info.name.as_str()).collect();
                let message =
                    format!("case {case}: no output is recorded, expected one of {}", known.join(", "));
                return Err(Failure::input(message).in_file(path));
            }
            let inputs = tensors::for_program(entry, &given).map_err(|f| f.in_file(path))?;
            let call = Call { case, program: "forward", inputs, states: Tensors::new() };
            self.stateless(&call, Some(expected))?;
            self.progress.advance();
        }
        Ok(())
    }

    fn stateless(&mut self, call: &Call<'_>, expected: Option<Tensors>) -> Outcome {
        let expected = match expected {
            Some(expected) => expected,
            None => self.truth(call)?,
        };
        let mut session = self.session(call)?;
        let found = run_stateless(&mut session, call)?;
        self.compare(call, &expected, &found);
        self.explain(call, &expected, &mut session, None)
    }

    /// A call that continues the state which the calls before it left, in the session and in the interpreter.
    fn stateful(&mut self, mut call: Call<'_>, chain: &mut Chain) -> Outcome {
        if chain.session.is_none() {
            chain.states = self.zero_states(call.program)?;
            let session = self.session(&call)?;
            let state = session.new_state(1)?;
            chain.session = Some((session, state));
        }
        call.states = std::mem::take(&mut chain.states);
        let expected = self.truth(&call)?;
        let states = keep(&expected, &self.program(call.program)?.states);
        if let Some((session, state)) = &mut chain.session {
            let before = state.clone();
            let found = run_stateful(session, state, &call)?;
            self.compare(&call, &expected, &found);
            let saved = saved_states(state)?;
            self.compare(&call, &states, &saved);
            self.explain(&call, &expected, session, Some(before))?;
        }
        chain.states = states;
        Ok(())
    }

    /// A session that is large enough for the call.
    fn session(&self, call: &Call<'_>) -> Outcome<Session> {
        let mut options = self.args.session.options(1, 1);
        tensors::fit(&mut options, self.artifact.manifest(), self.entry(call.program)?, &call.inputs);
        session::open(self.artifact, &options)
    }

    /// What the interpreter computes from the imported graph.
    fn truth(&self, call: &Call<'_>) -> Outcome<Tensors> {
        let program = self.program(call.program)?;
        let mut inputs = call.inputs.clone();
        inputs.extend(call.states.iter().map(pair));
        Ok(Interpreter::new(&program.imported, &program.imported_weights)
            .run(&inputs)
            .map_err(ssmc::Error::from)?)
    }

    fn zero_states(&self, name: &str) -> Outcome<Tensors> {
        let program = self.program(name)?;
        let graph = &program.imported;
        let symbols = self.artifact.manifest().symbols.iter();
        let batches = symbols.filter(|symbol| symbol.role() == SymbolRole::Batch);
        let one: Bindings = batches.map(|symbol| (Symbol::new(&symbol.name), 1)).collect();
        let mut states = Tensors::new();
        for state in &program.states {
            let Some(value) = graph.input(state) else { continue };
            let ty = graph.ty(value);
            let fault = |error: &dyn std::fmt::Display| Failure::input(format!("state {state}: {error}"));
            let mut shape = Vec::new();
            for dim in ty.shape.iter() {
                let extent = dim.eval(&one).map_err(|error| fault(&error))?;
                shape.push(usize::try_from(extent).unwrap_or(0));
            }
            states.insert(state.clone(), Tensor::zeros(ty.dtype, shape).map_err(|error| fault(&error))?);
        }
        Ok(states)
    }

    fn compare(&mut self, call: &Call<'_>, expected: &Tensors, found: &Tensors) {
        for (name, found) in found {
            let Some(expected) = expected.get(name) else { continue };
            let same_shape = expected.shape() == found.shape();
            let difference = same_shape.then(|| compare(&expected.to_f64(), &found.to_f64(), self.tolerance));
            self.compared.push(Compared {
                case: call.case.clone(),
                program: call.program.to_owned(),
                output: name.clone(),
                difference: difference.flatten(),
            });
        }
    }

    /// Compares the kernels of a call, if that is asked for or the call has failed; of the first one that has failed,
    /// finds what makes it wrong.
    fn explain(
        &mut self,
        call: &Call<'_>,
        expected: &Tensors,
        session: &mut Session,
        state: Option<State>,
    ) -> Outcome {
        let failed =
            self.compared.iter().any(|c| c.program == call.program && c.case == call.case && !c.passed());
        if !(failed || self.args.per_layer) {
            return Ok(());
        }
        let program = self.program(call.program)?;
        let found = layers::compare_layers(program, call, session, state.clone(), self.tolerance)?;
        if failed && self.culprit.is_none() {
            self.progress.say("looking for what is wrong");
            let first = found.iter().find(|layer| !layer.difference.passed());
            self.culprit = Some(self.culprit(call, expected, first, session, state)?);
        }
        self.layers.extend(found);
        Ok(())
    }
}

/// What runs of `prefill` and `step` leave to the next one.
#[derive(Default)]
struct Chain {
    session: Option<(Session, State)>,
    states: Tensors,
}

/// All comparisons.
struct Found {
    compared: Vec<Compared>,
    layers: Vec<layers::Layer>,
    culprit: Option<blame::Culprit>,
    nodes: Vec<NodeResult>,
}

/// Prints the comparisons; fails if one of them has.
fn finish(args: &Args, found: &Found, json: bool) -> Outcome {
    let Found { compared, layers, culprit, nodes } = found;
    let n_failed = compared.iter().filter(|c| !c.passed()).count();
    let first = layers.iter().find(|l| !l.difference.passed());
    let node = nodes.iter().find(|node| !node.passed());
    if json {
        let outputs: Vec<Value> = compared.iter().map(compared_json).collect();
        let all: Vec<Value> = layers.iter().map(layers::Layer::to_json).collect();
        print_json(
            "verify",
            json!({
                "passed": n_failed == 0, "outputs": outputs, "layers": all,
                "first_difference": first.map(layers::Layer::to_json),
                "culprit": culprit.as_ref().map(blame::Culprit::to_json),
                "nodes": nodes.iter().map(NodeResult::to_json).collect::<Vec<_>>(),
                "first_node": node.map(NodeResult::to_json),
            }),
        )?;
    } else {
        let mut text = table(&compared.iter().map(row).collect::<Vec<_>>());
        if args.per_layer {
            text.push_str("kernels\n");
            text.push_str(&table(&layers.iter().map(layers::Layer::row).collect::<Vec<_>>()));
            if !nodes.is_empty() {
                text.push_str("nodes\n");
                text.push_str(&table(&nodes.iter().map(NodeResult::row).collect::<Vec<_>>()));
            }
        }
        print(&text)?;
    }
    if n_failed == 0 {
        return Ok(());
    }
    let mut said = format!("{n_failed} of {} outputs differ", compared.len());
    if let Some(layer) = first {
        said += &format!("; the first kernel that differs: {}", layer.describe());
    }
    if let Some(node) = node {
        said += &format!("; the first node that differs: {}", node.describe());
    }
    if let Some(culprit) = culprit {
        said += &format!("; {culprit}");
    }
    Err(Failure::check(said))
}

fn pair((name, tensor): (&String, &Tensor)) -> (String, Tensor) {
    (name.clone(), tensor.clone())
}

fn keep(tensors: &Tensors, names: &[String]) -> Tensors {
    tensors.iter().filter(|(name, _)| names.contains(name)).map(pair).collect()
}

fn buffers(inputs: &Tensors) -> Outcome<Vec<(&str, Buffer)>> {
    inputs.iter().map(|(name, tensor)| Ok((name.as_str(), tensors::to_buffer(tensor)?))).collect()
}

fn run_stateless(session: &mut Session, call: &Call<'_>) -> Outcome<Tensors> {
    let buffers = buffers(&call.inputs)?;
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (*name, buffer.view())).collect();
    let outputs = session.run(call.program, &views)?;
    outputs.iter().map(|(name, buffer)| Ok((name.to_owned(), tensors::from_buffer(buffer)?))).collect()
}

fn run_stateful(session: &mut Session, state: &mut State, call: &Call<'_>) -> Outcome<Tensors> {
    let buffers = buffers(&call.inputs)?;
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (*name, buffer.view())).collect();
    let outputs = session.run_stateful(call.program, state, 1, &views)?;
    outputs.iter().map(|(name, buffer)| Ok((name.to_owned(), tensors::from_buffer(buffer)?))).collect()
}

fn saved_states(state: &State) -> Outcome<Tensors> {
    let tensors = state.tensors()?;
    tensors
        .into_iter()
        .map(|(name, view)| {
            let dtype = tensors::graph_dtype(view.dtype())?;
            let tensor = Tensor::from_bytes(dtype, view.dims(), view.bytes())
                .map_err(|error| Failure::input(error.to_string()))?;
            Ok((name.to_owned(), tensor))
        })
        .collect()
}

/// Name, inputs and outputs of every recorded case.
fn cases(path: &Path) -> Outcome<Vec<(String, Tensors, Tensors)>> {
    if !path.is_dir() {
        let all = tensors::read(path)?;
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(name, all.clone(), all)]);
    }
    let mut found = Vec::new();
    for i in 0.. {
        let file = |what: &str| path.join(format!("{what}_{i}.npz"));
        if !fs::exists(file("inputs")).map_err(|error| Failure::file(path, error))? {
            break;
        }
        found.push((i.to_string(), tensors::read(&file("inputs"))?, tensors::read(&file("outputs"))?));
    }
    if found.is_empty() {
        return Err(Failure::input(format!("{}: expected inputs_0.npz and outputs_0.npz", path.display())));
    }
    Ok(found)
}

fn row(c: &Compared) -> Vec<String> {
    let mut row = vec![
        if c.passed() { "ok" } else { "FAILED" }.to_owned(),
        c.case.clone(),
        c.program.clone(),
        c.output.clone(),
    ];
    match &c.difference {
        None => row.push("the shapes differ".to_owned()),
        Some(d) => {
            row.push(format!("error {:.2e} of {:.2e}", d.error, d.peak));
            row.push(format!("{:.3} of the tolerance", d.ratio));
        }
    }
    row
}

fn compared_json(c: &Compared) -> Value {
    json!({
        "case": c.case, "program": c.program, "output": c.output, "passed": c.passed(),
        "difference": c.difference.as_ref().map(Difference::to_json),
    })
}
