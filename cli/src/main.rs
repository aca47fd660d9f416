//! The `ssmc` command line. stdout is data, stderr is for people.

mod cmd;
mod compare;
mod failure;
mod model;
mod options;
mod output;
mod sampling;
mod tensors;
mod text;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // clap exits by itself: 0 for help and version, 2 for usage.
    let cli = cmd::Cli::parse();
    match cmd::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.kind.code())
        }
    }
}
