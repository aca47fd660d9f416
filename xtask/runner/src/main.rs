//! Runs an artefact outside the compiler: this program links the runtime and nothing else of ssmc.
//!
//! `ssmc-runner ARTEFACT JOB...` plans one session that fits all jobs and does them in order. Jobs:
//!
//! - `launches` prints `launch`, recurrence class, count and whether it is a generic loop, for `forward`.
//! - `run IN.npz OUT.npz` runs `forward` and prints `ran` and the seconds.
//! - `greedy N PROMPTS` continues the prompts by the N likeliest tokens, once by `forward` over the growing
//!   sequence, once by `prefill` and `step`, and once by `generate`, and prints `greedy forward TOKENS`, `greedy step TOKENS`
//!   and `greedy generate TOKENS`.
//!   Prompts and results are written `1 2 3;4 5 6`: rows of one length.
//! - `continue N IN.npz OUT.npz` runs `forward` over `input_ids`, then `prefill` over all but the last N
//!   tokens and `step` over those, writes `forward` and `step` logits at the last N + 1 positions, and prints
//!   `continued` and the seconds of forward, prefill and steps.
//! - `stream steps|SEED IN.npz OUT.npz` feeds the sequence step by step, or in pieces of random lengths, to `prefill`
//!   and `step`, writes the outputs of all pieces joined, and prints `streamed`, the number of pieces, and the bytes of
//!   the state before and after.
//! - `cost PROGRAM N` prints `cost`, the program, and the arithmetic and memory traffic that its launches state for
//!   one sequence of N tokens, in operations and bytes.
//! - `load LEN` plans the session for calls of LEN tokens and prints `loaded` and the seconds from the start of the
//!   program's work until the session is ready.
//! - `prefill N LEN TIMES` prefills N tokens of a language model in blocks of LEN, TIMES times into a new state each, and
//!   prints `prefilled`, N and the seconds of the fastest time.
//! - `growth N LEN` prefills a sequence of N tokens in blocks of LEN, and in turns with its blocks sequences of one block
//!   each. For LEN and each length four times the one before it prints `growth`, the length, the seconds of so many tokens of the
//!   long sequence and those of as many tokens of short ones. What else the machine does slows both alike.
//! - `move LEVEL N PROMPTS` prefills the prompts and saves the state, continues it in a session of another level by N steps
//!   of all sequences, and of the same in slots, saves the state there and continues it in the first session; prints
//!   `moved` and the largest difference of logits from those of a state that stayed, relative to the largest logit.
//! - `limits N` prints `limits` and what N threads reach at most: bytes read from memory, f32 operations, operations of
//!   bf16 dot products and of byte dot products, exponentials in f32, each per second, 0 where the processor has none,
//!   and N; 0 takes the threads of the session. Alone it needs no artefact.
//!
//! `--threads N` before the artefact sets the threads of the session, `--level LEVEL` its level. Lines are separated by tabs. A fault goes to stderr and ends the program with 1, bad usage with 2.

mod arrays;
mod cost;
mod job;
mod language;
mod limits;
mod stream;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use job::Job;
use ssmc_npz::NpzError;
use ssmc_runtime::{Artifact, DotRates, MachineRates, RuntimeError, Session, SessionOptions, TensorError};

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {source}")]
    Npz { path: String, source: NpzError },
    #[error("{0}")]
    Array(String),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ssmc-runner: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(args: &[String]) -> Result<(), Error> {
    let (mut threads, mut level, mut args) = (0, None, args);
    loop {
        match args {
            [flag, n, rest @ ..] if flag == "--threads" => {
                threads = n.parse().map_err(|_| Error::Usage("--threads: expected a number".into()))?;
                args = rest;
            }
            [flag, name, rest @ ..] if flag == "--level" => {
                level = Some(name.clone());
                args = rest;
            }
            _ => break,
        }
    }
    let [artifact, jobs @ ..] = args else {
        return Err(Error::Usage("expected an artefact and jobs".into()));
    };
    if artifact == "limits" {
        // The limits of the machine need no artefact.
        return match &Job::parse(args)?[..] {
            [Job::Limits { threads: threads @ 1.. }] => {
                print_limits(*threads);
                Ok(())
            }
            _ => Err(Error::Usage("limits: expected a number of threads".into())),
        };
    }
    let jobs = Job::parse(jobs)?;
    let start = Instant::now();
    let artifact = Artifact::open(artifact)?;
    let options = SessionOptions { threads, level, ..limits::options(artifact.manifest(), &jobs)? };
    let mut session = Session::new(&artifact, &options)?;
    let loaded = start.elapsed().as_secs_f64();
    jobs.iter().try_for_each(|job| work(&mut session, (loaded, &options), job))
}

