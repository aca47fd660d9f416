//! What each model family's folder means.
//!
//! A recipe reads the sizes of a model from its tensors and config and returns a [`LanguageModel`], a description that
//! lists the tensors it needs ([`LanguageModel::check`]) and from which the graph is built (`super::graph`).

mod falcon_mamba;
mod hf;
mod mamba;
mod mamba2;
mod mamba_ssm;

use super::schema::{Schema, Source};

/// The model families that folders of safetensors are imported for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    /// `transformers` `mamba`.
    Mamba,
    /// `transformers` `falcon_mamba`.
    FalconMamba,
    /// `transformers` `mamba2`.
    Mamba2,
    /// The original state-spaces naming and config, with Mamba-1 or Mamba-2 layers.
    MambaSsm,
}

impl Family {
    /// The name, as `model_type` spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mamba => "mamba",
            Self::FalconMamba => "falcon_mamba",
            Self::Mamba2 => "mamba2",
            Self::MambaSsm => "mamba_ssm",
        }
    }
}

/// Reads the description of the model. `None` if a fault makes it impossible.
pub(super) fn read(source: &mut Source<'_>) -> Option<LanguageModel> {
    match family(source)? {
        Family::Mamba => mamba::read(source),
        Family::FalconMamba => falcon_mamba::read(source),
        Family::Mamba2 => mamba2::read(source),
        Family::MambaSsm => mamba_ssm::read(source),
    }
}

fn family(source: &mut Source<'_>) -> Option<Family> {
    let config = source.config;
    if config.get("quantization_config").is_some() {
        config.unsupported("quantization_config", "weights that are not quantized", source.faults);
    }
    let Some(model_type) = config.get("model_type") else {
        if config.get("ssm_cfg").is_some() || config.get("n_layer").is_some() {
            return Some(Family::MambaSsm);
        }
        config.unsupported("model_type", EXPECTED_FAMILY, source.faults);
        return None;
    };
    match model_type.as_str() {
        // Early exports of Falcon-Mamba say `mamba`; only its own class and config have these.
        Some("mamba")
            if config.get("mixer_rms_eps").is_some() || has_class(source, "FalconMambaForCausalLM") =>
        {
            Some(Family::FalconMamba)
        }
        Some("mamba") => Some(Family::Mamba),
        Some("falcon_mamba") => Some(Family::FalconMamba),
        Some("mamba2") => Some(Family::Mamba2),
        _ => {
            config.unsupported("model_type", EXPECTED_FAMILY, source.faults);
            None
        }
    }
}

const EXPECTED_FAMILY: &str =
    "mamba, mamba2, falcon_mamba, or a state-spaces config with d_model, n_layer and ssm_cfg";

fn has_class(source: &Source<'_>, class: &str) -> bool {
    let classes = source.config.get("architectures").and_then(|v| v.as_array());
    classes.is_some_and(|classes| classes.iter().any(|c| c.as_str() == Some(class)))
}

/// A stack of identical layers `u + mixer(norm(u))` between an embedding table and a head.
#[derive(Clone, Debug)]
pub(super) struct LanguageModel {
    pub(super) family: Family,
    pub(super) d_model: usize,
    pub(super) n_layers: usize,
    /// Rows of the embedding table, padding included.
    pub(super) n_rows: usize,
    /// Tensor name of the embedding table.
    pub(super) embedding: String,
    /// Whether the head is the embedding table.
    pub(super) tied: bool,
    pub(super) norm: Norm,
    pub(super) mixer: Mixer,
}

/// The norms before each mixer and before the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub(super) kind: NormKind,
    pub(super) eps: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormKind {
    Rms,
    /// With a bias.
    Layer,
}

/// The mixer of every layer.
#[derive(Clone, Debug)]
pub(super) enum Mixer {
    S6(S6),
    Ssd(Ssd),
}

/// Mamba-1: a diagonal scan with a state of `d_state` per channel.
#[derive(Clone, Debug)]
pub(super) struct S6 {
    pub(super) d_inner: usize,
    pub(super) d_state: usize,
    pub(super) dt_rank: usize,
    pub(super) d_conv: usize,
    pub(super) proj_bias: bool,
    pub(super) conv_bias: bool,
    /// Epsilon of the weightless RMS norms on dt, b and c, if the family has them.
    pub(super) dbc_norm_eps: Option<f64>,
}

