//! `ssmc run`

use crate::failure::{Failure, Outcome};
use crate::file;
use crate::model;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{note, print_json};
use crate::session;
use crate::tensors::{self, Tensors};
use serde_json::json;
use ssmc_runtime::{Session, State, Tensor};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// The inputs by name; types are converted where nothing is lost
    #[arg(long, value_name = "FILE.npz")]
    inputs: PathBuf,
    /// Where the outputs go
    #[arg(long, value_name = "FILE.npz")]
    outputs: PathBuf,
    /// The program to run
    #[arg(long, value_name = "NAME", default_value = "forward")]
    program: String,
    /// Continue this saved state (programs with state only)
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// Save the state after the run (programs with state only)
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let given = tensors::read(&args.inputs)?;
    let mut opened = model::open(&args.model, &args.compile.to_run(&args.session))?;
    let manifest = opened.artifact.manifest();
    let program = manifest.programs.iter().find(|p| p.name == args.program).ok_or_else(|| {
        let known: Vec<&str> = manifest.programs.iter().map(|p| p.name.as_str()).collect();
        Failure::usage(format!("no program {}, expected one of {}", args.program, known.join(", ")))
    })?;
    if !program.stateful && (args.load_state.is_some() || args.save_state.is_some()) {
        return Err(Failure::usage(format!("program {} takes no state", program.name)));
    }
    let inputs = tensors::for_program(program, &given).map_err(|f| f.in_file(&args.inputs))?;
    let mut options = args.session.options(1, 1);
    tensors::fit(&mut options, manifest, program, &inputs);
    let mut session = session::open(&opened.artifact, &options)?;
    let buffers: Vec<(&String, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| Ok((name, tensors::to_buffer(tensor)?)))
        .collect::<Outcome<_>>()?;
    let views: Vec<_> = buffers.iter().map(|(name, buffer)| (name.as_str(), buffer.view())).collect();
    let mut state = if program.stateful { Some(state(args, &session, options.max_batch)?) } else { None };
    let start = Instant::now();
    let ids = inputs.get("input_ids").map(|ids| ids.shape().to_vec()).unwrap_or_default();
    let tokens = ids.get(1).copied().unwrap_or(1) as u64;
    let (outputs, profile) = match &mut state {
        state if opened.trace.is_on() => {
            session.run_profiled(&args.program, state.as_mut().map(|state| (state, tokens)), &views)?
        }
        Some(state) => (session.run_stateful(&args.program, state, tokens, &views)?, Vec::new()),
        None => (session.run(&args.program, &views)?, Vec::new()),
    };
    let seconds = start.elapsed().as_secs_f64();
    opened.trace.launches(&args.program, start, &profile);
    opened.trace.write()?;
    let mut found = Tensors::new();
    for (name, buffer) in outputs.iter() {
        found.insert(name.to_owned(), tensors::from_buffer(buffer)?);
    }
    tensors::write(&args.outputs, &found)?;
    if let (Some(path), Some(state)) = (&args.save_state, &state) {
        file::write(path, &state.save()?)?;
    }
    if json {
        let list: Vec<_> = found
            .iter()
            .map(|(name, t)| json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape()}))
            .collect();
        let position = state.as_ref().map(State::position);
        return print_json(
            "run",
            json!({
                "program": args.program, "level": session.level(), "threads": session.n_threads(),
                "seconds": seconds, "outputs": list, "position": position, "gpu_code": session::code_json(&session),
            }),
        );
    }
    let threads = session.n_threads();
    let (program, level) = (&args.program, session.level());
    note(&format!("{program}: {:.3} ms on {level} with {threads} threads", 1e3 * seconds));
    Ok(())
}

fn state(args: &Args, session: &Session, batch: usize) -> Outcome<State> {
    let Some(path) = &args.load_state else { return Ok(session.new_state(batch)?) };
    let bytes = fs::read(path).map_err(|error| Failure::file(path, error))?;
    session.load_state(&bytes).map_err(|error| Failure::from(error).in_file(path))
}
