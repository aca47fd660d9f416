//! `ssmc bench`

use super::workload::{self, Profile, Workload, WorkloadArgs};
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{bytes, print, print_json};
use crate::session;
use serde_json::{Value, json};
use ssmc_runtime::{Artifact, MachineRates, Session};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    #[command(flatten)]
    workload: WorkloadArgs,
    /// Number of single steps (language models)
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    steps: usize,
    /// How often the whole sequence is read
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Measure neither single kernels nor what the machine allows
    #[arg(long)]
    no_profile: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// One program's measurements.
struct Measured {
    program: String,
    tokens_per_call: usize,
    times: Vec<Duration>,
    profile: Option<Profile>,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    if args.repetitions == 0 {
        return Err(Failure::usage("--repetitions must be at least 1"));
    }
    let mut opened = model::open(&args.model, &args.compile.to_run(&args.session))?;
    let names = workload::programs(&opened.artifact);
    let start = Instant::now();
    let mut session = args.workload.session(&opened.artifact, &args.session, names)?;
    let loaded = start.elapsed();
    let mut measured = Vec::new();
    for name in names {
        measured.push(measure(&mut session, &opened.artifact, args, name)?);
    }
    if names.contains(&"step") {
        measured.extend(greedy(&mut session, &opened.artifact, args)?);
    }
    let gpu = if args.no_profile { None } else { workload::gpu(&mut session)? };
    let rates = if args.no_profile { None } else { Some(workload::rates(&session, gpu.as_ref())?) };
    for m in &measured {
        if let Some(profile) = &m.profile {
            opened.trace.launches(&m.program, profile.start, &profile.launches);
        }
    }
    opened.trace.write()?;
    let (level, threads) = (session.level(), session.n_threads());
    let WorkloadArgs { len, batch } = args.workload;
    if json {
        let programs: Vec<Value> = measured.iter().map(|m| to_json(m, rates.as_ref())).collect();
        return print_json(
            "bench",
            json!({
                "level": level, "threads": threads, "batch": batch, "len": len,
                "arena_bytes": session.arena_bytes(), "machine": workload::rates_json(rates.as_ref()),
                "gpu": workload::gpu_json(gpu.as_ref()), "gpu_code": session::code_json(&session),
                "cublaslt": session.cublaslt(), "load_seconds": loaded.as_secs_f64(), "programs": programs,
            }),
        );
    }
    let arena = bytes(session.arena_bytes() as u64);
    let ms = 1e3 * loaded.as_secs_f64();
    let mut text = format!(
        "{level}, {threads} threads, batch {batch}, length {len}, arena {arena}, loaded in {ms:.1} ms\n"
    );
    if let Some(rates) = &rates {
        text.push_str(&format!("{}\n", workload::describe(rates, gpu.as_ref())));
    }
    for m in &measured {
        text.push_str(&report(m, rates.as_ref(), gpu.as_ref().map(|(_, copy)| *copy)));
    }
    print(&text)
}

fn measure(session: &mut Session, artifact: &Artifact, args: &Args, name: &str) -> Outcome<Measured> {
    let mut workload = Workload::new(&args.workload, artifact, session, name)?;
    let n = if name == "step" { args.steps } else { args.repetitions };
    let times = (0..n).map(|_| workload.call(session)).collect::<Outcome<Vec<_>>>()?;
    let profile = if args.no_profile { None } else { Some(workload.profile(session)?) };
    Ok(Measured { program: name.to_owned(), tokens_per_call: workload.tokens_per_call, times, profile })
}

/// Calls of a batch that warm greedy decoding up.
const WARM: usize = 16;

/// Greedy decoding of as many tokens as steps are asked for, each time: what a token takes. None if the artefact has no
/// program that chooses tokens.
fn greedy(session: &mut Session, artifact: &Artifact, args: &Args) -> Outcome<Option<Measured>> {
    if args.steps == 0 || artifact.manifest().programs.iter().all(|program| program.name != "choose") {
        return Ok(None);
    }
    let mut state = session.new_state(args.workload.batch)?;
    let first = vec![1; args.workload.batch];
    session.generate(&mut state, &first, WARM)?;
    let mut times = Vec::new();
    for _ in 0..args.repetitions {
        let start = Instant::now();
        session.generate(&mut state, &first, args.steps)?;
        times.push(start.elapsed().div_f64(args.steps as f64));
    }
    let tokens_per_call = args.workload.batch;
    Ok(Some(Measured { program: "greedy".to_owned(), tokens_per_call, times, profile: None }))
}

/// Seconds that `share` of the calls do not exceed.
fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let at = ((seconds.len() as f64 - 1.0) * share).round() as usize;
    seconds.get(at).copied().unwrap_or(0.0)
}

fn report(m: &Measured, rates: Option<&MachineRates>, copy: Option<f64>) -> String {
    let (median, p99) = (quantile(&m.times, 0.5), quantile(&m.times, 0.99));
    let mut text = format!(
        "\n{}: {:.1} tokens/s, median {:.3} ms, p99 {:.3} ms over {} calls\n",
        m.program,
        m.tokens_per_call as f64 / median.max(1e-9),
        1e3 * median,
        1e3 * p99,
        m.times.len()
    );
    if let Some(profile) = &m.profile {
        if let Some(copy) = copy {
            let moved: i64 = profile.launches.iter().filter_map(|launch| launch.bytes).sum();
            text.push_str(&format!(
                "  {} launches, {:.3} ms for their {} at the rate of copies\n",
                profile.launches.len(),
                1e3 * moved as f64 / copy,
                bytes(moved.max(0) as u64)
            ));
        }
        text.push_str(&workload::products(&profile.launches));
        text.push_str(&workload::kernels_table(&profile.launches, rates));
    }
    text
}

fn to_json(m: &Measured, rates: Option<&MachineRates>) -> Value {
    let (median, p99) = (quantile(&m.times, 0.5), quantile(&m.times, 0.99));
    let launches = m.profile.as_ref().map_or(&[][..], |profile| &profile.launches);
    json!({
        "program": m.program, "tokens_per_call": m.tokens_per_call, "calls": m.times.len(),
        "median_seconds": median, "p99_seconds": p99,
        "tokens_per_second": m.tokens_per_call as f64 / median.max(1e-9),
        "kernels": workload::kernels_json(launches, rates),
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
