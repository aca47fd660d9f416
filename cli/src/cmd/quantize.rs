//! `ssmc quantize`

mod products;

use super::language;
use crate::failure::{Failure, Kind, Outcome};
use crate::model::{self, Job};
use crate::options::{CompileArgs, SessionArgs};
use crate::output::{bytes, print, print_json, table};
use crate::session;
use crate::text;
use serde_json::json;
use ssmc::{Stored, WeightFormat};
use ssmc_ir::Model;
use ssmc_runtime::Artifact;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// Also measure each product, and a language model's logits and perplexity, on this text, before and after
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// The tokenizer [default: that of the model folder]
    #[arg(long, value_name = "tokenizer.json")]
    tokenizer: Option<PathBuf>,
    /// Tokens of the text to measure at most
    #[arg(long, value_name = "N", default_value_t = 4096)]
    tokens: usize,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    compile: CompileArgs,
}

/// Tokens that are read at once; each window begins without a past.
const WINDOW: usize = 512;

/// What a text says about a model before and after.
struct Measured {
    tokens: usize,
    /// The error of products by their weight.
    products: BTreeMap<String, f64>,
    before: f64,
    after: f64,
    /// Root mean square of the logits' error over that of the logits.
    error: f64,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let Some(format) = args.compile.weights else {
        let known = WeightFormat::NAMES.join(", ");
        return Err(Failure::usage(format!("--weights is missing, expected one of {known}")));
    };
    let exact = model::import(&args.model, &args.compile.input_shapes)?;
    let mut stored = exact.clone();
    let weights = ssmc::store_weights(&mut stored, format)
        .map_err(|error| Failure::from(error).in_file(&args.model))?;
    let sizes = [size(&exact), size(&stored)];
    let measured = match &args.calibrate {
        Some(path) => Some(measure(args, path, [&exact, &stored], &weights)?),
        None => None,
    };
    if json {
        let weights: Vec<_> = weights
            .iter()
            .map(|w| {
                let product = measured.as_ref().and_then(|m| m.products.get(&w.name));
                json!({
                    "name": w.name, "shape": w.shape.to_string(), "bits": w.bits, "error": w.error,
                    "product_error": product,
                })
            })
            .collect();
        let measured = measured.map(|m| {
            json!({
                "tokens": m.tokens, "perplexity_before": m.before, "perplexity_after": m.after,
                "logits_error": m.error, "bound": format.bound(),
            })
        });
        let object = json!({
            "model": args.model, "format": format.to_string(), "bytes_before": sizes[0], "bytes_after": sizes[1],
            "weights": weights, "measured": measured,
        });
        return print_json("quantize", object);
    }
    print(&report(format, sizes, &weights, measured.as_ref()))
}

fn report(format: WeightFormat, sizes: [u64; 2], weights: &[Stored], measured: Option<&Measured>) -> String {
    let mut rows = vec![["weight", "shape", "bits", "error", "product"].map(str::to_owned).to_vec()];
    for w in weights {
        let (bits, error) = (format!("{:.2}", w.bits), format!("{:.3} %", 100.0 * w.error));
        let product = measured.and_then(|m| m.products.get(&w.name));
        let product = product.map_or("-".to_owned(), |error| format!("{:.3} %", 100.0 * error));
        rows.push(vec![w.name.clone(), w.shape.to_string(), bits, error, product]);
    }
    let mut out = table(&rows);
    out.push_str(&format!(
        "{} of {format}, {} -> {}; all other weights stay as they are\n",
        weights.len(),
        bytes(sizes[0]),
        bytes(sizes[1])
    ));
    if let Some(m) = measured {
        let change = 100.0 * (m.after / m.before - 1.0);
        out.push_str(&format!(
            "{} tokens: perplexity {:.3} -> {:.3} ({change:+.2} %), error of logits {:.3} % (promised: {} %)\n",
            m.tokens,
            m.before,
            m.after,
            100.0 * m.error,
            100.0 * format.bound()
        ));
    }
    out
}

