//! The session that fits all jobs.

use std::collections::BTreeMap;

use ssmc_artifact::SymbolRole;
use ssmc_npz::Array;
use ssmc_runtime::{Manifest, SessionOptions};

use crate::Error;
use crate::job::{Job, Rows};

/// Options with the greatest sizes that any job needs.
pub(crate) fn options(manifest: &Manifest, jobs: &[Job]) -> Result<SessionOptions, Error> {
    let mut options =
        SessionOptions { max_batch: 1, max_len: 1, rollback_depth: 0, ..SessionOptions::default() };
    let mut maxima = BTreeMap::new();
    for job in jobs {
        match job {
            Job::Launches | Job::Limits { .. } | Job::Cost { .. } => {}
            Job::Run { inputs, .. } => symbols(manifest, "forward", inputs, &mut maxima)?,
            Job::Stream { inputs, .. } => symbols(manifest, "prefill", inputs, &mut maxima)?,
            Job::Greedy { tokens, prompts } | Job::Move { steps: tokens, prompts, .. } => {
                grow(&mut options, prompts, *tokens);
            }
            Job::Load { max_len } | Job::Prefill { max_len, .. } | Job::Growth { max_len, .. } => {
                options.max_len = options.max_len.max(*max_len);
            }
            Job::Continue { ids, .. } => grow(&mut options, ids, 0),
        }
    }
    for symbol in &manifest.symbols {
        let Some(max) = maxima.get(&symbol.name).copied() else { continue };
        let planned = match symbol.role() {
            SymbolRole::Batch => &mut options.max_batch,
            SymbolRole::SeqLen => &mut options.max_len,
            SymbolRole::Other => {
                options.maxima.push((symbol.name.clone(), max));
                continue;
            }
        };
        *planned = (*planned).max(max);
    }
    Ok(options)
}

fn grow(options: &mut SessionOptions, rows: &Rows, more: usize) {
    options.max_batch = options.max_batch.max(rows.len());
    options.max_len = options.max_len.max(rows[0].len() + more);
}

/// Raises `maxima` to the extents of the inputs of a program that are a symbol.
fn symbols(
    manifest: &Manifest,
    program: &str,
    inputs: &BTreeMap<String, Array>,
    maxima: &mut BTreeMap<String, usize>,
) -> Result<(), Error> {
    for info in manifest.programs.iter().filter(|p| p.name == program).flat_map(|p| &p.inputs) {
        let Some(array) = inputs.get(&info.name) else {
            return Err(Error::Array(format!("{}: the model takes it, but the file lacks it", info.name)));
        };
        for (expr, extent) in info.shape.iter().zip(&array.shape) {
            if let Some(symbol) = expr.as_symbol().and_then(|index| manifest.symbols.get(index)) {
                let max = maxima.entry(symbol.name.clone()).or_insert(0);
                *max = (*max).max(*extent);
            }
        }
    }
    Ok(())
}
