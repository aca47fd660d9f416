//! The Mamba-2 mixer.

use super::nn::{Built, Net};
use super::{Inputs, State, conv1d};
use crate::safetensors::recipes::{GatedNorm, Ssd};
use ssmc_ir::ValueId;
use ssmc_ir::ops::{BinaryFn, Scan, UnaryFn};

/// The mixer of one layer. Head `r` of group `g` is head `g*R + r`, where R = H/G.
/// # Equation
/// ```text
/// z, xbc, dt = in_proj(u); x, b, c = silu(conv1d(xbc)); dt = clamp(softplus(dt + dt_bias)); a = -exp(a_log);
/// h[t] = exp(dt*a)*h[t-1] + dt*x*b; y = c.h + d*x; out_proj(gated_norm(y, z))
/// ```
/// # Shapes
/// ```text
/// u: [B,L,d_model], x: [B,L,G,R,P], dt: [B,L,G,R], b, c: [B,L,G,N], h: [B,H,P,N] -> [B,L,d_model]
/// ```
/// # Source   Dao & Gu 2024
pub(super) fn mix(
    net: &mut Net<'_>,
    ssd: &Ssd,
    path: &str,
    u: ValueId,
    state: State,
    inputs: Inputs,
) -> Built<(ValueId, State)> {
    let &Ssd { n_heads, head_dim, n_groups, d_state, .. } = ssd;
    let (d_inner, heads_per_group) = (ssd.d_inner(), n_heads / n_groups);
    let zxbcdt = net.linear(u, &format!("{path}.in_proj"), ssd.proj_bias)?;
    let [z, xbc, dt] = net.split_last(zxbcdt, [d_inner, ssd.n_channels(), n_heads])?;
    let (xbc, conv) = conv1d(net, path, xbc, ssd.conv_bias, state.conv, inputs)?;
    let [x, b, c] = net.split_last(xbc, [d_inner, n_groups * d_state, n_groups * d_state])?;
    let x = net.reshape_tail(x, 2, &[n_groups, heads_per_group, head_dim])?;
    let b = net.reshape_tail(b, 2, &[n_groups, d_state])?;
    let c = net.reshape_tail(c, 2, &[n_groups, d_state])?;

    let dt = step(net, ssd, path, dt)?;
    let dt = net.reshape_tail(dt, 2, &[n_groups, heads_per_group])?;

    net.at(format!("{path}.A_log"));
    let a_log = net.weight(&format!("{path}.A_log"))?;
    let a = net.g.unary(UnaryFn::Exp, a_log)?;
    let a = net.g.unary(UnaryFn::Neg, a)?;
    let a = net.reshape_tail(a, 0, &[n_groups, heads_per_group])?;

    net.at(format!("{path}.scan"));
    let log_decay = net.g.contract("blgr,gr->blgr", &[dt, a])?;
    let a_bar = net.g.unary(UnaryFn::Exp, log_decay)?;
    let a_bar = net.reshape_tail(a_bar, 2, &[n_groups, heads_per_group, 1, 1])?;
    let b_bar = net.g.contract("blgr,blgn,blgrp->blgrpn", &[dt, b, x])?;
    let h0 = net.reshape_tail(state.ssm, 1, &[n_groups, heads_per_group, head_dim, d_state])?;
    let operands = [Some(a_bar), Some(b_bar), Some(h0), Some(inputs.seq_idx)];
    let scan = net.g.node(Scan { reverse: false }, &operands, Vec::new())?;
    let y = net.g.contract("blgrpn,blgn->blgrp", &[scan[0], c])?;
    let ssm = net.reshape_tail(scan[1], 1, &[n_heads, head_dim, d_state])?;

    let skip = skip(net, ssd, path, x)?;
    let y = net.g.binary(BinaryFn::Add, y, skip)?;
    let y = net.reshape_tail(y, 2, &[d_inner])?;
    let y = gate(net, ssd, path, y, z)?;
    let y = net.linear(y, &format!("{path}.out_proj"), ssd.proj_bias)?;
    Ok((y, State { conv, ssm }))
}

/// clamp(softplus(dt + dt_bias)); a bound that changes nothing is left out. dt: `[B,L,H]`.
fn step(net: &mut Net<'_>, ssd: &Ssd, path: &str, dt: ValueId) -> Built<ValueId> {
    net.at(format!("{path}.dt_bias"));
    let dt = net.add_bias(dt, &format!("{path}.dt_bias"))?;
    let mut dt = net.g.unary(UnaryFn::Softplus, dt)?;
    for (bound, f) in [(ssd.dt_min, BinaryFn::Max), (ssd.dt_max, BinaryFn::Min)] {
        if let Some(bound) = bound {
            let bound = net.g.splat(bound, dt)?;
            dt = net.g.binary(f, dt, bound)?;
        }
    }
    Ok(dt)
}

/// d * x, with one d per head or per channel. x: `[B,L,G,R,P]`.
fn skip(net: &mut Net<'_>, ssd: &Ssd, path: &str, x: ValueId) -> Built<ValueId> {
    net.at(format!("{path}.D"));
    let d = net.weight(&format!("{path}.D"))?;
    let shape = net.g.shape(x).clone();
    let (groups, rest) = (ssd.n_groups, ssd.n_heads / ssd.n_groups);
    let d = if ssd.d_per_channel {
        let d = net.reshape_tail(d, 0, &[groups, rest, ssd.head_dim])?;
        net.g.broadcast(d, &[2, 3, 4], shape)?
    } else {
        let d = net.reshape_tail(d, 0, &[groups, rest])?;
        net.g.broadcast(d, &[2, 3], shape)?
    };
    net.g.binary(BinaryFn::Mul, x, d)
}

/// y * silu(z), with an RMS norm over each group's channels before or after it. y, z: `[B,L,D]`.
fn gate(net: &mut Net<'_>, ssd: &Ssd, path: &str, y: ValueId, z: ValueId) -> Built<ValueId> {
    let module = format!("{path}.norm");
    net.at(module.as_str());
    let gate = net.silu(z)?;
    let Some(GatedNorm { eps, norm_before_gate }) = ssd.gated_norm else {
        return net.g.binary(BinaryFn::Mul, y, gate);
    };
    let weight = format!("{module}.weight");
    if norm_before_gate {
        let normed = grouped_rms(net, ssd, y, eps)?;
        let scaled = net.scale_by(normed, &weight)?;
        net.g.binary(BinaryFn::Mul, scaled, gate)
    } else {
        let gated = net.g.binary(BinaryFn::Mul, y, gate)?;
        let normed = grouped_rms(net, ssd, gated, eps)?;
        net.scale_by(normed, &weight)
    }
}

fn grouped_rms(net: &mut Net<'_>, ssd: &Ssd, y: ValueId, eps: f64) -> Built<ValueId> {
    if ssd.n_groups == 1 {
        return net.rms(y, eps);
    }
    let d_inner = ssd.d_inner();
    let y = net.reshape_tail(y, 2, &[ssd.n_groups, d_inner / ssd.n_groups])?;
    let y = net.rms(y, eps)?;
    net.reshape_tail(y, 2, &[d_inner])
}