/// Bytes of the weights that the graph uses.
fn size(model: &Model) -> u64 {
    let used = model.graph.nodes().filter_map(|(_, node)| match &node.op {
        ssmc_ir::ops::Op::WeightRef(weight) => Some(weight),
        _ => None,
    });
    let names: std::collections::BTreeSet<&str> = used.map(|weight| weight.name.as_str()).collect();
    // Integers of few bits are packed when the artefact is written.
    let bits = |name: &&str| {
        let is_half = model.graph.nodes().any(|(_, node)| {
            let ssmc_ir::ops::Op::Dequantize(op) = &node.op else { return false };
            let q = node.operands[0].and_then(|q| model.graph.def_op(q));
            op.bits == 4 && matches!(q, Some(ssmc_ir::ops::Op::WeightRef(w)) if w.name == *name)
        });
        let len = model.weights.get(name).map_or(0, |w| w.bytes.as_slice().len() as u64);
        if is_half { len / 2 } else { len }
    };
    names.iter().map(bits).sum()
}

fn measure(
    args: &Args,
    path: &std::path::Path,
    models: [&Model; 2],
    weights: &[Stored],
) -> Outcome<Measured> {
    let tokenizer = args.tokenizer.as_ref().or(models[0].meta.tokenizer.as_ref());
    let Some(tokenizer) = tokenizer else {
        return Err(Failure::usage("--calibrate needs --tokenizer, or a model folder with tokenizer.json"));
    };
    let tokenizer = text::load(tokenizer)?;
    let content = std::fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
    let encoding = tokenizer
        .encode(content.as_str(), false)
        .map_err(|error| Failure::input(format!("text: {error}")))?;
    let ids = encoding.get_ids();
    let ids = &ids[..ids.len().min(args.tokens)];
    if ids.len() < 2 {
        return Err(Failure::input("expected a text of at least two tokens").in_file(path));
    }
    let mut plain = args.compile.clone();
    plain.weights = None;
    let before = logits(args, &plain, models[0], ids)?;
    let after = logits(args, &args.compile, models[1], ids)?;
    let (error, size) =
        before.iter().flatten().zip(after.iter().flatten()).fold((0.0, 0.0), |(e, s), (x, y)| {
            let (x, y) = (f64::from(*x), f64::from(*y));
            (e + (x - y).powi(2), s + x.powi(2))
        });
    let perplexity = |windows: &[Vec<f32>]| {
        let (mut sum, mut n) = (0.0, 0);
        for (window, logits) in ids.chunks(WINDOW).zip(windows) {
            let vocab = logits.len() / window.len();
            for (row, next) in logits.chunks_exact(vocab).zip(&window[1..]) {
                sum += surprise(row, *next as usize);
                n += 1;
            }
        }
        (sum / f64::from(n)).exp()
    };
    Ok(Measured {
        tokens: ids.len(),
        products: products::errors(args, models, weights, ids)?,
        before: perplexity(&before),
        after: perplexity(&after),
        error: if error == 0.0 { 0.0 } else { (error / size).sqrt() },
    })
}

/// The logits of every position, window by window.
fn logits(args: &Args, compile: &CompileArgs, model: &Model, ids: &[u32]) -> Outcome<Vec<Vec<f32>>> {
    let mut job = Job::new(&args.model, compile)?;
    let compiled = job.compile(model)?;
    let (artifact, _dir): (Artifact, _) = job.temporary(&compiled, model)?;
    language::require_language_model(artifact.manifest())?;
    let mut session = session::open(&artifact, &args.session.options(1, WINDOW.min(ids.len())))?;
    let mut windows = Vec::new();
    for window in ids.chunks(WINDOW) {
        let logits = session.forward(1, window)?;
        let logits = logits.as_slice::<f32>().ok_or_else(|| {
            Failure::new(
                Kind::Unsupported,
                format!("expected logits in f32, found {}", logits.dtype().name()),
            )
        })?;
        windows.push(logits.to_vec());
    }
    Ok(windows)
}

/// The negative logarithm of the probability of a token.
fn surprise(logits: &[f32], token: usize) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - peak).exp()).sum();
    sum.ln() + f64::from(peak) - logits.get(token).map_or(f64::NEG_INFINITY, |x| f64::from(*x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_of_equal_logits_is_the_logarithm_of_their_number() {
        assert!((surprise(&[3.0; 8], 5) - 8f64.ln()).abs() < 1e-12);
        assert!(surprise(&[0.0, 100.0], 1) < 1e-12);
        assert_eq!(surprise(&[0.0], 3), f64::INFINITY);
    }
}
