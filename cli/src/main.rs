//! The `ssmc` command line. stdout is data, stderr is for people.

mod cmd;
mod compare;
mod failure;
mod file;
mod model;
mod options;
mod output;
mod sampling;
mod session;
mod tensors;
mod text;
mod trace;

use clap::Parser;
use failure::{Failure, Kind};
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap exits by itself: 0 for help and version, 2 for usage.
    let cli = cmd::Cli::parse();
    let json = cli.json;
    // The panic hook has printed where; a panic is a bug whatever the input was.
    let outcome = std::panic::catch_unwind(|| cmd::run(cli)).unwrap_or_else(|_| {
        Err(Failure::new(
            Kind::Internal,
            "ssmc panicked, which is a bug: please report it with the message above",
        ))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            // A check that failed has printed its results.
            if json && failure.kind != Kind::Check && output::print_json("error", failure.to_json()).is_err()
            {
                eprintln!("the error could not be printed as JSON");
            }
            ExitCode::from(failure.kind.code())
        }
    }
}
