//! What the verbs for language models share: prompts, and running tokens through a session.

use crate::failure::{Failure, Kind, Outcome};
use crate::model::Opened;
use crate::text;
use ssmc_runtime::{DType, Manifest, Session, State, Tensor};
use std::path::PathBuf;
use tokenizers::Tokenizer;

/// Most tokens that a session plans for; longer prompts are read in blocks.
const MAX_BLOCK: usize = 1024;

/// A text or ids to start from.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct PromptArgs {
    /// The tokenizer [default: that of the model folder]
    #[arg(long, value_name = "tokenizer.json")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Text to continue
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Token ids to continue, separated by commas, instead of a text
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "prompt")]
    pub(crate) prompt_ids: Vec<u32>,
    /// Token to put before the prompt, for models that were trained with one
    #[arg(long, value_name = "ID")]
    pub(crate) bos: Option<u32>,
}

impl PromptArgs {
    /// The tokenizer that was named, or that of the model folder.
    pub(crate) fn load(&self, opened: &Opened) -> Outcome<Option<Tokenizer>> {
        let beside = opened.model.as_ref().and_then(|model| model.meta.tokenizer.as_ref());
        self.tokenizer.as_ref().or(beside).map(|path| text::load(path)).transpose()
    }

    /// The ids to start from, at least one.
    pub(crate) fn ids(&self, tokenizer: Option<&Tokenizer>) -> Outcome<Vec<u32>> {
        let mut ids: Vec<u32> = self.bos.into_iter().collect();
        match (&self.prompt, tokenizer) {
            (Some(prompt), Some(tokenizer)) => {
                let encoding = tokenizer
                    .encode(prompt.as_str(), true)
                    .map_err(|error| Failure::input(format!("prompt: {error}")))?;
                ids.extend(encoding.get_ids());
            }
            (Some(_), None) => {
                return Err(Failure::usage(
                    "--prompt needs --tokenizer, or a model folder with tokenizer.json",
                ));
            }
            (None, _) => ids.extend(&self.prompt_ids),
        }
        if ids.is_empty() {
            return Err(Failure::usage("expected --prompt or --prompt-ids with at least one token"));
        }
        Ok(ids)
    }
}

/// Refuses artefacts that are no language models with state.
pub(crate) fn require_language_model(manifest: &Manifest) -> Outcome {
    let has = |name: &str| manifest.programs.iter().any(|p| p.name == name && p.stateful);
    if has("prefill") && has("step") {
        return Ok(());
    }
    let programs: Vec<&str> = manifest.programs.iter().map(|p| p.name.as_str()).collect();
    let message = format!("expected a language model with prefill and step, found {}", programs.join(", "));
    Err(Failure::new(Kind::Unsupported, message))
}

/// The length to plan a session for, for a prompt of this many tokens.
pub(crate) fn block_len(n_tokens: usize) -> usize {
    n_tokens.clamp(1, MAX_BLOCK)
}

/// Refuses ids that the model does not have, before anything runs.
pub(crate) fn check_ids(manifest: &Manifest, ids: &[u32]) -> Outcome {
    let info = manifest
        .programs
        .iter()
        .filter(|p| p.name == "prefill")
        .flat_map(|p| &p.inputs)
        .find(|info| info.name == "input_ids");
    let Some(most) = info.and_then(|info| info.max_value) else { return Ok(()) };
    match ids.iter().position(|id| i64::from(*id) > most) {
        None => Ok(()),
        Some(at) => {
            Err(Failure::input(format!("token {at}: expected an id up to {most}, found {}", ids[at])))
        }
    }
}

/// Reads tokens into the state; the logits after the last one.
pub(crate) fn prefill(session: &mut Session, state: &mut State, ids: &[u32]) -> Outcome<Vec<f32>> {
    floats(&session.prefill(state, ids)?)
}

/// Reads one token; the logits after it.
pub(crate) fn step(session: &mut Session, state: &mut State, id: u32) -> Outcome<Vec<f32>> {
    floats(&session.step(state, &[id])?)
}

fn floats(logits: &Tensor) -> Outcome<Vec<f32>> {
    if let Some(values) = logits.as_slice::<f32>() {
        return Ok(values.to_vec());
    }
    if !matches!(logits.dtype(), DType::F64 | DType::F16 | DType::Bf16) {
        let message = format!("expected logits of a float type, found {}", logits.dtype());
        return Err(Failure::new(Kind::Unsupported, message));
    }
    Ok(crate::tensors::from_buffer(logits)?.to_f64().into_iter().map(|x| x as f32).collect())
}

/// The ids that end a text, as the artefact states them.
pub(crate) fn eos_ids(manifest: &Manifest) -> Vec<u32> {
    let property = manifest.properties.iter().find(|p| p.key == "eos_token_ids");
    property.map(|p| p.value.split(',').filter_map(|id| id.parse().ok()).collect()).unwrap_or_default()
}
