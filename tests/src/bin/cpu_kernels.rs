//! Times single kernels on the CPU of this machine and checks parts of their results: `ssmc-cpu-kernels
//! scan|product THREADS`.
//!
//! `cargo xtask bench cpu` builds and runs it. Inputs are made from a seed. It prints the name, the seconds of the fastest
//! of several calls and the error over the peak, separated by tabs; if that is too large it ends with 1. Kernels are those of the best level that the machine has.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use ssmc_codegen::assemble::{ArtifactInput, Kernels, ProgramInput, write};
use ssmc_codegen::target::{CpuTarget, Target};
use ssmc_ir::{Model, TensorType, Weight, Weights, parse};
use ssmc_passes::partition::partition;
use ssmc_runtime::{Artifact, DType, Session, SessionOptions, Tensor as Buffer};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Steps, channels and states of the scan.
const LEN: usize = 2048;
const CHANNELS: usize = 1536;
const STATES: usize = 16;
/// Rows, inputs and columns of the product.
const SIZE: usize = 2048;
/// Calls of which the fastest counts, after one to warm up.
const CALLS: usize = 7;
/// Most error over the peak.
const TOLERANCE: f64 = 1e-4;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (work, threads): (fn(usize) -> Result<(f64, f64)>, _) = match words[..] {
        ["scan", threads] => (scan, threads),
        ["product", threads] => (product, threads),
        _ => return usage(),
    };
    let Ok(threads) = threads.parse() else { return usage() };
    match work(threads) {
        Ok((seconds, error)) => {
            println!("{}\t{seconds}\t{error}", words[0]);
            if error <= TOLERANCE { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("ssmc-cpu-kernels: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: ssmc-cpu-kernels scan|product THREADS");
    ExitCode::from(2)
}

/// Numbers from `low` to `high`.
fn noise(seed: u64, n: usize, (low, high): (f64, f64)) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n).map(|_| (low + (high - low) * next()) as f32).collect()
}

/// A session for the graph at length [`LEN`].
fn session(graph: &str, weights: Weights, threads: usize) -> Result<Session> {
    let graph = parse(graph).map_err(|faults| format!("{faults:?}"))?;
    let model = Model { graph, weights, ..Model::default() };
    let plan = partition(&model.graph)?;
    let program =
        ProgramInput { name: "f", plan: &plan, gpu_plan: None, weights: &model.weights, states: &[] };
    let kernels = Kernels::lower(&[program], &[Target::Cpu(CpuTarget::native()?)])?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("kernel.ssmc");
    write(&path, &kernels, ArtifactInput::default(), &mut |_, _, _| {})?;
    let artifact = Artifact::open(&path)?;
    let extent = |symbol: &str| if symbol == "len" { LEN } else { 1 };
    let symbols = &artifact.manifest().symbols;
    let maxima = symbols.iter().map(|symbol| (symbol.name.clone(), extent(&symbol.name))).collect();
    let options = SessionOptions { max_batch: 1, max_len: LEN, threads, maxima, ..SessionOptions::default() };
    Ok(Session::new(&artifact, &options)?)
}

/// Seconds of the fastest call, and the output `y` of the last one.
fn time(session: &mut Session, inputs: &[(&str, Vec<usize>, &[f32])]) -> Result<(f64, Vec<f32>)> {
    let buffers: Vec<(&str, Buffer)> = inputs
        .iter()
        .map(|(name, dims, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            Ok((*name, Buffer::from_bytes(DType::F32, dims, &bytes)?))
        })
        .collect::<Result<_>>()?;
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (*name, buffer.view())).collect();
    // The outputs' own memory: that of the first call, written again by each.
    let outputs = session.run("f", &views)?.into_vec();
    let (_, mut y) = outputs.into_iter().find(|(name, _)| name == "y").ok_or("no output y")?;
    let mut seconds = f64::INFINITY;
    for _ in 0..CALLS {
        let start = Instant::now();
        session.run_into("f", &views, &mut [("y", y.view_mut())])?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    Ok((seconds, y.as_slice::<f32>().ok_or("y is not of f32")?.to_vec()))
}

