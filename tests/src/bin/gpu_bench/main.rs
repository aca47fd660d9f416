//! Times single kernels on the GPU of this machine and checks windows of their results:
//! `ssmc-gpu-bench [FILTER] [--repetitions N] [--arch ARCH] [--ptx FOLDER] [--large | --long]`; with a folder it only writes
//! the kernels there, with `--large` it takes tensors of more than 2^31 elements, with `--long` recurrences over 70,001
//! steps. `--grid` runs the grid of problems for every kernel instead ([`grid`]), `--sanitize` the same under
//! `compute-sanitizer`, `--fault` a kernel with a planted fault, which the error must name, `--load` measures how long the
//! kernels of the grid take to be ready from PTX, from machine code, and from machine code that the driver rejects.
//! Without an architecture the latest that the machine runs is taken.
//!
//! `cargo xtask bench gpu` builds and runs it. Inputs are made from a seed. Every launch is timed alone, by events of the
//! device around it with an empty second-level cache, and as one of a row of calls that follow each other and do not find
//! their inputs in that cache: that is its time in a model. Medians count; shares of the copy rate and operations per second
//! are of the latter, ratios to others of the former, as they were timed. The floor is the larger of bytes over the copy bandwidth measured
//! in the same run, and exponentials at 16 per clock and multiprocessor at the highest clock.

mod fault;
mod grid;
mod load;
mod rows;
mod window;

use rows::{Row, large_rows, long_rows, rows};
use ssmc_codegen::assemble::{ArtifactInput, Kernels, ProgramInput, dtype as buffer_type, write};
use ssmc_codegen::target::{GpuArch, GpuTarget, Target};
use ssmc_ir::{Model, Tensor, parse};
use ssmc_passes::partition::partition;
use ssmc_runtime::{Artifact, GpuFacts, Session, SessionOptions, Tensor as Buffer};
use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Exponentials of a multiprocessor in one clock.
const EXPONENTIALS: f64 = 16.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ssmc-gpu-bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// What is run.
enum Mode {
    Rows,
    Grid,
    Sanitize,
    Fault,
    Load,
}

/// Whether every window was right.
fn run(args: &[String]) -> Result<bool> {
    let mut filter = "";
    let mut repetitions = 20;
    let mut ptx = None;
    let mut arch = None;
    let mut all = rows();
    let mut mode = Mode::Rows;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repetitions" => repetitions = args.next().ok_or("--repetitions: no value")?.parse()?,
            "--arch" => arch = Some(args.next().ok_or("--arch: no architecture")?.clone()),
            "--large" => all = large_rows(),
            "--long" => all = long_rows(),
            "--grid" => mode = Mode::Grid,
            "--sanitize" => mode = Mode::Sanitize,
            "--fault" => mode = Mode::Fault,
            "--load" => mode = Mode::Load,
            "--ptx" => ptx = Some(args.next().ok_or("--ptx: no folder")?),
            _ => filter = arg,
        }
    }
    match mode {
        Mode::Rows => {}
        Mode::Grid => return grid::run(filter, arch.as_deref()),
        Mode::Sanitize => return grid::sanitize(filter),
        Mode::Fault => return fault::run(),
        Mode::Load => return load::run(),
    }
    let chosen: Vec<Row> = all.into_iter().filter(|row| row.name.contains(filter)).collect();
    if let Some(folder) = ptx {
        for row in &chosen {
            for (level, arch) in GpuArch::ALL.into_iter().enumerate() {
                let file = format!("{folder}/{}.{}.ptx", row.name.replace(' ', "_"), arch.name());
                std::fs::write(file, text(row, level)?)?;
            }
        }
        return Ok(true);
    }
    let mut facts: Option<GpuFacts> = None;
    let mut all_right = true;
    for row in chosen {
        let mut session = session(&row, arch.as_deref())?;
        let facts = match &facts {
            Some(facts) => facts,
            None => {
                let found = session.gpu_facts()?.ok_or("no GPU is in use")?;
                println!(
                    "{}: copy {:.0} GB/s, {} multiprocessors, at most {:.0} MHz\n",
                    found.name,
                    found.copy_rate / 1e9,
                    found.multiprocessors,
                    found.clock / 1e6
                );
                println!(
                    "| work | alone us | us | floor us | of copy | TFLOP/s | must us | aim us | peer us | ours / peer | error |"
                );
                println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
                facts.insert(found)
            }
        };
        all_right &= measure(&row, &mut session, facts, repetitions)?;
    }
    Ok(all_right)
}

