//! Matrix tiles against the interpreter, on every kind of bits.

use super::dots::noise;
use super::harness::{Buffer, Case, check_on};
use crate::kernel::{Access, Elem, Kernel, KernelBuilder, RegTy, TileLayout, TileRole, TileTy};
use crate::target::CpuLevel;

/// A tile of each block is added to what the sums were; the rows of the left factor have a gap between them.
fn product(a: Elem, w: Elem, sum: Elem) -> (Kernel, i64) {
    let step = 64 / a.size() as i64;
    let stride = step + 3;
    let mut k = KernelBuilder::cpu("tiles");
    let x = k.param("x", a, Access::Read);
    let y = k.param("y", w, Access::Read);
    let z = k.param("z", sum, Access::ReadWrite);
    let mut tile = |role, rows: i64, cols: i64, elem| {
        k.var(RegTy::Tile(TileTy { rows: rows as u16, cols: cols as u16, elem, role }))
    };
    let (left, right) = (tile(TileRole::A, 16, step, a), tile(TileRole::B, step, 16, w));
    let (acc, other) = (tile(TileRole::Acc, 16, 16, sum), tile(TileRole::Acc, 16, 16, sum));
    let block = k.block_idx();
    let [x_at, y_at, z_at] = [16 * stride, 16 * step, 256].map(|n| k.mul(block, n));
    let [x_stride, y_stride, z_stride] = [stride, 64 / w.size() as i64, 16].map(|n| k.const_i64(n));
    k.tile_load_to(left, x, (x_at, x_stride), TileLayout::RowMajor);
    k.tile_load_to(right, y, (y_at, y_stride), TileLayout::Interleaved);
    k.tile_load_to(acc, z, (z_at, z_stride), TileLayout::RowMajor);
    k.mma_to(left, right, acc);
    k.tile_clear(other);
    k.mma_to(left, right, other);
    k.tile_store(z, z_at, z_stride, TileLayout::RowMajor, acc);
    let beyond = k.add(z_at, 256 * 8);
    k.tile_store(z, beyond, z_stride, TileLayout::RowMajor, other);
    (k.finish(), stride)
}

const BLOCKS: usize = 8;

fn check([a, w, sum]: [Elem; 3], bits: [(u64, u64); 2]) {
    let (kernel, stride) = product(a, w, sum);
    let [(narrow_low, narrow), (wide_low, wide)] = bits;
    let n = 16 * BLOCKS;
    let buffers = vec![
        Buffer::from_bits(a, noise(1, n * stride as usize).map(|x| (x & narrow) + narrow_low)),
        Buffer::from_bits(w, noise(2, n * 64 / w.size()).map(|x| (x & narrow) + narrow_low)),
        Buffer::from_bits(sum, noise(3, 2 * 16 * n).map(|x| (x & wide) + wide_low)),
    ];
    check_on(&[CpuLevel::X86_64V4Amx], &Case { kernel, grid: BLOCKS as i64, dims: Vec::new(), buffers });
}

#[test]
fn tiles_of_bytes_are_exact() {
    check([Elem::I8, Elem::U8, Elem::I32], [(0, 0xff), (0, 0xffff_ffff)]);
}

#[test]
fn tiles_of_halves_round_as_the_machine_does() {
    let halves = [Elem::Bf16, Elem::Bf16, Elem::F32];
    // Any bits; numbers about 1; tiny ones, whose results are about the least normal number.
    check(halves, [(0, 0xffff), (0, 0xffff_ffff)]);
    check(halves, [(120 << 7, 0x87ff), (119 << 23, 0x87ff_ffff)]);
    check(halves, [(56 << 7, 0x87ff), (0, 0x81ff_ffff)]);
}
