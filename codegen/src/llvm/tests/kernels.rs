//! Whole kernels: control flow, memory of every kind, tails, and how they combine.

use half::bf16;

use super::harness::{Buffer, check_kernel};
use crate::kernel::{Access, CompareOp, Elem, KernelBuilder, ReduceOp};

/// Numbers in [-2, 2) that no short decimal hits, the same on every run.
fn noise(len: usize, seed: u32) -> impl Iterator<Item = f32> {
    (0..len as u32).map(move |i| {
        let mixed = (i ^ seed.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b9);
        (mixed ^ mixed >> 15) as f32 / (1u64 << 30) as f32 - 2.0
    })
}

#[test]
fn elementwise_with_a_masked_tail() {
    for lanes in [1, 8, 16, 32] {
        let mut b = KernelBuilder::cpu("gate");
        let x = b.param("x", Elem::F32, Access::Read);
        let z = b.param("z", Elem::F32, Access::Read);
        let y = b.param("y", Elem::F32, Access::ReadWrite);
        let len = b.dim("len");
        let block = b.block_idx();
        let start = b.mul(block, i64::from(lanes));
        let left = b.sub(len, start);
        let mask = b.lane_mask(left, lanes);
        let (x, z) = (b.load_masked(x, start, lanes, mask), b.load_masked(z, start, lanes, mask));
        let old = b.load_masked(y, start, lanes, mask);
        let value = b.fma(x, z, old);
        let value = b.max(value, 0.25);
        b.store_masked(y, start, value, mask);
        let kernel = b.finish();
        for len in [1usize, 31, 32, 77] {
            let buffers =
                [Buffer::f32(noise(len, 1)), Buffer::f32(noise(len, 2)), Buffer::f32(noise(len, 3))];
            check_kernel(&kernel, len.div_ceil(usize::from(lanes)) as i64, &[len as i64], &buffers);
        }
    }
}

#[test]
fn masked_memory_of_every_type() {
    for elem in Elem::ALL {
        for lanes in [1, 3, 8, 32] {
            let mut b = KernelBuilder::cpu("masked");
            let x = b.param("x", elem, Access::Read);
            let on = b.param("on", Elem::Bool, Access::Read);
            let y = b.param("y", elem, Access::Write);
            let block = b.block_idx();
            let start = b.mul(block, i64::from(lanes));
            let mask = b.load(on, start, lanes);
            let read = b.load_masked(x, start, lanes, mask);
            b.store(y, start, read);
            let off = b.not(mask);
            let zero = b.zero(elem.x(lanes));
            b.store_masked(y, start, zero, off);
            let all = b.load(x, start, lanes);
            b.store_masked(y, start, all, mask);
            let len = 96;
            let bits =
                (0..len as u64).map(|i| if elem == Elem::Bool { i % 3 % 2 } else { i * 0x0123_4567_89ab });
            let on = (0..len).map(|i| i % 5 < 3);
            let buffers = [Buffer::from_bits(elem, bits), Buffer::bool(on), Buffer::zeros(elem, len)];
            check_kernel(&b.finish(), (len / usize::from(lanes)) as i64, &[], &buffers);
        }
    }
}

#[test]
fn masked_off_lanes_touch_no_memory() {
    let mut b = KernelBuilder::cpu("far");
    let x = b.param("x", Elem::F32, Access::ReadWrite);
    let far = b.dim("far");
    let none = b.lane_mask(0, 8);
    let value = b.load_masked(x, far, 8, none);
    b.store_masked(x, far, value, none);
    let index = b.iota(Elem::I64, 8);
    let offset = b.splat(far, 8);
    let index = b.add(index, offset);
    let gathered = b.gather(x, index, Some(none));
    b.scatter(x, index, gathered, Some(none));
    b.store(x, 0, gathered);
    check_kernel(&b.finish(), 1, &[1 << 44], &[Buffer::f32(noise(8, 1))]);
}