/// Mamba-2: heads with a scalar decay and a state of `head_dim` by `d_state`.
#[derive(Clone, Debug)]
pub(super) struct Ssd {
    pub(super) n_heads: usize,
    pub(super) head_dim: usize,
    pub(super) n_groups: usize,
    pub(super) d_state: usize,
    pub(super) d_conv: usize,
    pub(super) proj_bias: bool,
    pub(super) conv_bias: bool,
    /// Bounds of dt after softplus; `None` where they change nothing.
    pub(super) dt_min: Option<f64>,
    pub(super) dt_max: Option<f64>,
    /// Whether the skip weight has one value per channel, not per head.
    pub(super) d_per_channel: bool,
    /// The norm beside the gate; without it the gate alone is applied.
    pub(super) gated_norm: Option<GatedNorm>,
    pub(super) chunk_size: Option<usize>,
}

/// RMS norm over each group's channels, before or after the gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct GatedNorm {
    pub(super) eps: f64,
    pub(super) norm_before_gate: bool,
}

impl Ssd {
    pub(super) fn d_inner(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Channels of the convolution: x, b and c.
    pub(super) fn n_channels(&self) -> usize {
        self.d_inner() + 2 * self.n_groups * self.d_state
    }
}

/// The prefix of the names of a layer's tensors.
pub(super) fn layer_path(layer: usize) -> String {
    format!("backbone.layers.{layer}")
}

impl LanguageModel {
    /// The chunk length that the checkpoint suggests for chunked scans.
    pub(super) fn chunk_size(&self) -> Option<usize> {
        match &self.mixer {
            Mixer::S6(_) => None,
            Mixer::Ssd(ssd) => ssd.chunk_size,
        }
    }

    /// Compares the tensors that the model needs with those of the checkpoint.
    pub(super) fn check(&self, schema: &mut Schema<'_>) {
        let table = [self.n_rows, self.d_model];
        schema.require(self.embedding.as_str(), &table);
        if self.tied {
            schema.optional("lm_head.weight", &table);
        } else {
            schema.require("lm_head.weight", &table);
        }
        self.check_norm(schema, "backbone.norm_f");
        for layer in 0..self.n_layers {
            let path = layer_path(layer);
            self.check_norm(schema, &format!("{path}.norm"));
            match &self.mixer {
                Mixer::S6(s6) => s6.check(schema, &format!("{path}.mixer"), self.d_model),
                Mixer::Ssd(ssd) => ssd.check(schema, &format!("{path}.mixer"), self.d_model),
            }
        }
    }

    fn check_norm(&self, schema: &mut Schema<'_>, path: &str) {
        schema.require(format!("{path}.weight"), &[self.d_model]);
        if self.norm.kind == NormKind::Layer {
            schema.require(format!("{path}.bias"), &[self.d_model]);
        }
    }
}

impl S6 {
    fn check(&self, schema: &mut Schema<'_>, path: &str, d_model: usize) {
        let &Self { d_inner, d_state, dt_rank, d_conv, .. } = self;
        let mut require = |name: &str, shape: &[usize]| schema.require(format!("{path}.{name}"), shape);
        require("A_log", &[d_inner, d_state]);
        require("D", &[d_inner]);
        require("conv1d.weight", &[d_inner, 1, d_conv]);
        require("dt_proj.weight", &[d_inner, dt_rank]);
        require("dt_proj.bias", &[d_inner]);
        require("in_proj.weight", &[2 * d_inner, d_model]);
        require("out_proj.weight", &[d_model, d_inner]);
        require("x_proj.weight", &[dt_rank + 2 * d_state, d_inner]);
        if self.conv_bias {
            require("conv1d.bias", &[d_inner]);
        }
        if self.proj_bias {
            require("in_proj.bias", &[2 * d_inner]);
            require("out_proj.bias", &[d_model]);
        }
    }
}

impl Ssd {
    fn check(&self, schema: &mut Schema<'_>, path: &str, d_model: usize) {
        let (d_inner, n_channels, n_heads) = (self.d_inner(), self.n_channels(), self.n_heads);
        let mut require = |name: &str, shape: &[usize]| schema.require(format!("{path}.{name}"), shape);
        require("A_log", &[n_heads]);
        require("D", &[if self.d_per_channel { d_inner } else { n_heads }]);
        require("conv1d.weight", &[n_channels, 1, self.d_conv]);
        require("dt_bias", &[n_heads]);
        require("in_proj.weight", &[d_inner + n_channels + n_heads, d_model]);
        require("out_proj.weight", &[d_model, d_inner]);
        if self.gated_norm.is_some() {
            require("norm.weight", &[d_inner]);
        }
        if self.conv_bias {
            require("conv1d.bias", &[n_channels]);
        }
        if self.proj_bias {
            require("in_proj.bias", &[d_inner + n_channels + n_heads]);
            require("out_proj.bias", &[d_model]);
        }
    }
}
