//! `ssmc bench`

use super::language;
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{bytes, print, print_json, table};
use crate::tensors;
use serde_json::{Value, json};
use ssmc::Rng;
use ssmc_artifact::Program;
use ssmc_runtime::{Artifact, LaunchProfile, Session, Tensor};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// Length of the sequence that is read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    len: usize,
    /// Number of single steps (language models)
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    steps: usize,
    /// Sequences at once
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// How often the whole sequence is read
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Leave out the table of kernels
    #[arg(long)]
    no_profile: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

const SEED: u64 = 1;

/// One program's measurements.
struct Measured {
    program: String,
    tokens_per_call: usize,
    times: Vec<Duration>,
    /// When the profiled call began.
    profiled_at: Instant,
    profile: Vec<LaunchProfile>,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    if args.len == 0 || args.batch == 0 || args.repetitions == 0 {
        return Err(Failure::usage("--len, --batch and --repetitions must be at least 1"));
    }
    let mut opened = model::open(&args.model, &args.compile)?;
    let artifact = &opened.artifact;
    let is_language_model = language::require_language_model(artifact.manifest()).is_ok();
    let names: &[&str] = if is_language_model { &["prefill", "step"] } else { &["forward"] };
    let mut options = args.session.options(args.batch, args.len);
    for name in names {
        let (program, inputs) = inputs(artifact, args, name)?;
        tensors::fit(&mut options, artifact.manifest(), program, &inputs);
    }
    let mut session = Session::new(artifact, &options)?;
    let mut measured = Vec::new();
    for name in names {
        measured.push(measure(&mut session, artifact, args, name)?);
    }
    for m in &measured {
        opened.trace.launches(&m.program, m.profiled_at, &m.profile);
    }
    opened.trace.write()?;
    if json {
        let programs: Vec<Value> = measured.iter().map(to_json).collect();
        return print_json(
            "bench",
            json!({
                "level": session.level(), "threads": session.n_threads(), "batch": args.batch, "len": args.len,
                "arena_bytes": session.arena_bytes(), "programs": programs,
            }),
        );
    }
    let (level, threads) = (session.level(), session.n_threads());
    let mut text = format!(
        "{level}, {threads} threads, batch {}, length {}, arena {}\n",
        args.batch,
        args.len,
        bytes(session.arena_bytes() as u64)
    );
    for m in &measured {
        text.push_str(&report(m));
    }
    print(&text)
}

fn inputs<'a>(artifact: &'a Artifact, args: &Args, name: &str) -> Outcome<(&'a Program, tensors::Tensors)> {
    let manifest = artifact.manifest();
    let program = manifest
        .programs
        .iter()
        .find(|p| p.name == name)
        .ok_or_else(|| Failure::input(format!("the artefact has no program {name}")))?;
    let inputs = tensors::random(manifest, program, args.batch, args.len, &mut Rng::new(SEED))?;
    Ok((program, inputs))
}

fn measure(session: &mut Session, artifact: &Artifact, args: &Args, name: &str) -> Outcome<Measured> {
    let (program, inputs) = inputs(artifact, args, name)?;
    let buffers: Vec<(&String, Tensor)> =
        inputs.iter().map(|(name, t)| Ok((name, tensors::to_buffer(t)?))).collect::<Outcome<_>>()?;
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (name.as_str(), buffer.view())).collect();
    let is_step = name == "step";
    let tokens = if is_step { 1 } else { args.len as u64 };
    let mut state = if program.stateful { Some(session.new_state(args.batch)?) } else { None };
    let mut call = |session: &mut Session| -> Outcome<Duration> {
        let start = Instant::now();
        match &mut state {
            Some(state) => session.run_stateful(name, state, tokens, &views)?,
            None => session.run(name, &views)?,
        };
        Ok(start.elapsed())
    };
    call(session)?;
    let n = if is_step { args.steps } else { args.repetitions };
    let times = (0..n).map(|_| call(session)).collect::<Outcome<Vec<_>>>()?;
    let profiled_at = Instant::now();
    let profile = if args.no_profile {
        Vec::new()
    } else {
        let state = state.as_mut().map(|state| (state, tokens));
        session.run_profiled(name, state, &views)?.1
    };
    let tokens_per_call = args.batch * tokens as usize;
    Ok(Measured { program: name.to_owned(), tokens_per_call, times, profiled_at, profile })
}

/// Seconds that `share` of the calls do not exceed.
fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let at = ((seconds.len() as f64 - 1.0) * share).round() as usize;
    seconds.get(at).copied().unwrap_or(0.0)
}

/// Time and work of all launches of a kernel.
#[derive(Default)]
struct Total {
    launches: usize,
    seconds: f64,
    flops: f64,
    bytes: f64,
}

/// By kernel, the slowest first.
fn totals(profile: &[LaunchProfile]) -> Vec<(String, Total)> {
    let mut by_kernel: BTreeMap<&str, Total> = BTreeMap::new();
    for launch in profile {
        let total = by_kernel.entry(&launch.kernel).or_default();
        total.launches += 1;
        total.seconds += launch.time.as_secs_f64();
        total.flops += launch.flops.unwrap_or(0) as f64;
        total.bytes += launch.bytes.unwrap_or(0) as f64;
    }
    let mut all: Vec<_> = by_kernel.into_iter().map(|(name, total)| (name.to_owned(), total)).collect();
    all.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds).then(a.0.cmp(&b.0)));
    all
}

fn report(m: &Measured) -> String {
    let (median, p99) = (quantile(&m.times, 0.5), quantile(&m.times, 0.99));
    let mut text = format!(
        "\n{}: {:.1} tokens/s, median {:.3} ms, p99 {:.3} ms over {} calls\n",
        m.program,
        m.tokens_per_call as f64 / median.max(1e-9),
        1e3 * median,
        1e3 * p99,
        m.times.len()
    );
    let all: f64 = m.profile.iter().map(|l| l.time.as_secs_f64()).sum();
    let mut rows = Vec::new();
    for (name, total) in totals(&m.profile) {
        let rate = |work: f64| work / total.seconds.max(1e-12) / 1e9;
        rows.push(vec![
            format!("  {name}"),
            format!("x{}", total.launches),
            format!("{:.3} ms", 1e3 * total.seconds),
            format!("{:.1} %", 100.0 * total.seconds / all.max(1e-12)),
            format!("{:.2} GFLOP/s", rate(total.flops)),
            format!("{:.2} GB/s", rate(total.bytes)),
        ]);
    }
    text.push_str(&table(&rows));
    text
}

fn to_json(m: &Measured) -> Value {
    let (median, p99) = (quantile(&m.times, 0.5), quantile(&m.times, 0.99));
    let kernels: Vec<Value> = totals(&m.profile)
        .into_iter()
        .map(|(name, t)| {
            json!({"kernel": name, "launches": t.launches, "seconds": t.seconds, "flops": t.flops, "bytes": t.bytes})
        })
        .collect();
    json!({
        "program": m.program, "tokens_per_call": m.tokens_per_call, "calls": m.times.len(),
        "median_seconds": median, "p99_seconds": p99,
        "tokens_per_second": m.tokens_per_call as f64 / median.max(1e-9), "kernels": kernels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_sorted_times() {
        let times: Vec<Duration> = [5, 1, 3, 2, 4].map(Duration::from_secs).to_vec();
        assert_eq!((quantile(&times, 0.5), quantile(&times, 0.99), quantile(&times, 0.0)), (3.0, 5.0, 1.0));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
