//! `ssmc generate`

use super::language::{self, PromptArgs};
use crate::failure::{Failure, Kind, Outcome};
use crate::model;
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{note, print, print_json};
use crate::sampling::Sampler;
use crate::session;
use crate::text::TextStream;
use serde_json::json;
use ssmc::Rng;
use ssmc_runtime::Session;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokenizers::Tokenizer;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = non_negative)]
    temperature: f64,
    /// Draw from the K most likely tokens; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from the most likely tokens whose probabilities reach P together
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = fraction)]
    top_p: f64,
    /// Seed of the random numbers; the same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Go on after a token that ends the text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

fn non_negative(text: &str) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if x >= 0.0 && x.is_finite() { Ok(x) } else { Err("expected a number of at least 0".to_owned()) }
}

fn fraction(text: &str) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&x) { Ok(x) } else { Err("expected a number from 0 to 1".to_owned()) }
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let opened = model::open(&args.model, &args.compile.to_run(&args.session))?;
    let manifest = opened.artifact.manifest();
    language::require_language_model(manifest).map_err(|f| f.in_file(&args.model))?;
    let tokenizer = args.prompt.load(&opened)?;
    let prompt = args.prompt.ids(tokenizer.as_ref())?;
    language::check_ids(manifest, &prompt)?;
    let mut session =
        session::open(&opened.artifact, &args.session.options(1, language::block_len(prompt.len())))?;
    let mut state = session.new_state(1)?;
    let stop = if args.ignore_eos { Vec::new() } else { language::eos_ids(manifest) };
    let mut sampler = Sampler {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        rng: Rng::new(args.seed),
    };
    let mut writer = Writer::new(tokenizer.as_ref(), json);
    let start = Instant::now();
    let mut logits = language::prefill(&mut session, &mut state, &prompt)?;
    let prefill_time = start.elapsed();
    let mut tokens: Vec<u32> = Vec::new();
    let mut ended = "max_tokens";
    let mut decode_time = Duration::ZERO;
    let mut n_steps = 0;
    // Where every row of the table has a token and the likeliest is taken, tokens are chosen where the kernels run.
    let n_tokens = tokenizer.as_ref().map_or(usize::MAX, |t| t.get_vocab_size(true));
    let by_device = args.temperature <= 0.0 && n_tokens >= logits.len() && chooses_on_device(&session);
    while tokens.len() < args.max_tokens {
        let start = Instant::now();
        if by_device && let Some(last) = tokens.last() {
            let n = BLOCK.min(args.max_tokens - tokens.len());
            let chosen = session.generate(&mut state, &[*last], n)?;
            n_steps += n;
            decode_time += start.elapsed();
            let end = chosen.iter().position(|id| stop.contains(id));
            for id in &chosen[..end.unwrap_or(n)] {
                tokens.push(*id);
                writer.push(*id)?;
            }
            if end.is_some() {
                ended = "eos";
                break;
            }
            continue;
        }
        if let Some(last) = tokens.last() {
            logits = language::step(&mut session, &mut state, *last)?;
            n_steps += 1;
        }
        // Rows of the table that pad it have no token.
        let n_known = n_tokens.min(logits.len());
        let id = sampler
            .sample(&logits[..n_known])
            .ok_or_else(|| Failure::new(Kind::Internal, "no logit is a number"))?;
        decode_time += start.elapsed();
        if stop.contains(&id) {
            ended = "eos";
            break;
        }
        tokens.push(id);
        writer.push(id)?;
    }
    let text = writer.finish()?;
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let (prefill_rate, decode_rate) = (rate(prompt.len(), prefill_time), rate(n_steps, decode_time));
    if json {
        return print_json(
            "generate",
            json!({
                "prompt_ids": prompt, "tokens": tokens, "text": text, "ended": ended, "level": session.level(),
                "threads": session.n_threads(), "gpu_code": session::code_json(&session),
                "chosen_by": if by_device { "device" } else { "process" }, "prefill_tokens_per_second": prefill_rate,
                "decode_tokens_per_second": if n_steps > 0 { json!(decode_rate) } else { json!(null) },
            }),
        );
    }
    let decode = if n_steps > 0 {
        format!(", decode {n_steps} tokens, {decode_rate:.1} tokens/s")
    } else {
        String::new()
    };
    note(&format!("prefill {} tokens, {prefill_rate:.1} tokens/s{decode}", prompt.len()));
    Ok(())
}

/// Tokens that the device chooses before they are shown.
const BLOCK: usize = 32;

/// Whether kernels of the session can choose tokens on a device.
fn chooses_on_device(session: &Session) -> bool {
    session.gpu().is_some() && session.program("choose").is_ok()
}

type Decode<'a> = Box<dyn FnMut(&[u32]) -> Outcome<String> + 'a>;

/// Shows tokens as they come: text if there is a tokenizer, else ids.
struct Writer<'a> {
    stream: Option<TextStream<Decode<'a>>>,
    text: String,
    silent: bool,
}

impl<'a> Writer<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>, silent: bool) -> Self {
        let stream = tokenizer.map(|tokenizer| {
            let decode: Decode<'a> = Box::new(move |ids: &[u32]| {
                tokenizer.decode(ids, true).map_err(|error| Failure::new(Kind::Internal, error.to_string()))
            });
            TextStream::new(decode)
        });
        Self { stream, text: String::new(), silent }
    }

    fn push(&mut self, id: u32) -> Outcome {
        let piece = match &mut self.stream {
            Some(stream) => stream.push(id)?,
            None => format!("{id}\n"),
        };
        self.show(&piece)
    }

    fn show(&mut self, piece: &str) -> Outcome {
        if self.stream.is_some() {
            self.text.push_str(piece);
        }
        if self.silent { Ok(()) } else { print(piece) }
    }

    /// The whole text, if there is a tokenizer.
    fn finish(mut self) -> Outcome<Option<String>> {
        let Some(stream) = self.stream.take() else { return Ok(None) };
        let rest = stream.finish()?;
        self.text.push_str(&rest);
        if !self.silent {
            print(&format!("{rest}\n"))?;
        }
        Ok(Some(self.text))
    }
}