/// The selective scan with step sizes through softplus, skip and gate.
fn scan(threads: usize) -> Result<(f64, f64)> {
    let (e, n) = (CHANNELS, STATES);
    let steps = format!("f32[batch, len, 1, {e}]");
    let pairs = format!("f32[batch, len, 1, {n}]");
    let graph = format!(
        "func @scan(%x: {steps}, %dt: {steps}, %a: f32[1, {e}, {n}], %b: {pairs}, %c: {pairs}, %d: f32[1, {e}], \
         %z: {steps}, %bias: f32[1, {e}]) {{\n  %y, %h = ssm.selective_scan %x, %dt, %a, %b, %c, %d, %z, %bias \
         {{dt_softplus=true}} : {steps}, f32[batch, 1, {e}, {n}]\n  return %y \"y\"\n}}"
    );
    let mut session = session(&graph, Weights::new(), threads)?;
    let unit = (-1.0, 1.0);
    let [x, dt, z] = [1, 2, 3].map(|seed| noise(seed, LEN * e, unit));
    let [b, c] = [4, 5].map(|seed| noise(seed, LEN * n, unit));
    let (a, d, bias) = (noise(6, e * n, (-4.0, -0.1)), noise(7, e, unit), noise(8, e, (-5.0, -1.0)));
    let (in_steps, in_pairs) = (vec![1, LEN, 1, e], vec![1, LEN, 1, n]);
    let (seconds, y) = time(
        &mut session,
        &[
            ("x", in_steps.clone(), &x),
            ("dt", in_steps.clone(), &dt),
            ("a", vec![1, e, n], &a),
            ("b", in_pairs.clone(), &b),
            ("c", in_pairs, &c),
            ("d", vec![1, e], &d),
            ("z", in_steps, &z),
            ("bias", vec![1, e], &bias),
        ],
    )?;
    let (mut error, mut peak) = (0f64, 0f64);
    for channel in [0, e / 2, e - 1] {
        let mut h = vec![0f64; n];
        for t in 0..LEN {
            let at = t * e + channel;
            let dt = (f64::from(dt[at]) + f64::from(bias[channel])).exp().ln_1p();
            let mut expected = f64::from(d[channel]) * f64::from(x[at]);
            for (s, h) in h.iter_mut().enumerate() {
                *h = (dt * f64::from(a[channel * n + s])).exp() * *h
                    + dt * f64::from(x[at]) * f64::from(b[t * n + s]);
                expected += *h * f64::from(c[t * n + s]);
            }
            let gate = f64::from(z[at]);
            expected *= gate / (1.0 + (-gate).exp());
            error = error.max((f64::from(y[at]) - expected).abs());
            peak = peak.max(expected.abs());
        }
    }
    Ok((seconds, error / peak))
}

/// A matrix of [`SIZE`] rows times a weight of as many columns.
fn product(threads: usize) -> Result<(f64, f64)> {
    let n = SIZE;
    let graph = format!(
        "func @product(%x: f32[{n}, {n}]) {{\n  %w = weight {{name=\"w\", shape=[{n}, {n}]}} : f32[{n}, {n}]\n  \
         %y = contract[mk,nk->mn] %x, %w : f32[{n}, {n}]\n  return %y \"y\"\n}}"
    );
    let (x, w) = (noise(1, n * n, (-1.0, 1.0)), noise(2, n * n, (-1.0, 1.0)));
    let bytes: Vec<u8> = w.iter().flat_map(|x| x.to_le_bytes()).collect();
    let ty = TensorType::new(ssmc_ir::DType::F32, [n as i64, n as i64]);
    let mut weights = Weights::new();
    weights.insert("w", Weight { ty, bytes: bytes.into() });
    let mut session = session(&graph, weights, threads)?;
    let (seconds, y) = time(&mut session, &[("x", vec![n, n], &x)])?;
    let (mut error, mut peak) = (0f64, 0f64);
    for row in [0, n / 2, n - 1] {
        for column in 0..n {
            let pairs = x[row * n..][..n].iter().zip(&w[column * n..][..n]);
            let expected: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            error = error.max((f64::from(y[row * n + column]) - expected).abs());
            peak = peak.max(expected.abs());
        }
    }
    Ok((seconds, error / peak))
}
