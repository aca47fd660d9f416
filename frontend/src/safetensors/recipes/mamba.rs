//! `transformers` `mamba`.

use super::hf::{self, Backbone};
use super::{Family, LanguageModel, Mixer, S6};
use crate::safetensors::schema::Source;

/// Reads the description of a `mamba` model.
pub(super) fn read(source: &mut Source<'_>) -> Option<LanguageModel> {
    read_as(source, Family::Mamba, None)
}

/// Reads a model with Mamba-1 mixers and the config keys of `mamba`.
pub(super) fn read_as(
    source: &mut Source<'_>,
    family: Family,
    dbc_norm_eps: Option<f64>,
) -> Option<LanguageModel> {
    let Backbone { n_layers, d_model, n_rows, embedding, tied, norm, proj_bias, conv_bias } =
        hf::backbone(source)?;
    let expanded = hf::expanded(source, d_model);
    let (config, faults) = (source.config, &mut *source.faults);
    let given = Given {
        d_inner: config.size("intermediate_size", faults).or(expanded),
        d_state: config.size("state_size", faults),
        dt_rank: config.size_or_auto("time_step_rank", faults),
        d_conv: config.size("conv_kernel", faults),
    };
    let keys = Keys {
        d_inner: if config.get("intermediate_size").is_some() { "intermediate_size" } else { "expand" },
        d_state: "state_size",
        dt_rank: "time_step_rank",
        d_conv: "conv_kernel",
    };
    let s6 = sizes(source, n_layers, given, keys, S6Flags { proj_bias, conv_bias, dbc_norm_eps })?;
    let mixer = Mixer::S6(s6);
    Some(LanguageModel { family, d_model, n_layers, n_rows, embedding, tied, norm, mixer })
}

/// The sizes that a config gives.
pub(super) struct Given {
    pub(super) d_inner: Option<usize>,
    pub(super) d_state: Option<usize>,
    pub(super) dt_rank: Option<usize>,
    pub(super) d_conv: Option<usize>,
}

/// The keys under which it gives them.
pub(super) struct Keys {
    pub(super) d_inner: &'static str,
    pub(super) d_state: &'static str,
    pub(super) dt_rank: &'static str,
    pub(super) d_conv: &'static str,
}

/// The properties of a mixer that no tensor tells.
pub(super) struct S6Flags {
    pub(super) proj_bias: bool,
    pub(super) conv_bias: bool,
    pub(super) dbc_norm_eps: Option<f64>,
}

/// The sizes of a Mamba-1 mixer, from the tensors of all layers and the config.
pub(super) fn sizes(
    source: &mut Source<'_>,
    n_layers: usize,
    given: Given,
    keys: Keys,
    flags: S6Flags,
) -> Option<S6> {
    const MIXER: &str = "backbone.layers.{}.mixer";
    let name = |tensor: &str| format!("{MIXER}.{tensor}");
    let (a_log, conv, dt_proj) = (name("A_log"), name("conv1d.weight"), name("dt_proj.weight"));
    let d_inner = source.size(
        keys.d_inner,
        given.d_inner,
        n_layers,
        &[(&a_log, 0), (&conv, 0), (&dt_proj, 0), (&name("D"), 0), (&name("out_proj.weight"), 1)],
    );
    let d_state = source.size(keys.d_state, given.d_state, n_layers, &[(&a_log, 1)]);
    let dt_rank = source.size(keys.dt_rank, given.dt_rank, n_layers, &[(&dt_proj, 1)]);
    let d_conv = source.size(keys.d_conv, given.d_conv, n_layers, &[(&conv, 2)]);
    let S6Flags { proj_bias, conv_bias, dbc_norm_eps } = flags;
    let (d_inner, d_state, dt_rank, d_conv) = (d_inner?, d_state?, dt_rank?, d_conv?);
    Some(S6 { d_inner, d_state, dt_rank, d_conv, proj_bias, conv_bias, dbc_norm_eps })
}
