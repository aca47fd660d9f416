//! The original state-spaces naming and config, with Mamba-1 or Mamba-2 layers.

use super::{Family, GatedNorm, LanguageModel, Mixer, Norm, NormKind, S6, Ssd, hf, mamba, mamba2};
use crate::safetensors::schema::Source;
use serde_json::Value;

/// The epsilon of every norm of `mamba_ssm`; no config key changes it.
const EPS: f64 = 1e-5;

/// Constructor arguments of the layers that change results and are read below, or that only matter for training.
const KNOWN_ARGUMENTS: [&str; 26] = [
    "layer",
    "d_state",
    "d_conv",
    "expand",
    "headdim",
    "ngroups",
    "chunk_size",
    "bias",
    "conv_bias",
    "dt_rank",
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "dt_limit",
    "use_fast_path",
    "use_mem_eff_path",
    "A_init_range",
    "D_has_hdim",
    "rmsnorm",
    "norm_before_gate",
    "d_ssm",
    "activation",
    "conv_init",
    "sequence_parallel",
];

/// Reads the description of a state-spaces model.
pub(super) fn read(source: &mut Source<'_>) -> Option<LanguageModel> {
    refuse_unsupported(source);
    let (config, faults) = (source.config, &mut *source.faults);
    let d_model = config.size("d_model", faults);
    let vocab_size = config.size("vocab_size", faults);
    let multiple = config.size("pad_vocab_size_multiple", faults).unwrap_or(8);
    let padded = vocab_size.map(|n| n.next_multiple_of(multiple));

    let n_layers = source.n_layers("n_layer", "backbone.layers.")?;
    let embedding = hf::embedding(source);
    let d_model = source.size(
        "d_model",
        d_model,
        n_layers,
        &[("backbone.norm_f.weight", 0), ("backbone.layers.{}.norm.weight", 0), (&embedding, 1)],
    );
    let n_rows = source.size("vocab_size", padded, n_layers, &[(&embedding, 0), ("lm_head.weight", 0)]);
    let tied = hf::tied(source, "tie_embeddings");
    let norm = Norm { kind: norm_kind(source), eps: EPS };
    let (d_model, n_rows) = (d_model?, n_rows?);
    let mixer = match source.config.text("ssm_cfg.layer", source.faults).unwrap_or("Mamba1") {
        "Mamba1" => Mixer::S6(s6(source, n_layers, d_model)?),
        "Mamba2" => Mixer::Ssd(ssd(source, n_layers, d_model)?),
        _ => {
            source.config.unsupported("ssm_cfg.layer", "Mamba1 or Mamba2", source.faults);
            return None;
        }
    };
    let family = Family::MambaSsm;
    Some(LanguageModel { family, d_model, n_layers, n_rows, embedding, tied, norm, mixer })
}

fn refuse_unsupported(source: &mut Source<'_>) {
    let (config, faults) = (source.config, &mut *source.faults);
    if config.get("d_intermediate").is_some_and(|v| v.as_u64() != Some(0)) {
        config.unsupported("d_intermediate", "0, no feed-forward layers", faults);
    }
    if config.get("attn_layer_idx").and_then(Value::as_array).is_some_and(|layers| !layers.is_empty()) {
        config.unsupported("attn_layer_idx", "an empty list, no attention layers", faults);
    }
    if let Some(arguments) = config.get("ssm_cfg").and_then(Value::as_object) {
        for name in arguments.keys().filter(|name| !KNOWN_ARGUMENTS.contains(&name.as_str())) {
            config.unsupported(&format!("ssm_cfg.{name}"), "no such argument", faults);
        }
    }
    if config.text("ssm_cfg.activation", faults).is_some_and(|act| !["silu", "swish"].contains(&act)) {
        config.unsupported("ssm_cfg.activation", "silu", faults);
    }
}

/// A norm with a bias is a LayerNorm, whatever `rms_norm` says: builds of `mamba_ssm` without Triton ignore the flag.
fn norm_kind(source: &mut Source<'_>) -> NormKind {
    let rms = source.config.flag("rms_norm", source.faults).unwrap_or(true);
    if source.has("backbone.norm_f.bias") {
        source.compare("rms_norm", rms, false);
        NormKind::Layer
    } else if rms {
        NormKind::Rms
    } else {
        NormKind::Layer
    }
}

fn s6(source: &mut Source<'_>, n_layers: usize, d_model: usize) -> Option<S6> {
    let (config, faults) = (source.config, &mut *source.faults);
    let given = mamba::Given {
        d_inner: Some(config.size("ssm_cfg.expand", faults).unwrap_or(2) * d_model),
        d_state: Some(config.size("ssm_cfg.d_state", faults).unwrap_or(16)),
        dt_rank: Some(config.size_or_auto("ssm_cfg.dt_rank", faults).unwrap_or(d_model.div_ceil(16))),
        d_conv: Some(config.size("ssm_cfg.d_conv", faults).unwrap_or(4)),
    };
    let keys = mamba::Keys {
        d_inner: "ssm_cfg.expand",
        d_state: "ssm_cfg.d_state",
        dt_rank: "ssm_cfg.dt_rank",
        d_conv: "ssm_cfg.d_conv",
    };
    let flags = mamba::S6Flags {
        proj_bias: config.flag("ssm_cfg.bias", faults).unwrap_or(false),
        conv_bias: config.flag("ssm_cfg.conv_bias", faults).unwrap_or(true),
        dbc_norm_eps: None,
    };
    mamba::sizes(source, n_layers, given, keys, flags)
}

fn ssd(source: &mut Source<'_>, n_layers: usize, d_model: usize) -> Option<Ssd> {
    let (config, faults) = (source.config, &mut *source.faults);
    let d_inner = config.size("ssm_cfg.expand", faults).unwrap_or(2) * d_model;
    if config.size("ssm_cfg.d_ssm", faults).is_some_and(|d_ssm| d_ssm != d_inner) {
        config.unsupported("ssm_cfg.d_ssm", format!("the inner width {d_inner}"), faults);
    }
    let given = mamba2::Given {
        d_inner: Some(d_inner),
        n_heads: None,
        head_dim: Some(config.size("ssm_cfg.headdim", faults).unwrap_or(64)),
        n_groups: Some(config.size("ssm_cfg.ngroups", faults).unwrap_or(1)),
        d_state: config.size("ssm_cfg.d_state", faults).unwrap_or(128),
        d_conv: Some(config.size("ssm_cfg.d_conv", faults).unwrap_or(4)),
    };
    let keys = mamba2::Keys {
        d_inner: "ssm_cfg.expand",
        n_heads: "ssm_cfg.headdim",
        head_dim: "ssm_cfg.headdim",
        n_groups: "ssm_cfg.ngroups",
        d_state: "ssm_cfg.d_state",
        d_conv: "ssm_cfg.d_conv",
    };
    let norm_before_gate = config.flag("ssm_cfg.norm_before_gate", faults).unwrap_or(false);
    let flags = mamba2::SsdFlags {
        proj_bias: config.flag("ssm_cfg.bias", faults).unwrap_or(false),
        conv_bias: config.flag("ssm_cfg.conv_bias", faults).unwrap_or(true),
        dt_limit: config.interval("ssm_cfg.dt_limit", faults),
        gated_norm: config
            .flag("ssm_cfg.rmsnorm", faults)
            .unwrap_or(true)
            .then_some(GatedNorm { eps: EPS, norm_before_gate }),
        chunk_size: config.size("ssm_cfg.chunk_size", faults).or(Some(256)),
    };
    mamba2::sizes(source, n_layers, given, keys, flags)
}
