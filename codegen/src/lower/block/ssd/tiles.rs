//! The products of a chunk by single warps, whose tiles pass through registers.

use super::state::State;
use super::walk::{Chunk, Walk};
use super::{PAD, ReadOutMemory, STEPS, TILE, Y_PAD};
use crate::kernel::{BinaryOp, KernelBuilder, Reg, TileLayout, TileRole, TileTy};

fn factor(walk: &Walk<'_>, role: TileRole) -> TileTy {
    TileTy { elem: walk.elem, role, ..walk.tile() }
}

/// C B^T for the warp's rows: tiles beside each other.
fn scores(walk: &Walk<'_>, b: &mut KernelBuilder, m: &ReadOutMemory, at: Chunk) -> Vec<Reg> {
    let ([c, b_stage], pitch) = ([&m.c[0], &walk.memory.b[0]], walk.states + PAD);
    let row = b.mul(walk.threads.warp, TILE * pitch);
    let c_at = c.buffer(b, at.slot);
    let (c_at, b_at) = (b.add(c_at, row), b_stage.buffer(b, at.slot));
    let zero = b.tile_fill(walk.tile(), 0.0);
    let mut sums = vec![zero; (STEPS / TILE) as usize];
    for n in (0..walk.states).step_by(TILE as usize) {
        let at = b.add(c_at, n);
        let left = b.tile_load(factor(walk, TileRole::A), c.shared(), at, pitch, TileLayout::RowMajor);
        for (i, sum) in (0..).zip(&mut sums) {
            let at = b.add(b_at, i * TILE * pitch + n);
            let ty = factor(walk, TileRole::B);
            let right = b.tile_load(ty, b_stage.shared(), at, pitch, TileLayout::ColMajor);
            *sum = b.mma(left, right, *sum);
        }
    }
    sums
}

/// The rows of y that the warp has.
pub(super) fn read_out(walk: &Walk<'_>, b: &mut KernelBuilder, m: &ReadOutMemory, at: Chunk) {
    let (warp, unit, rows) = (walk.threads.warp, walk.threads.unit, walk.s.rows);
    let ty = walk.tile();
    let scores = scores(walk, b, m, at);
    let pitch = walk.states + PAD;
    let first = b.mul(warp, TILE);
    let row = b.mul(warp, TILE * pitch);
    let c_at = m.c[0].buffer(b, at.slot);
    let c_at = b.add(c_at, row);
    let zero = b.tile_fill(ty, 0.0);
    let mut y = vec![zero; (rows / TILE) as usize];
    for n in (0..walk.states).step_by(TILE as usize) {
        let at = b.add(c_at, n);
        let left = b.tile_load(factor(walk, TileRole::A), m.c[0].shared(), at, pitch, TileLayout::RowMajor);
        for (i, y) in (0..).zip(&mut y) {
            let at = b.const_i64(i * TILE * pitch + n);
            let h = b.tile_load(factor(walk, TileRole::B), m.state, at, pitch, TileLayout::ColMajor);
            *y = b.mma(left, h, *y);
        }
    }
    // A vector of rows is a tile whose columns do not move on, one of columns a tile whose rows do not.
    let rows_at = b.add(at.sums, first);
    let grown = b.tile_load(ty, m.grown, rows_at, 0, TileLayout::ColMajor);
    for y in &mut y {
        *y = b.tile_binary(BinaryOp::Mul, *y, grown);
    }
    let x_at = walk.x_at(b, unit, at.slot);
    let to = b.tile_load(ty, m.sums, rows_at, 0, TileLayout::ColMajor);
    for (u, sum) in (0..).zip(scores) {
        let cols_at = b.add(at.sums, u * TILE);
        let mask_at = b.sub(STEPS + u * TILE, first);
        let decay = decay(walk, b, m, (to, cols_at, mask_at));
        let score = b.tile_binary(BinaryOp::Mul, sum, decay);
        let score = b.tile_cast(score, walk.elem);
        let (x, pitch) = (&walk.memory.x, walk.memory.x.pitch());
        for (i, y) in (0..).zip(&mut y) {
            let at = b.add(x_at, u * TILE * pitch + i * TILE);
            let right = b.tile_load(factor(walk, TileRole::B), x.shared(), at, pitch, TileLayout::RowMajor);
            *y = b.mma(score, right, *y);
        }
    }
    let pitch = rows + Y_PAD;
    let row = b.mul(warp, TILE * pitch);
    for (i, tile) in (0..).zip(&y) {
        let at = b.add(row, i * TILE);
        b.tile_store(m.y, at, pitch, TileLayout::RowMajor, *tile);
    }
}

/// `2^(s[t] - s[u]) * dt[u]` for `u <= t`, 0 beyond: `to` is the tile of `s[t]`.
pub(super) fn decay(
    walk: &Walk<'_>,
    b: &mut KernelBuilder,
    m: &ReadOutMemory,
    (to, cols_at, mask_at): (Reg, Reg, Reg),
) -> Reg {
    let ty = walk.tile();
    let from = b.tile_load(ty, m.sums, cols_at, 0, TileLayout::RowMajor);
    let dt = b.tile_load(ty, m.dt, cols_at, 0, TileLayout::RowMajor);
    let mask = b.tile_load(ty, m.mask, mask_at, -1, TileLayout::RowMajor);
    let exponent = b.tile_binary(BinaryOp::Sub, to, from);
    let exponent = b.tile_binary(BinaryOp::Add, exponent, mask);
    let decay = b.tile_exp2(exponent);
    b.tile_binary(BinaryOp::Mul, decay, dt)
}

/// `H = 2^s[e] * H + weighted^T B`
pub(super) fn update(walk: &Walk<'_>, b: &mut KernelBuilder, state: &State, at: Chunk) {
    let m = &walk.memory;
    let kept = b.tile_load(walk.tile(), m.kept, at.kept, 0, TileLayout::RowMajor);
    let mut sums: Vec<Reg> =
        state.tiles.iter().map(|tile| b.tile_binary(BinaryOp::Mul, *tile, kept)).collect();
    let b_at = m.b[0].buffer(b, at.slot);
    for u in (0..STEPS).step_by(TILE as usize) {
        let pitch = m.x.pitch();
        let at = b.add(state.row, u * pitch);
        let x = b.tile_load(factor(walk, TileRole::A), m.weighted, at, pitch, TileLayout::ColMajor);
        for (sum, col) in sums.iter_mut().zip(&state.cols) {
            let pitch = walk.states + PAD;
            let at = b.add(b_at, *col);
            let at = b.add(at, u * pitch);
            let ty = factor(walk, TileRole::B);
            let right = b.tile_load(ty, m.b[0].shared(), at, pitch, TileLayout::RowMajor);
            *sum = b.mma(x, right, *sum);
        }
    }
    for (tile, sum) in state.tiles.iter().zip(sums) {
        b.assign(*tile, sum);
    }
}
