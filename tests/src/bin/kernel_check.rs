//! Runs an artefact and repeats every launch in the kernel interpreter: `ssmc-kernel-check ARTEFACT TEXTS INPUTS.npz`.
//!
//! TEXTS is the folder that `ssmc compile --dump-stages` wrote. Programs of language models with state run too: the
//! first tokens of `input_ids` go through `prefill`, the next one through `step`. Prints how many launches were
//! compared; ends with 1 at the first difference.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use ssmc_artifact::SymbolRole;
use ssmc_codegen::kernel::Kernel;
use ssmc_codegen::kernel::replay::{Fault, Memory, check};
use ssmc_codegen::kernel::text::parse;
use ssmc_npz::{Array, Dtype};
use ssmc_runtime::{Artifact, DType, LaunchObserver, LaunchView, Session, SessionOptions, Tensor, TensorRef};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [artefact, texts, inputs] = &args[..] else {
        eprintln!("usage: ssmc-kernel-check ARTEFACT TEXTS INPUTS.npz");
        return ExitCode::from(2);
    };
    match run(Path::new(artefact), Path::new(texts), Path::new(inputs)) {
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

fn run(artefact: &Path, texts: &Path, inputs: &Path) -> Result<usize, Box<dyn Error>> {
    let artifact = Artifact::open(artefact)?;
    let inputs = ssmc_npz::read(inputs)?;
    let mut session = Session::new(&artifact, &options(&artifact, &inputs))?;
    let kernels = kernels(&artifact, &texts.join(session.level()))?;

    let given = session.program("forward")?.inputs.iter().map(|info| info.name.clone());
    let tensors = given
        .map(|name| {
            let array = inputs.get(&name).ok_or_else(|| format!("no input {name}"))?;
            Ok((name, tensor(array)?))
        })
        .collect::<Result<Vec<(String, Tensor)>, Box<dyn Error>>>()?;
    let mut observer = Observer::new(&artifact, &session, &kernels, "forward")?;
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
            let mut observer = Observer::new(&artifact, &session, &kernels, program)?;
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

/// Repeats every launch that it sees.
struct Observer<'a> {
    kernels: Vec<&'a Kernel>,
    before: Option<Memory>,
    launches: usize,
    fault: Option<(usize, Fault)>,
}

impl<'a> Observer<'a> {
    fn new(
        artifact: &Artifact,
        session: &Session,
        kernels: &'a [Kernel],
        program: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let known = artifact.manifest().kernels.len();
        let launches = &session.program(program)?.launches;
        let kernels = launches
            .iter()
            .map(|launch| kernels.get(launch.kernel as usize).ok_or(format!("{known} kernels")))
            .collect::<Result<_, _>>()?;
        Ok(Self { kernels, before: None, launches: 0, fault: None })
    }

    fn finish(self) -> Result<usize, Box<dyn Error>> {
        match self.fault {
            Some((launch, fault)) => Err(format!("launch {launch}: {fault}").into()),
            None => Ok(self.launches),
        }
    }
}

impl LaunchObserver for Observer<'_> {
    fn before(&mut self, launch: &LaunchView<'_>) {
        self.before = self.fault.is_none().then(|| Memory::copy(&launch.args));
    }

    fn after(&mut self, launch: &LaunchView<'_>) {
        let Some(before) = self.before.take() else { return };
        let after = Memory::copy(&launch.args);
        let kernel = self.kernels[launch.launch];
        match check(kernel, launch.grid, launch.dims, &before, &after) {
            Ok(()) => self.launches += 1,
            Err(fault) => self.fault = Some((launch.launch, fault)),
        }
    }
}
