//! The Mamba-1 mixer.

use super::nn::{Built, Net};
use super::{Inputs, State, conv1d};
use crate::safetensors::recipes::S6;
use ssmc_ir::ValueId;
use ssmc_ir::ops::{BinaryFn, Scan, UnaryFn};

/// The mixer of one layer.
/// # Equation
/// ```text
/// x, z = in_proj(u); x = silu(conv1d(x)); dt, b, c = x_proj(x), each through a weightless RMS norm if the
/// family has it; dt = softplus(dt_proj(dt)); a = -exp(a_log);
/// h[t] = exp(dt*a)*h[t-1] + dt*b*x; y = c.h + d*x; out_proj(y * silu(z))
/// ```
/// # Shapes
/// ```text
/// u: [B,L,d_model], h: [B,D,N] -> [B,L,d_model]
/// ```
/// # Source   Gu & Dao 2023, algorithm 2
pub(super) fn mix(
    net: &mut Net<'_>,
    s6: &S6,
    path: &str,
    u: ValueId,
    state: State,
    inputs: Inputs,
) -> Built<(ValueId, State)> {
    let xz = net.linear(u, &format!("{path}.in_proj"), s6.proj_bias)?;
    let [x, z] = net.split_last(xz, [s6.d_inner; 2])?;
    let (x, conv) = conv1d(net, path, x, s6.conv_bias, state.conv, inputs)?;

    let dbc = net.linear(x, &format!("{path}.x_proj"), false)?;
    let [mut dt, mut b, mut c] = net.split_last(dbc, [s6.dt_rank, s6.d_state, s6.d_state])?;
    if let Some(eps) = s6.dbc_norm_eps {
        for part in [&mut dt, &mut b, &mut c] {
            *part = net.rms(*part, eps)?;
        }
    }
    let dt = net.linear(dt, &format!("{path}.dt_proj"), true)?;
    let dt = net.g.unary(UnaryFn::Softplus, dt)?;

    net.at(format!("{path}.A_log"));
    let a_log = net.weight(&format!("{path}.A_log"))?;
    let a = net.g.unary(UnaryFn::Exp, a_log)?;
    let a = net.g.unary(UnaryFn::Neg, a)?;

    net.at(format!("{path}.scan"));
    let log_decay = net.g.contract("bld,dn->bldn", &[dt, a])?;
    let a_bar = net.g.unary(UnaryFn::Exp, log_decay)?;
    let b_bar = net.g.contract("bld,bln,bld->bldn", &[dt, b, x])?;
    let operands = [Some(a_bar), Some(b_bar), Some(state.ssm), Some(inputs.seq_idx)];
    let scan = net.g.node(Scan { reverse: false }, &operands, Vec::new())?;
    let y = net.g.contract("bldn,bln->bld", &[scan[0], c])?;

    net.at(format!("{path}.D"));
    let skip = net.scale_by(x, &format!("{path}.D"))?;
    let y = net.g.binary(BinaryFn::Add, y, skip)?;

    net.at(format!("{path}.gate"));
    let gate = net.silu(z)?;
    let y = net.g.binary(BinaryFn::Mul, y, gate)?;
    let y = net.linear(y, &format!("{path}.out_proj"), s6.proj_bias)?;
    Ok((y, State { conv, ssm: scan[1] }))
}