#[test]
fn dot_product_with_several_accumulators() {
    let mut b = KernelBuilder::cpu("dot");
    let x = b.param("x", Elem::F32, Access::Read);
    let w = b.param("w", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let len = b.dim("len");
    let row = b.block_idx();
    let base = b.mul(row, len);
    let zero = b.zero(Elem::F32.x(8));
    let sums = [0, 8].map(|_| b.var_init(zero));
    b.for_("i", 0, len, 16, |b, i| {
        for (sum, offset) in sums.into_iter().zip([0, 8]) {
            let at = b.add(i, offset);
            let row_at = b.add(base, at);
            let (x, w) = (b.load(x, row_at, 8), b.load(w, at, 8));
            let value = b.fma(x, w, sum);
            b.assign(sum, value);
        }
    });
    let total = b.add(sums[0], sums[1]);
    let total = b.reduce(ReduceOp::Add, total);
    b.store(y, row, total);
    let buffers = [Buffer::f32(noise(5 * 64, 1)), Buffer::f32(noise(64, 2)), Buffer::zeros(Elem::F32, 5)];
    check_kernel(&b.finish(), 5, &[64], &buffers);
}

/// h = a*h + b over time for a tile of channels, with the state kept in a mutable register and updated in place.
#[test]
fn scan_with_state_in_place() {
    let mut b = KernelBuilder::cpu("scan");
    let a = b.param("a", Elem::F32, Access::Read);
    let x = b.param("x", Elem::Bf16, Access::Read);
    let h = b.param("h", Elem::F32, Access::ReadWrite);
    let y = b.param("y", Elem::Bf16, Access::Write);
    let (len, width) = (b.dim("len"), b.dim("width"));
    let tile = b.block_idx();
    let channel = b.mul(tile, 8);
    let state = b.load(h, channel, 8);
    let state = b.var_init(state);
    let decay = b.load(a, channel, 8);
    b.for_("t", 0, len, 1, |b, t| {
        let row = b.mul(t, width);
        let at = b.add(row, channel);
        let input = b.load(x, at, 8);
        let input = b.cast(input, Elem::F32);
        let next = b.fma(decay, state, input);
        b.assign(state, next);
        let out = b.cast(next, Elem::Bf16);
        b.store(y, at, out);
    });
    b.store(h, channel, state);
    let kernel = b.finish();
    for len in [0, 1, 9] {
        let x = noise(len * 24, 2).map(bf16::from_f32);
        let buffers = [
            Buffer::f32(noise(24, 1)),
            Buffer::bf16(x),
            Buffer::f32(noise(24, 3)),
            Buffer::zeros(Elem::Bf16, len * 24),
        ];
        check_kernel(&kernel, 3, &[len as i64, 24], &buffers);
    }
}

#[test]
fn branches_nested_in_loops() {
    let mut b = KernelBuilder::cpu("branches");
    let x = b.param("x", Elem::I32, Access::Read);
    let y = b.param("y", Elem::I32, Access::Write);
    let block = b.block_idx();
    let value = b.load(x, block, 1);
    let sum = b.var_init(value);
    b.for_("i", 0, 7, 2, |b, i| {
        b.for_("j", i, block, 3, |b, j| {
            let parity = b.and(j, 1);
            let odd = b.compare(CompareOp::Eq, parity, 1);
            b.if_else(
                odd,
                |b| {
                    let j = b.cast(j, Elem::I32);
                    let product = b.mul(sum, j);
                    b.assign(sum, product);
                },
                |b| {
                    let negative = b.compare(CompareOp::Lt, sum, 0);
                    b.if_(negative, |b| {
                        let flipped = b.neg(sum);
                        b.assign(sum, flipped);
                    });
                    let less = b.sub(sum, 12345);
                    b.assign(sum, less);
                },
            );
        });
    });
    b.store(y, block, sum);
    let buffers = [Buffer::i32((0..40).map(|i| i * 77 - 900)), Buffer::zeros(Elem::I32, 40)];
    check_kernel(&b.finish(), 40, &[], &buffers);
}

#[test]
fn gather_and_scatter_of_every_type() {
    for elem in Elem::ALL {
        for lanes in [1, 4, 8, 16] {
            for masked in [false, true] {
                let mut b = KernelBuilder::cpu("permute");
                let x = b.param("x", elem, Access::Read);
                let from = b.param("from", Elem::I32, Access::Read);
                let y = b.param("y", elem, Access::Write);
                let block = b.block_idx();
                let start = b.mul(block, i64::from(lanes));
                let source = b.load(from, start, lanes);
                let source = b.cast(source, Elem::I64);
                let mask = masked.then(|| b.compare(CompareOp::Ne, source, 17));
                let value = b.gather(x, source, mask);
                let iota = b.iota(Elem::I64, lanes);
                let first = b.splat(start, lanes);
                let target = b.add(iota, first);
                let target = b.xor(target, 3);
                b.scatter(y, target, value, mask);
                let len = 64;
                let bits = (0..len as u64)
                    .map(|i| if elem == Elem::Bool { i % 3 % 2 } else { i * 0x0123_4567_89ab });
                let buffers = [
                    Buffer::from_bits(elem, bits),
                    Buffer::i32((0..len).map(|i| (i * 29 + 5) as i32 % len as i32)),
                    Buffer::zeros(elem, len),
                ];
                check_kernel(&b.finish(), (len / usize::from(lanes)) as i64, &[], &buffers);
            }
        }
    }
}

#[test]
fn scatter_to_one_place_keeps_the_last_lane() {
    let mut b = KernelBuilder::cpu("collide");
    let y = b.param("y", Elem::I64, Access::Write);
    let value = b.iota(Elem::I64, 8);
    let target = b.shr(value, 2);
    b.scatter(y, target, value, None);
    check_kernel(&b.finish(), 1, &[], &[Buffer::zeros(Elem::I64, 2)]);
}

/// Each block transposes an 8 x 8 tile through a local array and divides by sums kept in another.
#[test]
fn local_arrays() {
    let mut b = KernelBuilder::cpu("transpose");
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let tile = b.local("tile", Elem::F32, 64);
    let sums = b.local("sums", Elem::F32, 8);
    let block = b.block_idx();
    let base = b.mul(block, 64);
    b.for_("row", 0, 8, 1, |b, row| {
        let offset = b.mul(row, 8);
        let at = b.add(base, offset);
        let value = b.load(x, at, 8);
        b.store(tile, offset, value);
        let sum = b.reduce(ReduceOp::Add, value);
        b.store(sums, row, sum);
    });
    let totals = b.load(sums, 0, 8);
    let steps = b.iota(Elem::I64, 8);
    let steps = b.mul(steps, 8);
    b.for_("column", 0, 8, 1, |b, column| {
        let start = b.splat(column, 8);
        let index = b.add(steps, start);
        let value = b.gather(tile, index, None);
        let value = b.div(value, totals);
        let offset = b.mul(column, 8);
        let at = b.add(base, offset);
        b.store(y, at, value);
    });
    let buffers = [Buffer::f32(noise(4 * 64, 7)), Buffer::zeros(Elem::F32, 4 * 64)];
    check_kernel(&b.finish(), 4, &[], &buffers);
}

#[test]
fn registers_keep_their_value_across_iterations_and_swap() {
    let mut b = KernelBuilder::cpu("fibonacci");
    let y = b.param("y", Elem::U64, Access::Write);
    let block = b.block_idx();
    let (zero, one) = (
        b.constant(crate::kernel::Const::int(Elem::U64, 0), 1),
        b.constant(crate::kernel::Const::int(Elem::U64, 1), 1),
    );
    let (low, high) = (b.var_init(zero), b.var_init(one));
    b.for_("i", 0, block, 1, |b, _| {
        let next = b.add(low, high);
        b.assign(low, high);
        b.assign(high, next);
    });
    b.store(y, block, low);
    check_kernel(&b.finish(), 95, &[], &[Buffer::zeros(Elem::U64, 95)]);
}
