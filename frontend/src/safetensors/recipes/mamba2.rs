//! `transformers` `mamba2`.

use super::hf::{self, Backbone};
use super::{Family, GatedNorm, LanguageModel, Mixer, Ssd};
use crate::safetensors::schema::Source;

/// Reads the description of a `mamba2` model.
pub(super) fn read(source: &mut Source<'_>) -> Option<LanguageModel> {
    let Backbone { n_layers, d_model, n_rows, embedding, tied, norm, proj_bias, conv_bias } =
        hf::backbone(source)?;
    let expanded = hf::expanded(source, d_model);
    let (config, faults) = (source.config, &mut *source.faults);
    let given = Given {
        d_inner: expanded,
        n_heads: config.size("num_heads", faults),
        head_dim: config.size("head_dim", faults),
        n_groups: config.size("n_groups", faults),
        d_state: config.size("state_size", faults).unwrap_or(128),
        d_conv: config.size("conv_kernel", faults),
    };
    let keys = Keys {
        d_inner: "expand",
        n_heads: "num_heads",
        head_dim: "head_dim",
        n_groups: "n_groups",
        d_state: "state_size",
        d_conv: "conv_kernel",
    };
    let flags = SsdFlags {
        proj_bias,
        conv_bias,
        dt_limit: config.interval("time_step_limit", faults),
        gated_norm: Some(GatedNorm { eps: norm.eps, norm_before_gate: false }),
        chunk_size: config.size("chunk_size", faults),
    };
    let mixer = Mixer::Ssd(sizes(source, n_layers, given, keys, flags)?);
    let family = Family::Mamba2;
    Some(LanguageModel { family, d_model, n_layers, n_rows, embedding, tied, norm, mixer })
}

/// The sizes that a config gives.
pub(super) struct Given {
    pub(super) d_inner: Option<usize>,
    pub(super) n_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) n_groups: Option<usize>,
    /// Its default included: the tensors only show the product of `n_groups` and `d_state`.
    pub(super) d_state: usize,
    pub(super) d_conv: Option<usize>,
}

/// The keys under which it gives them.
pub(super) struct Keys {
    pub(super) d_inner: &'static str,
    pub(super) n_heads: &'static str,
    pub(super) head_dim: &'static str,
    pub(super) n_groups: &'static str,
    pub(super) d_state: &'static str,
    pub(super) d_conv: &'static str,
}

/// The properties of a mixer that no tensor tells.
pub(super) struct SsdFlags {
    pub(super) proj_bias: bool,
    pub(super) conv_bias: bool,
    pub(super) dt_limit: Option<(f64, f64)>,
    pub(super) gated_norm: Option<GatedNorm>,
    pub(super) chunk_size: Option<usize>,
}

/// The sizes of a Mamba-2 mixer, from the tensors of all layers and the config.
pub(super) fn sizes(
    source: &mut Source<'_>,
    n_layers: usize,
    given: Given,
    keys: Keys,
    flags: SsdFlags,
) -> Option<Ssd> {
    const MIXER: &str = "backbone.layers.{}.mixer";
    let name = |tensor: &str| format!("{MIXER}.{tensor}");
    let (conv, out_proj, norm) = (name("conv1d.weight"), name("out_proj.weight"), name("norm.weight"));
    let d_inner = source.size(keys.d_inner, given.d_inner, n_layers, &[(&out_proj, 1), (&norm, 0)]);
    let heads = [(&*name("A_log"), 0), (&*name("dt_bias"), 0)];
    let n_heads = source.size(keys.n_heads, given.n_heads, n_layers, &heads);
    let d_conv = source.size(keys.d_conv, given.d_conv, n_layers, &[(&conv, 2)]);
    let n_channels = source.size(keys.d_inner, None, n_layers, &[(&conv, 0), (&name("conv1d.bias"), 0)]);
    let (d_inner, n_heads, d_conv, n_channels) = (d_inner?, n_heads?, d_conv?, n_channels?);

    if d_inner % n_heads != 0 {
        source.bad_key(keys.n_heads, format!("a divisor of the inner width {d_inner}"), n_heads);
        return None;
    }
    let head_dim = d_inner / n_heads;
    if let Some(configured) = given.head_dim {
        source.compare(keys.head_dim, configured, head_dim);
    }
    let d_state = given.d_state;
    let n_groups = match given.n_groups {
        Some(n_groups) => n_groups,
        None => match n_channels.checked_sub(d_inner).filter(|bc| *bc > 0 && bc % (2 * d_state) == 0) {
            Some(bc) => bc / (2 * d_state),
            None => {
                let expected = format!("a divisor of half of {n_channels} - {d_inner}, the width of b and c");
                source.bad_key(keys.d_state, expected, d_state);
                return None;
            }
        },
    };
    if n_heads % n_groups != 0 {
        source.bad_key(keys.n_groups, format!("a divisor of the {n_heads} heads"), n_groups);
        return None;
    }
    let skip = source.checkpoint.tensors.get(&format!("{}.mixer.D", super::layer_path(0)));
    let d_per_channel = head_dim > 1 && skip.is_some_and(|d| d.shape == [d_inner as u64]);
    let SsdFlags { proj_bias, conv_bias, dt_limit, gated_norm, chunk_size } = flags;
    let (low, high) = dt_limit.unwrap_or((0.0, f64::INFINITY));
    Some(Ssd {
        n_heads,
        head_dim,
        n_groups,
        d_state,
        d_conv,
        proj_bias,
        conv_bias,
        dt_min: (low > 0.0).then_some(low),
        dt_max: high.is_finite().then_some(high),
        d_per_channel,
        gated_norm,
        chunk_size,
    })
}
