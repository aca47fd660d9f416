//! The products of a chunk by warp groups, whose matrix units read factors from shared memory by themselves.
//!
//! B is read along its states for the scores and along its steps for the state; X and what is weighed of it along their
//! steps. Scores go from one product to the next in registers.

use super::state::State;
use super::tiles::decay;
use super::walk::{Chunk, Walk};
use super::{PANEL, PANEL_SIZE, ReadOutMemory, STEPS, TILE, Y_PAD};
use crate::kernel::{BinaryOp, GroupFactor, GroupLeft, KernelBuilder, Mem, Reg, TileLayout};

/// Steps of 16 along a panel, or along the steps of a chunk.
const PRODUCTS: u16 = (PANEL / TILE) as u16;

fn factor(mem: impl Into<Mem>, index: Reg, is_turned: bool) -> GroupFactor {
    GroupFactor { mem: mem.into(), index, is_turned }
}

/// The rows of y that the warp has.
pub(super) fn read_out(walk: &Walk<'_>, b: &mut KernelBuilder, m: &ReadOutMemory, at: Chunk) {
    let (threads, ty) = (&walk.threads, walk.tile());
    let panels = m.c.len() as i64;
    let zero = b.tile_fill(ty, 0.0);
    let (scores, y) = (b.var_init(zero), b.var_init(zero));
    for (c, right) in m.c.iter().zip(&walk.memory.b) {
        let (c_at, b_at) = (c.buffer(b, at.slot), right.buffer(b, at.slot));
        let c = GroupLeft::Shared(factor(c.shared(), c_at, false));
        b.group_mma(scores, c, factor(right.shared(), b_at, false), PRODUCTS);
    }
    let state_at = b.mul(threads.unit, panels * PANEL_SIZE);
    for (panel, c) in (0..).zip(&m.c) {
        let (c_at, h_at) = (c.buffer(b, at.slot), b.add(state_at, panel * PANEL_SIZE));
        let c = GroupLeft::Shared(factor(c.shared(), c_at, false));
        b.group_mma(y, c, factor(m.state, h_at, false), PRODUCTS);
    }
    // The scores are there; the other product is under way while they are weighed. Weights that were made before would
    // not find registers.
    b.group_wait(panels as u16);
    let first = b.mul(threads.warp, TILE);
    let unit = b.mul(threads.unit, 2 * STEPS);
    let cols_at = b.add(at.sums, unit);
    let rows_at = b.add(cols_at, first);
    let to = b.tile_load(ty, m.sums, rows_at, 0, TileLayout::ColMajor);
    let mask_at = b.sub(STEPS, first);
    let decay = decay(walk, b, m, (to, cols_at, mask_at));
    let score = b.tile_binary(BinaryOp::Mul, scores, decay);
    let score = b.tile_cast(score, walk.elem);
    let grown = b.tile_load(ty, m.grown, rows_at, 0, TileLayout::ColMajor);
    b.group_wait(0);
    let scaled = b.tile_binary(BinaryOp::Mul, y, grown);
    b.assign(y, scaled);
    let x_at = walk.x_at(b, threads.unit, at.slot);
    b.group_mma(y, GroupLeft::Tile(score), factor(walk.memory.x.shared(), x_at, true), PRODUCTS);
    b.group_wait(0);
    let pitch = walk.s.rows + Y_PAD;
    let at = b.mul(threads.warp, TILE * pitch);
    let unit = b.mul(threads.unit, STEPS * pitch);
    let at = b.add(at, unit);
    b.tile_store(m.y, at, pitch, TileLayout::RowMajor, y);
}

/// `H = 2^s[e] * H + weighted^T B`
pub(super) fn update(walk: &Walk<'_>, b: &mut KernelBuilder, state: &State, at: Chunk) {
    let (m, unit) = (&walk.memory, walk.threads.unit);
    let kept_at = b.mul(unit, 2 * PANEL);
    let kept_at = b.add(kept_at, at.kept);
    let kept = b.tile_load(walk.tile(), m.kept, kept_at, 0, TileLayout::RowMajor);
    let weighted_at = b.mul(unit, PANEL_SIZE);
    for tile in &state.tiles {
        let scaled = b.tile_binary(BinaryOp::Mul, *tile, kept);
        b.assign(*tile, scaled);
    }
    for (tile, right) in state.tiles.iter().zip(&m.b) {
        let b_at = right.buffer(b, at.slot);
        let left = GroupLeft::Shared(factor(m.weighted, weighted_at, true));
        b.group_mma(*tile, left, factor(right.shared(), b_at, true), PRODUCTS);
    }
    b.group_wait(0);
}