fn kernels(row: &Row) -> Result<Kernels> {
    let graph = parse(&row.graph()).map_err(|faults| format!("{}: {faults:?}", row.name))?;
    let model = Model { graph, ..Model::default() };
    let plan = partition(&model.graph)?;
    let program =
        ProgramInput { name: "f", plan: &plan, gpu_plan: None, weights: &model.weights, states: &[] };
    let targets = GpuArch::ALL.map(|arch| Target::Gpu(GpuTarget::of_arch(arch)));
    Ok(Kernels::lower(&[program], &targets)?)
}

/// The PTX of a row's kernels for an architecture.
fn text(row: &Row, level: usize) -> Result<String> {
    let kernels = kernels(row)?;
    let legal = ssmc_codegen::assemble::legal(&kernels, level)?;
    Ok(ssmc_codegen::ptx::module(&legal, &GpuTarget::of_arch(GpuArch::ALL[level]))?)
}

fn session(row: &Row, arch: Option<&str>) -> Result<Session> {
    let kernels = kernels(row)?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("row.ssmc");
    write(&path, &kernels, ArtifactInput::default(), &mut |_, _, _| {})?;
    let artifact = Artifact::open(&path)?;
    let size = |symbol: &str| row.sizes.get(symbol).copied().unwrap_or(1);
    let symbols = &artifact.manifest().symbols;
    let maxima = symbols.iter().map(|symbol| (symbol.name.clone(), size(&symbol.name))).collect();
    let options = SessionOptions {
        max_batch: size("batch"),
        max_len: size("len"),
        threads: 1,
        rollback_depth: 1,
        maxima,
        level: arch.map(str::to_owned),
        ..SessionOptions::default()
    };
    Ok(Session::new(&artifact, &options)?)
}

fn measure(row: &Row, session: &mut Session, facts: &GpuFacts, repetitions: usize) -> Result<bool> {
    let mut buffers = Vec::new();
    for (seed, input) in row.inputs.iter().enumerate() {
        let dims: Vec<usize> = input.axes.iter().map(|axis| row.extent(axis)).collect();
        let dtype = row.dtype(input);
        let bytes = window::noise(seed as u64 + 1, dims.iter().product(), (input, dtype))?;
        buffers.push((input.name, Buffer::from_bytes(buffer_type(dtype), &dims, &bytes)?));
    }
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (*name, buffer.view())).collect();
    let outputs = session.run("f", &views)?;
    let output = outputs.get("y").ok_or("no output y")?;
    let error = window::error(row, &buffers, output)?;
    let profile = session.measure("f", None, &views, repetitions)?;
    let alone: f64 = profile.iter().map(|launch| launch.time.as_secs_f64()).sum();
    let in_turn = session.measure_calls("f", &views, repetitions)?.ok_or("no GPU is in use")?;
    let seconds = in_turn.as_secs_f64();

    let bytes = row.bytes();
    let floor = (bytes / facts.copy_rate)
        .max(row.exponentials() / EXPONENTIALS / f64::from(facts.multiprocessors) / facts.clock);
    let or_dash = |us: f64| if us > 0.0 { format!("{us:.1}") } else { "-".to_owned() };
    // Others are timed as a launch alone is.
    let ratio = if row.peer > 0.0 { format!("{:.2}", 1e6 * alone / row.peer) } else { "-".to_owned() };
    let is_right = error <= row.tolerance;
    println!(
        "| {} | {:.1} | {:.1} | {:.1} | {:.0} % | {:.1} | {} | {} | {} | {ratio} | {error:.1e}{} |",
        row.name,
        1e6 * alone,
        1e6 * seconds,
        1e6 * floor,
        100.0 * bytes / seconds / facts.copy_rate,
        row.flops() / seconds / 1e12,
        or_dash(row.must),
        or_dash(row.aim),
        or_dash(row.peer),
        if is_right { "" } else { " WRONG" }
    );
    Ok(is_right)
}

/// Named tensors of the graph interpreter.
pub(crate) type Tensors = BTreeMap<String, Tensor>;
