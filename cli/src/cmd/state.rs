//! `ssmc state`

use super::language::{self, PromptArgs};
use crate::failure::{Failure, Outcome};
use crate::file;
use crate::model;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{bytes, note, print, print_json, table};
use crate::session;
use clap::Subcommand;
use serde_json::json;
use ssmc_artifact::decode_state;
use ssmc_runtime::RuntimeError;
use std::fs;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Read tokens and save the state behind them
    Save(Box<SaveArgs>),
    /// Show what a saved state holds
    Inspect {
        /// A saved state
        state: PathBuf,
    },
}

#[derive(clap::Args, Debug)]
struct SaveArgs {
    model: PathBuf,
    /// Where the state goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Continue this saved state instead of an empty one
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    match &args.action {
        Action::Save(args) => save(args, json),
        Action::Inspect { state } => inspect(state, json),
    }
}

fn save(args: &SaveArgs, json: bool) -> Outcome {
    let opened = model::open(&args.model, &args.compile.to_run(&args.session))?;
    let manifest = opened.artifact.manifest();
    language::require_language_model(manifest).map_err(|f| f.in_file(&args.model))?;
    let tokenizer = args.prompt.load(&opened)?;
    let ids = args.prompt.ids(tokenizer.as_ref())?;
    language::check_ids(manifest, &ids)?;
    let mut session =
        session::open(&opened.artifact, &args.session.options(1, language::block_len(ids.len())))?;
    let mut state = match &args.from {
        None => session.new_state(1)?,
        Some(path) => {
            let bytes = fs::read(path).map_err(|error| Failure::file(path, error))?;
            session.load_state(&bytes).map_err(|error| Failure::from(error).in_file(path))?
        }
    };
    language::prefill(&mut session, &mut state, &ids)?;
    let blob = state.save()?;
    file::write(&args.output, &blob)?;
    if json {
        let fields = json!({"output": args.output, "bytes": blob.len(), "position": state.position()});
        return print_json("state", fields);
    }
    note(&format!("saved the state at position {}: {}", state.position(), bytes(blob.len() as u64)));
    Ok(())
}

fn inspect(path: &PathBuf, json: bool) -> Outcome {
    let file = fs::read(path).map_err(|error| Failure::file(path, error))?;
    let blob = decode_state(&file).map_err(|error| Failure::from(RuntimeError::from(error)).in_file(path))?;
    let hash: String = blob.model_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    if json {
        let states: Vec<_> = blob
            .states
            .iter()
            .map(|s| json!({"name": s.name, "dtype": s.dtype().name(), "shape": s.dims, "bytes": s.data.len()}))
            .collect();
        return print_json(
            "state",
            json!({"position": blob.position, "batch": blob.batch, "model_hash": hash, "states": states}),
        );
    }
    let mut text = format!("model     {hash}\nposition  {}\nbatch     {}\n", blob.position, blob.batch);
    let rows: Vec<_> = blob
        .states
        .iter()
        .map(|s| vec![s.name.clone(), format!("{}{:?}", s.dtype(), s.dims), bytes(s.data.len() as u64)])
        .collect();
    text.push_str(&table(&rows));
    print(&text)
}
