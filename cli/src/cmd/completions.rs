//! `ssmc completions`

use super::Cli;
use crate::failure::Outcome;
use crate::output::print;
use clap::CommandFactory;
use clap_complete::Shell;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ssmc", &mut script);
    print(&String::from_utf8_lossy(&script))
}
