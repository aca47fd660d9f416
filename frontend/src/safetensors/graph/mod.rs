//! From the description of a language model to its graph.

mod nn;
mod s6;
mod ssd;

use super::checkpoint::Checkpoint;
use super::recipes::{LanguageModel, Mixer, NormKind, layer_path};
use nn::{Built, Net};
use ssmc_ir::ops::{Activation, BinaryFn, CausalConv1d, Gather};
use ssmc_ir::{DType, Dim, Graph, TensorType, ValueId, Weights};

/// What the mixers of one call share: the sequence numbers, if the tokens are packed.
#[derive(Clone, Copy)]
struct Inputs {
    seq_idx: ValueId,
}

/// The recurrent state of one layer, before or after the call.
#[derive(Clone, Copy)]
struct State {
    /// The last `d_conv - 1` inputs of the convolution: `[B,K-1,C]`.
    conv: ValueId,
    /// `[B,D,N]` or `[B,H,P,N]`.
    ssm: ValueId,
}

/// The extents that are known only when the model runs.
fn batch() -> Dim {
    Dim::symbol("batch")
}

fn seq_len() -> Dim {
    Dim::symbol("seq_len")
}

/// Builds the graph of a checkpoint that fits the description, with the weights that it names.
///
/// # Equation u = `embedding[input_ids]`; u += mixer(norm(u)) for each layer; logits = head(norm_f(u))
/// # Shapes   input_ids: `i64[B,L]`, seq_idx: `i32[B,L]`, states -> logits: `f32[B,L,V]`, logits_last: `f32[B,V]`, states
pub(super) fn build(model: &LanguageModel, checkpoint: &Checkpoint) -> Built<(Graph, Weights)> {
    let mut net = Net::new(model.family.name(), checkpoint);
    let ids = net.g.input("input_ids", TensorType::new(DType::I64, [batch(), seq_len()]));
    let seq_idx = net.g.input("seq_idx", TensorType::new(DType::I32, [batch(), seq_len()]));
    let states: Vec<State> =
        (0..model.n_layers).map(|layer| state_inputs(&mut net, &model.mixer, layer)).collect();

    net.at(model.embedding.trim_end_matches(".weight"));
    let table = net.stored(&model.embedding)?;
    let rows = net.g.op(Gather { axis: 0 }, &[table, ids])?;
    let mut u = net.g.cast(rows, DType::F32)?;

    let mut new_states = Vec::with_capacity(states.len());
    for (layer, state) in states.into_iter().enumerate() {
        let path = layer_path(layer);
        let normed = norm(&mut net, model, u, &format!("{path}.norm"))?;
        let mixer = format!("{path}.mixer");
        let (y, new_state) = match &model.mixer {
            Mixer::S6(s6) => s6::mix(&mut net, s6, &mixer, normed, state, Inputs { seq_idx })?,
            Mixer::Ssd(ssd) => ssd::mix(&mut net, ssd, &mixer, normed, state, Inputs { seq_idx })?,
        };
        net.at(path);
        u = net.g.binary(BinaryFn::Add, u, y)?;
        new_states.push(new_state);
    }

    net.at("lm_head");
    let head = if model.tied { net.g.cast(table, DType::F32)? } else { net.weight("lm_head.weight")? };
    let logits = {
        let normed = norm(&mut net, model, u, "backbone.norm_f")?;
        net.at("lm_head");
        net.project(normed, head)?
    };
    let logits_last = {
        net.at("backbone.norm_f");
        let last = net.g.slice(u, 1, seq_len() - 1i64, 1)?;
        let last = net.g.reshape(last, [batch(), Dim::from(model.d_model)])?;
        let normed = norm(&mut net, model, last, "backbone.norm_f")?;
        net.at("lm_head");
        net.project(normed, head)?
    };
    net.g.output("logits", logits);
    net.g.output("logits_last", logits_last);
    for (layer, State { conv, ssm }) in new_states.into_iter().enumerate() {
        let (conv_name, ssm_name) = state_names(layer);
        net.g.output(conv_name, conv);
        net.g.output(ssm_name, ssm);
    }
    Ok((net.g.finish(), net.weights))
}

fn state_names(layer: usize) -> (String, String) {
    (format!("layers.{layer}.conv_state"), format!("layers.{layer}.ssm_state"))
}

fn state_inputs(net: &mut Net<'_>, mixer: &Mixer, layer: usize) -> State {
    let (d_conv, n_channels, ssm) = match mixer {
        Mixer::S6(s6) => (s6.d_conv, s6.d_inner, vec![s6.d_inner, s6.d_state]),
        Mixer::Ssd(ssd) => (ssd.d_conv, ssd.n_channels(), vec![ssd.n_heads, ssd.head_dim, ssd.d_state]),
    };
    let (conv_name, ssm_name) = state_names(layer);
    let mut input = |name: String, dims: &[usize]| {
        let shape: Vec<Dim> = std::iter::once(batch()).chain(dims.iter().map(|d| Dim::from(*d))).collect();
        net.g.input(name, TensorType::new(DType::F32, shape))
    };
    State { conv: input(conv_name, &[d_conv - 1, n_channels]), ssm: input(ssm_name, &ssm) }
}

fn norm(net: &mut Net<'_>, model: &LanguageModel, x: ValueId, module: &str) -> Built<ValueId> {
    match model.norm.kind {
        NormKind::Rms => net.rms_norm(x, module, model.norm.eps),
        NormKind::Layer => net.layer_norm(x, module, model.norm.eps),
    }
}

/// The causal convolution of a mixer, then silu. x: `[B,L,C]` -> y: `[B,L,C]`, state_out: `[B,K-1,C]`.
fn conv1d(
    net: &mut Net<'_>,
    mixer: &str,
    x: ValueId,
    has_bias: bool,
    state: ValueId,
    inputs: Inputs,
) -> Built<(ValueId, ValueId)> {
    let module = format!("{mixer}.conv1d");
    net.at(module.as_str());
    let w = net.weight(&format!("{module}.weight"))?;
    let (n_channels, width) = (net.g.shape(w)[0].clone(), net.g.shape(w)[2].clone());
    let w = net.g.reshape(w, [n_channels, width])?;
    let bias = if has_bias { Some(net.weight(&format!("{module}.bias"))?) } else { None };
    let conv = CausalConv1d { activation: Activation::None };
    let operands = [Some(x), Some(w), bias, Some(state), Some(inputs.seq_idx)];
    let results = net.g.node(conv, &operands, Vec::new())?;
    let y = net.silu(results[0])?;
    Ok((y, results[1]))
}
