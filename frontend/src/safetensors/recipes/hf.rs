//! What the folders of `transformers` have in common.

use super::{Norm, NormKind};
use crate::safetensors::config::MAX_SIZE;
use crate::safetensors::schema::Source;

/// The parts of a model outside its mixers.
pub(super) struct Backbone {
    pub(super) n_layers: usize,
    pub(super) d_model: usize,
    pub(super) n_rows: usize,
    pub(super) embedding: String,
    pub(super) tied: bool,
    pub(super) norm: Norm,
    pub(super) proj_bias: bool,
    pub(super) conv_bias: bool,
}

/// Reads them. `None` if a fault makes it impossible.
pub(super) fn backbone(source: &mut Source<'_>) -> Option<Backbone> {
    let (config, faults) = (source.config, &mut *source.faults);
    if config.text("hidden_act", faults).is_some_and(|act| !["silu", "swish"].contains(&act)) {
        config.unsupported("hidden_act", "silu", faults);
    }
    let eps = config.positive("layer_norm_epsilon", faults).unwrap_or(1e-5);
    let proj_bias = config.flag("use_bias", faults).unwrap_or(false);
    let conv_bias = config.flag("use_conv_bias", faults).unwrap_or(true);
    let d_model = config.size("hidden_size", faults);
    let vocab_size = config.size("vocab_size", faults);

    let n_layers = source.n_layers("num_hidden_layers", "backbone.layers.")?;
    let embedding = embedding(source);
    let d_model = source.size(
        "hidden_size",
        d_model,
        n_layers,
        &[("backbone.norm_f.weight", 0), ("backbone.layers.{}.norm.weight", 0), (&embedding, 1)],
    );
    let n_rows = source.size("vocab_size", vocab_size, n_layers, &[(&embedding, 0), ("lm_head.weight", 0)]);
    let tied = tied(source, "tie_word_embeddings");
    let (d_model, n_rows) = (d_model?, n_rows?);
    Some(Backbone {
        n_layers,
        d_model,
        n_rows,
        embedding,
        tied,
        norm: Norm { kind: NormKind::Rms, eps },
        proj_bias,
        conv_bias,
    })
}

/// The name of the embedding table: `backbone.embedding.weight` in state-spaces files and in older exports.
pub(super) fn embedding(source: &Source<'_>) -> String {
    const OLDER: &str = "backbone.embedding.weight";
    let name = if source.has(OLDER) { OLDER } else { "backbone.embeddings.weight" };
    name.to_owned()
}

/// Whether the head is the embedding table: the config says so, or there is no other.
pub(super) fn tied(source: &mut Source<'_>, key: &str) -> bool {
    let configured = source.config.flag(key, source.faults);
    configured == Some(true) || !source.has("lm_head.weight")
}

/// The inner width that `expand` gives, if it is there.
pub(super) fn expanded(source: &mut Source<'_>, d_model: usize) -> Option<usize> {
    let width = source.config.positive("expand", source.faults)? * d_model as f64;
    if !(1.0..=MAX_SIZE as f64).contains(&width) {
        source.bad_key(
            "expand",
            format!("a factor that takes {d_model} to an inner width below 2^28"),
            width,
        );
        return None;
    }
    Some(width as usize)
}
