//! MODEL arguments: an ONNX file, a model folder, or an artefact.

use crate::failure::{Failure, Outcome};
use crate::options::CompileArgs;
use crate::output::{Progress, note};
use crate::trace::Trace;
use ssmc::{Compiled, Compiler, Reached};
use ssmc_frontend::shapes::InputShape;
use ssmc_ir::{Model, Stage};
use ssmc_runtime::Artifact;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tempfile::TempDir;

/// Whether the file begins as artefacts do.
pub(crate) fn is_artifact(path: &Path) -> bool {
    let mut magic = [0u8; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    let named_so = path.extension().is_some_and(|extension| extension == "ssmc");
    path.is_file() && (named_so || (read.is_ok() && magic == ssmc_artifact::MAGIC))
}

/// Imports a model and shows its warnings.
pub(crate) fn import(path: &Path, input_shapes: &[InputShape]) -> Outcome<Model> {
    if is_artifact(path) {
        return Err(Failure::usage(format!("{}: expected a model, found an artefact", path.display())));
    }
    let model = ssmc::import_with(path, input_shapes).map_err(|error| Failure::from(error).in_file(path))?;
    for warning in &model.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(model)
}

/// The name of a model by its path.
pub(crate) fn name(path: &Path) -> String {
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let of = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    match of(&canonical) {
        Some(stem) if stem == "model" && canonical.is_file() => {
            canonical.parent().and_then(of).unwrap_or(stem)
        }
        Some(stem) => stem,
        None => "model".to_owned(),
    }
}

/// An artefact, and the folder that it lies in if it was compiled for this command alone.
pub(crate) struct Opened {
    pub(crate) artifact: Artifact,
    pub(crate) model: Option<Model>,
    pub(crate) trace: Trace,
    _dir: Option<TempDir>,
}

/// Opens an artefact, or compiles a model to a temporary one.
pub(crate) fn open(path: &Path, options: &CompileArgs) -> Outcome<Opened> {
    if is_artifact(path) {
        let artifact = Artifact::open(path).map_err(|error| Failure::from(error).in_file(path))?;
        let trace = Trace::new(options.trace.as_deref());
        return Ok(Opened { artifact, model: None, trace, _dir: None });
    }
    let mut job = Job::new(path, options)?;
    let model = job.import()?;
    let compiled = job.compile(&model)?;
    let (artifact, dir) = job.temporary(&compiled, &model)?;
    job.trace.write()?;
    Ok(Opened { artifact, model: Some(model), trace: job.trace, _dir: Some(dir) })
}

/// Compiling one model, with its progress and trace.
pub(crate) struct Job<'a> {
    pub(crate) path: &'a Path,
    pub(crate) compiler: Compiler,
    pub(crate) progress: Progress,
    pub(crate) trace: Trace,
    args: &'a CompileArgs,
}

impl<'a> Job<'a> {
    /// Reads the arguments.
    pub(crate) fn new(path: &'a Path, args: &'a CompileArgs) -> Outcome<Self> {
        let compiler = Compiler::new(args.options()?);
        let trace = Trace::new(args.trace.as_deref());
        Ok(Self { path, compiler, progress: Progress::new(), trace, args })
    }

    /// Imports the model and puts its weights into the format that was asked for.
    pub(crate) fn import(&self) -> Outcome<Model> {
        self.progress.say("importing");
        let mut model = import(self.path, &self.args.input_shapes)?;
        if let Some(format) = self.args.weights {
            self.progress.say("storing weights");
            let done = ssmc::store_weights(&mut model, format);
            done.map_err(|error| Failure::from(error).in_file(self.path))?;
        }
        Ok(model)
    }

    /// Runs every stage up to kernels.
    pub(crate) fn compile(&mut self, model: &Model) -> Outcome<Compiled> {
        let compiled = self.compile_until(model, Stage::Kernel, &mut |_| {})?;
        Ok(compiled.expect("nothing stops before stage `kernel`"))
    }

    /// Runs the stages up to `last` and shows each of them.
    pub(crate) fn compile_until(
        &mut self,
        model: &Model,
        last: Stage,
        observe: &mut dyn FnMut(Reached<'_>),
    ) -> Outcome<Option<Compiled>> {
        const STAGES: [Stage; 5] =
            [Stage::Imported, Stage::Canonical, Stage::Raised, Stage::Rewritten, Stage::Partitioned];
        let (progress, trace, args) = (&self.progress, &mut self.trace, self.args);
        let shown = |reached: Reached<'_>| {
            match reached {
                Reached::Programs(programs) => {
                    let stages = STAGES.iter().filter(|stage| **stage <= last).count();
                    progress.expect(programs.len() * stages + usize::from(last >= Stage::Kernel));
                }
                Reached::Graph { program, stage, .. } => {
                    progress.advance();
                    progress.say(format!("{program}: {stage} is reached"));
                }
                Reached::Plan { program, .. } => {
                    progress.advance();
                    progress.say(format!("{program}: {} is reached", Stage::Partitioned));
                }
                Reached::Kernels(kernels) => {
                    progress.advance();
                    progress.say(format!("{} kernels", kernels.kernels.len()));
                }
                Reached::Done(span) => trace.span(span),
                Reached::Streaming(facts) => {
                    for kernel in &facts.kernels {
                        note(&format!("frozen kernel at {kernel}"));
                    }
                }
                Reached::Counted(counter) if args.bisect_limit.is_some() => {
                    let last = counter.last().map_or_else(|| "none".to_owned(), |step| step.to_string());
                    note(&format!("bisect: {} steps taken, the last: {last}", counter.taken()));
                }
                Reached::Counted(_) | Reached::GpuPlan { .. } => {}
            }
            observe(reached);
        };
        let mut shown = shown;
        let compiled = self.compiler.compile_until(model, last, &mut shown);
        compiled.map_err(|error| Failure::from(error).in_file(self.path))
    }

    fn n_gpus(&self, compiled: &Compiled) -> usize {
        compiled.kernels.targets.iter().filter(|target| target.as_gpu().is_some()).count()
    }

    /// Generates code and writes the artefact; its length.
    pub(crate) fn write(
        &mut self,
        compiled: &Compiled,
        output: &Path,
        options: ssmc::WriteOptions,
    ) -> Outcome<u64> {
        // Golden vectors, the file, and two for each level, with a cubin three.
        let n_cubins = if options.assembler.is_some() { self.n_gpus(compiled) } else { 0 };
        self.progress.expect(2 + 2 * compiled.kernels.targets.len() + n_cubins);
        self.progress.say("generating code");
        let (progress, trace) = (&self.progress, &mut self.trace);
        let written = compiled.write_observed(output, options, &mut |span| {
            progress.advance();
            progress.say(format!("{} done", span.name));
            trace.span(span);
        });
        written.map_err(|error| Failure::from(error).in_file(output))
    }

    /// Writes what was compiled to a temporary folder and opens it.
    pub(crate) fn temporary(&mut self, compiled: &Compiled, model: &Model) -> Outcome<(Artifact, TempDir)> {
        let dir = tempfile::tempdir().map_err(|error| Failure::file(&std::env::temp_dir(), error))?;
        let file = dir.path().join("model.ssmc");
        let options = ssmc::WriteOptions {
            golden: false,
            assembler: self.args.assembler(false),
            ..ssmc::WriteOptions::of(model, name(self.path))
        };
        self.write(compiled, &file, options)?;
        Ok((Artifact::open(&file)?, dir))
    }
}