/// Does one job; the session was ready after `loaded` seconds.
fn work(session: &mut Session, (loaded, options): (f64, &SessionOptions), job: &Job) -> Result<(), Error> {
    match job {
        Job::Launches => {
            for launch in &session.program("forward")?.launches {
                println!(
                    "launch\t{}\t{}\t{}",
                    launch.recurrence, launch.recurrence_count, launch.generic_loop
                );
            }
        }
        Job::Run { inputs, output, .. } => {
            let views = inputs
                .iter()
                .map(|(name, array)| Ok((name.as_str(), arrays::view(name, array)?)))
                .collect::<Result<Vec<_>, Error>>()?;
            let start = Instant::now();
            let outputs = session.run("forward", &views)?;
            println!("ran\t{}", start.elapsed().as_secs_f64());
            arrays::write(Path::new(output), outputs.iter())?;
        }
        Job::Greedy { tokens, prompts } => {
            for (way, rows) in [
                ("forward", language::greedy_by_forward(session, prompts, *tokens)?),
                ("step", language::greedy_by_step(session, prompts, *tokens)?),
                ("generate", language::greedy_by_generate(session, prompts, *tokens)?),
            ] {
                println!("greedy\t{way}\t{}", print_rows(&rows));
            }
        }
        Job::Cost { program, tokens } => {
            let cost = cost::of(session, program, *tokens)?;
            println!("cost\t{program}\t{}\t{}", cost.flops, cost.bytes);
        }
        Job::Stream { pieces, inputs, output } => {
            let done = stream::run(session, *pieces, inputs, Path::new(output))?;
            println!("streamed\t{}\t{}\t{}", done.pieces, done.bytes_before, done.bytes_after);
        }
        Job::Limits { threads } => {
            print_limits(if *threads == 0 { session.n_threads() } else { *threads });
        }
        Job::Move { level, steps, prompts } => {
            let options = SessionOptions { level: Some(level.clone()), ..options.clone() };
            let mut other = Session::new(&session.artifact().clone(), &options)?;
            println!("moved\t{}", language::moved(session, &mut other, prompts, *steps)?);
        }
        Job::Load { .. } => println!("loaded\t{loaded}"),
        Job::Prefill { tokens, times, .. } => {
            println!("prefilled\t{tokens}\t{}", language::prefill(session, *tokens, *times)?);
        }
        Job::Growth { tokens, max_len } => {
            for grown in language::growth(session, *tokens, *max_len)? {
                println!("growth\t{}\t{}\t{}", grown.tokens, grown.long, grown.short);
            }
        }
        Job::Continue { steps, ids, output } => {
            let seconds = language::continue_sequence(session, ids, *steps, Path::new(output))?;
            println!("continued\t{}\t{}\t{}", seconds.forward, seconds.prefill, seconds.steps);
        }
    }
    Ok(())
}

fn print_limits(threads: usize) {
    let MachineRates { bytes, flops } = MachineRates::measure(threads);
    let DotRates { halves, integers } = DotRates::measure(threads);
    let exponentials = MachineRates::exponentials(threads);
    println!("limits\t{bytes}\t{flops}\t{halves}\t{integers}\t{exponentials}\t{threads}");
}

fn print_rows(rows: &[Vec<u32>]) -> String {
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        text.push_str(if i == 0 { "" } else { ";" });
        for (k, token) in row.iter().enumerate() {
            let space = if k == 0 { "" } else { " " };
            let _ = write!(text, "{space}{token}");
        }
    }
    text
}
