//! The verbs, one file each.

mod bench;
mod check;
mod compile;
mod completions;
mod explain;
mod generate;
mod inspect;
mod language;
mod matrix;
mod optimize;
mod profile;
mod quantize;
mod run;
mod selftest;
mod snapshot;
mod stages;
mod state;
mod targets;
mod verify;
mod workload;

use crate::failure::Outcome;
use crate::output;
use clap::{Parser, Subcommand};

/// Ahead-of-time compiler for state space models
#[derive(Parser, Debug)]
#[command(name = "ssmc", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Print one JSON object with a versioned schema instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show neither progress nor remarks on stderr, only warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str =
    "MODEL is an ONNX file, a folder with config.json and safetensors files, or an artefact.
A verb that runs a model compiles it to a temporary artefact first if it is none.

Exit codes: 0 ok, 1 check failed, 2 usage, 3 unsupported, 4 limit reached, 5 internal error, 6 invalid input";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Show what a model or an artefact consists of
    Inspect(inspect::Args),
    /// Validate a model's files, or an artefact with the checksum of its weights
    Check(check::Args),
    /// Compile a model to an artefact
    Compile(compile::Args),
    /// Run one program on tensors from a .npz file
    Run(run::Args),
    /// Generate text with a language model
    Generate(generate::Args),
    /// Compare compiled code with the reference interpreter, or with recorded tensors
    Verify(verify::Args),
    /// Show which rewrites built each fused op
    Explain(explain::Args),
    /// Write a model as an optimized ONNX model
    Optimize(optimize::Args),
    /// Show what another storage format of the weights costs in accuracy
    Quantize(quantize::Args),
    /// Measure speed and time per kernel
    Bench(bench::Args),
    /// Show where the time of each program goes, beside what the machine allows
    Profile(profile::Args),
    /// Run an artefact's golden vectors on this machine
    Selftest(selftest::Args),
    /// Save and inspect recurrent states
    State(state::Args),
    /// Write all generated code to a folder, or compare it with what is there
    Snapshot(snapshot::Args),
    /// List the machines that code can be generated for
    Targets(targets::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// Runs the verb.
pub(crate) fn run(cli: Cli) -> Outcome {
    let json = cli.json;
    if json || cli.quiet {
        output::be_quiet();
    }
    match cli.verb {
        Verb::Inspect(args) => inspect::run(&args, json),
        Verb::Check(args) => check::run(&args, json),
        Verb::Compile(args) => compile::run(&args, json),
        Verb::Run(args) => run::run(&args, json),
        Verb::Generate(args) => generate::run(&args, json),
        Verb::Verify(args) => verify::run(&args, json),
        Verb::Explain(args) => explain::run(&args, json),
        Verb::Optimize(args) => optimize::run(&args, json),
        Verb::Quantize(args) => quantize::run(&args, json),
        Verb::Bench(args) => bench::run(&args, json),
        Verb::Profile(args) => profile::run(&args, json),
        Verb::Selftest(args) => selftest::run(&args, json),
        Verb::State(args) => state::run(&args, json),
        Verb::Snapshot(args) => snapshot::run(&args, json),
        Verb::Targets(args) => targets::run(&args, json),
        Verb::Completions(args) => completions::run(&args),
    }
}
