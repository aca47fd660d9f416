//! Runs an artefact and repeats every launch in the kernel interpreter:
//! `ssmc-kernel-check ARTEFACT TEXTS INPUTS.npz [LEVEL]`.
//!
//! TEXTS is the folder that `ssmc compile --dump-stages` wrote. Programs of language models with state run too: the
//! first tokens of `input_ids` go through `prefill`, the next one through `step`. Prints how many launches were
//! compared; ends with 1 at the first difference.
//!
//! Of a LEVEL of an architecture that this machine is not of, the code of each launch runs under an emulator, on what
//! the machine's own level left in memory.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use ssmc_artifact::{ArtifactReader, NO_ENTRY, SymbolRole};
use ssmc_codegen::emulate::Emulator;
use ssmc_codegen::kernel::Kernel;
use ssmc_codegen::kernel::replay::{Memory, check};
use ssmc_codegen::kernel::text::parse;
use ssmc_codegen::target::{CpuLevel, Target};
use ssmc_npz::{Array, Dtype};
use ssmc_runtime::{Artifact, DType, LaunchObserver, LaunchView, Session, SessionOptions, Tensor, TensorRef};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (files, level) = args.split_at(args.len().min(3));
    let ([artefact, texts, inputs], [] | [_]) = (files, level) else {
        eprintln!("usage: ssmc-kernel-check ARTEFACT TEXTS INPUTS.npz [LEVEL]");
        return ExitCode::from(2);
    };
    let level = level.first().map(String::as_str);
    match run(Path::new(artefact), Path::new(texts), Path::new(inputs), level) {
        Ok(launches) => {
            println!("{launches} launches");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ssmc-kernel-check: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(artefact: &Path, texts: &Path, inputs: &Path, level: Option<&str>) -> Result<usize, Box<dyn Error>> {
    let artifact = Artifact::open(artefact)?;
    let inputs = ssmc_npz::read(inputs)?;
    let mut options = options(&artifact, &inputs);
    let mut emulated = level.map(|level| Emulated::start(artefact, level)).transpose()?.flatten();
    if emulated.is_none() {
        options.level = level.map(str::to_owned);
    }
    let mut session = Session::new(&artifact, &options)?;
    let kernels = kernels(&artifact, &texts.join(level.unwrap_or(session.level())))?;

    let given = session.program("forward")?.inputs.iter().map(|info| info.name.clone());
    let tensors = given
        .map(|name| {
            let array = inputs.get(&name).ok_or_else(|| format!("no input {name}"))?;
            Ok((name, tensor(array)?))
        })
        .collect::<Result<Vec<(String, Tensor)>, Box<dyn Error>>>()?;
    let mut observer = Observer::new(&session, &kernels, &mut emulated, "forward")?;
    let views: Vec<(&str, TensorRef<'_>)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    session.run_observed("forward", None, &views, &mut observer)?;
    let mut launches = observer.finish()?;

    if session.program("prefill").is_ok() && session.program("step").is_ok() {
        let ids = inputs.get("input_ids").ok_or("no input input_ids")?;
        let [batch, len] = ids.shape[..] else { return Err("input_ids: expected [batch, seq_len]".into()) };
        let mut state = session.new_state(batch)?;
        for (program, columns) in [("prefill", 0..len - 1), ("step", len - 1..len)] {
            let tokens = tensor(&select(ids, columns.clone()))?;
            let mut observer = Observer::new(&session, &kernels, &mut emulated, program)?;
            let state = Some((&mut state, columns.len() as u64));
            session.run_observed(program, state, &[("input_ids", tokens.view())], &mut observer)?;
            launches += observer.finish()?;
        }
    }
    Ok(launches)
}

/// A session that fits the inputs of `forward`.
fn options(artifact: &Artifact, inputs: &BTreeMap<String, Array>) -> SessionOptions {
    let manifest = artifact.manifest();
    let mut options = SessionOptions { max_batch: 1, max_len: 1, ..SessionOptions::default() };
    let programs = manifest.programs.iter().filter(|program| program.name == "forward");
    for info in programs.flat_map(|program| &program.inputs) {
        let extents = inputs.get(&info.name).map_or(&[][..], |array| &array.shape);
        for (expr, &extent) in info.shape.iter().zip(extents) {
            let Some(symbol) = expr.as_symbol().and_then(|index| manifest.symbols.get(index)) else {
                continue;
            };
            match symbol.role() {
                SymbolRole::Batch => options.max_batch = options.max_batch.max(extent),
                SymbolRole::SeqLen => options.max_len = options.max_len.max(extent),
                SymbolRole::Other => options.maxima.push((symbol.name.clone(), extent)),
            }
        }
    }
    options
}

/// The kernels as they were emitted, in the order of the manifest.
fn kernels(artifact: &Artifact, folder: &Path) -> Result<Vec<Kernel>, Box<dyn Error>> {
    let read = |name: &str| -> Result<Kernel, Box<dyn Error>> {
        let path = folder.join(format!("{name}.legal.kernel"));
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(parse(&text).map_err(|error| format!("{}:{error}", path.display()))?)
    };
    artifact.manifest().kernels.iter().map(|kernel| read(&kernel.name)).collect()
}

fn tensor(array: &Array) -> Result<Tensor, Box<dyn Error>> {
    let dtype = match array.dtype {
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::Bf16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::Bool => DType::Bool,
        other => return Err(format!("inputs of {other:?} are not taken").into()),
    };
    Ok(Tensor::from_bytes(dtype, &array.shape, &array.bytes)?)
}

/// Some columns of a matrix.
fn select(array: &Array, columns: std::ops::Range<usize>) -> Array {
    let size = array.dtype.size();
    let row = array.shape[1] * size;
    let rows = array.bytes.chunks_exact(row).map(|row| &row[columns.start * size..columns.end * size]);
    Array {
        dtype: array.dtype,
        shape: vec![array.shape[0], columns.len()],
        bytes: rows.flatten().copied().collect(),
    }
}

/// The code of a level that the machine does not run.
struct Emulated {
    emulator: Emulator,
    /// Where each kernel of the manifest begins.
    entries: Vec<u64>,
}

impl Emulated {
    /// None if the level is of this machine's architecture.
    fn start(artefact: &Path, name: &str) -> Result<Option<Self>, Box<dyn Error>> {
        let Ok(Target::Cpu(target)) = name.parse::<Target>() else {
            return Err(format!("expected a CPU level, found {name}").into());
        };
        let level: CpuLevel = target.level;
        if level.arch().name() == std::env::consts::ARCH {
            return Ok(None);
        }
        let reader = ArtifactReader::open(fs::read(artefact)?)?;
        let manifest = reader.manifest();
        let index = manifest.levels.iter().position(|known| known.name == name);
        let index = index.ok_or_else(|| format!("{name} is no level of {}", artefact.display()))?;
        let code = reader.code(index as u32).ok_or("the level has no code")?;
        let mut emulator = Emulator::start(level)?;
        emulator.load(code)?;
        let entries = manifest.kernels.iter().map(|kernel| kernel.entries[index]).collect();
        Ok(Some(Self { emulator, entries }))
    }

    fn run(&mut self, kernel: usize, launch: &LaunchView<'_>, before: &Memory) -> Result<Memory, String> {
        let entry = self.entries[kernel];
        if entry == NO_ENTRY {
            return Err(format!("kernel {kernel} has no code"));
        }
        let blocks = 0..launch.grid;
        let after =
            before.after(|buffers, args| self.emulator.run(entry, buffers, args, launch.dims, blocks));
        after.map_err(|error| error.to_string())
    }
}

/// Repeats every launch that it sees.
struct Observer<'a> {
    /// The kernel of each launch, and its place in the manifest.
    kernels: Vec<(usize, &'a Kernel)>,
    emulated: &'a mut Option<Emulated>,
    before: Option<Memory>,
    launches: usize,
    fault: Option<String>,
}

impl<'a> Observer<'a> {
    fn new(
        session: &Session,
        kernels: &'a [Kernel],
        emulated: &'a mut Option<Emulated>,
        program: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let launches = &session.program(program)?.launches;
        let kernels = launches
            .iter()
            .map(|launch| {
                let index = launch.kernel as usize;
                Ok((index, kernels.get(index).ok_or_else(|| format!("{} kernels", kernels.len()))?))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { kernels, emulated, before: None, launches: 0, fault: None })
    }

    fn finish(self) -> Result<usize, Box<dyn Error>> {
        match self.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(self.launches),
        }
    }

    /// What the launch left, here or on the emulated machine, against the interpreter.
    fn compare(&mut self, launch: &LaunchView<'_>, before: &Memory) -> Result<(), String> {
        let (index, kernel) = self.kernels[launch.launch];
        let after = match self.emulated {
            Some(emulated) => emulated.run(index, launch, before)?,
            None => Memory::copy(&launch.args),
        };
        check(kernel, launch.grid, launch.dims, before, &after).map_err(|fault| fault.to_string())
    }
}

impl LaunchObserver for Observer<'_> {
    fn before(&mut self, launch: &LaunchView<'_>) {
        self.before = self.fault.is_none().then(|| Memory::copy(&launch.args));
    }

    fn after(&mut self, launch: &LaunchView<'_>) {
        let Some(before) = self.before.take() else { return };
        match self.compare(launch, &before) {
            Ok(()) => self.launches += 1,
            Err(fault) => self.fault = Some(format!("launch {}: {fault}", launch.launch)),
        }
    }
}
