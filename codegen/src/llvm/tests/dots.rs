//! Dot products of neighbors, and multiply-adds, on every kind of bits.

use super::harness::{Buffer, Case, check_on};
use crate::kernel::{Access, Elem, Kernel, KernelBuilder};
use crate::legalize::cpu::{CpuOptions, legalize};
use crate::llvm::emit_asm;
use crate::target::{CpuLevel, CpuTarget};

/// Bits that look random, the same on every run.
pub(super) fn noise(seed: u64, n: usize) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    })
}

fn dot([a, b, acc]: [Elem; 3], ratio: u16, lanes: u16) -> Kernel {
    let mut k = KernelBuilder::cpu("dot");
    let (x, y) = (k.param("a", a, Access::Read), k.param("b", b, Access::Read));
    let z = k.param("acc", acc, Access::ReadWrite);
    let block = k.block_idx();
    let at = k.mul(block, i64::from(lanes));
    let wide = k.mul(at, i64::from(ratio));
    let (x, y) = (k.load(x, wide, lanes * ratio), k.load(y, wide, lanes * ratio));
    let sum = k.load(z, at, lanes);
    let sum = k.dot(x, y, sum);
    k.store(z, at, sum);
    k.finish()
}

fn integers(elem: Elem, ratio: u16, lanes: u16) -> (Kernel, i64, Vec<Buffer>) {
    let other = if elem == Elem::U8 { Elem::I8 } else { elem };
    let kernel = dot([elem, other, Elem::I32], ratio, lanes);
    let n = 4096;
    let buffers = vec![
        // Extremes, which saturate where an instruction is not exact.
        Buffer::from_bits(
            elem,
            noise(1, n * usize::from(ratio)).map(|x| if x & 7 == 0 { u64::MAX } else { x }),
        ),
        Buffer::from_bits(
            other,
            noise(2, n * usize::from(ratio)).map(|x| if x & 7 == 0 { 1 << (other.bits() - 1) } else { x }),
        ),
        Buffer::from_bits(Elem::I32, noise(3, n)),
    ];
    (kernel, (n / usize::from(lanes)) as i64, buffers)
}

#[test]
fn bytes_are_multiplied_by_what_a_level_has() {
    let kernel = integers(Elem::U8, 4, 4).0;
    let assembly = |level| {
        let target = CpuTarget::of_level(level);
        emit_asm(&[legalize(&kernel, CpuOptions::of(&target)).unwrap()], &target).unwrap()
    };
    for (level, wanted, unwanted) in [
        (CpuLevel::Aarch64, "smull", "sdot"),
        (CpuLevel::Aarch64Dotprod, "sdot", "usdot"),
        (CpuLevel::Aarch64I8mm, "usdot", "smull"),
    ] {
        let text = assembly(level);
        assert!(text.contains(wanted) && !text.contains(unwanted), "{}: {text}", level.name());
    }
    insta::assert_snapshot!(assembly(CpuLevel::Aarch64I8mm));
}

/// Vectors as wide as those of a level.
fn lanes_of(level: CpuLevel) -> u16 {
    CpuTarget::of_level(level).f32_lanes() as u16
}

#[test]
fn integer_dots_are_exact() {
    for (elem, ratio) in [(Elem::U8, 4), (Elem::I8, 4), (Elem::I16, 2)] {
        for level in CpuLevel::ALL {
            let (kernel, grid, buffers) = integers(elem, ratio, lanes_of(level));
            check_on(&[level], &Case { kernel, grid, dims: Vec::new(), buffers });
        }
    }
}

#[test]
fn dots_of_halves_round_twice_and_flush() {
    let n = 1 << 16;
    let kernel = dot([Elem::Bf16, Elem::Bf16, Elem::F32], 2, 16);
    // Any bits; numbers about 1; tiny ones, whose results are about the least normal number.
    let narrow = [(0u64, 0xffffu64), (120 << 7, 0x87ff), (56 << 7, 0x87ff)];
    let wide = [(0u64, 0xffff_ffffu64), (119 << 23, 0x87ff_ffff), (0, 0x81ff_ffff)];
    for ((low, mask), (wide_low, wide_mask)) in narrow.into_iter().zip(wide) {
        let mut buffers: Vec<Buffer> =
            [1, 2].map(|i| Buffer::from_bits(Elem::Bf16, noise(i, 2 * n).map(|x| (x & mask) + low))).into();
        buffers.push(Buffer::from_bits(Elem::F32, noise(3, n).map(|x| (x & wide_mask) + wide_low)));
        let case = Case { kernel: kernel.clone(), grid: n as i64 / 16, dims: Vec::new(), buffers };
        check_on(&[CpuLevel::X86_64V4Bf16], &case);
    }
    // 2^-126 - 0.75 * 2^-150 is below the least normal number before its exponent is limited.
    let kernel = dot([Elem::Bf16, Elem::Bf16, Elem::F32], 2, 4);
    let lane = |x: u64| [x, 0, 0, x, x, x, 0, 0];
    let buffers = vec![
        Buffer::from_bits(Elem::Bf16, lane(52 << 7 | 0x40)),
        Buffer::from_bits(Elem::Bf16, lane(0x8000 | 51 << 7)),
        Buffer::from_bits(Elem::F32, [0x0080_0000; 4]),
    ];
    check_on(&[CpuLevel::X86_64V4Bf16], &Case { kernel, grid: 1, dims: Vec::new(), buffers });
}

#[test]
fn multiply_adds_round_once_on_every_level() {
    for (elem, n) in [(Elem::F32, 1 << 14), (Elem::F64, 1 << 12)] {
        let mut k = KernelBuilder::cpu("fma");
        let params = ["a", "b", "c"].map(|name| k.param(name, elem, Access::ReadWrite));
        let block = k.block_idx();
        let at = k.mul(block, 4);
        let [a, b, c] = params.map(|p| k.load(p, at, 4));
        let sum = k.fma(a, b, c);
        k.store(params[2], at, sum);
        let kernel = k.finish();
        let (exponent, one) = if elem == Elem::F32 { (23, 127) } else { (52, 1023) };
        let sign_and_fraction = (1u64 << (elem.bits() - 1)) | ((1 << exponent) - 1);
        // Exponents about 0, so that terms overlap and cancel; for f32 any bits too.
        let near = |x: u64| (x & sign_and_fraction) | (one - 8 + (x >> 40) % 16) << exponent;
        let fill = |seed| {
            let any = elem == Elem::F32;
            noise(seed, n).enumerate().map(move |(i, x)| {
                let x = x.wrapping_mul(0x2545_f491_4f6c_dd1d);
                if any && i % 3 == 0 { x } else { near(x) }
            })
        };
        let buffers: Vec<Buffer> = (1..4).map(|seed| Buffer::from_bits(elem, fill(seed))).collect();
        check_on(&CpuLevel::ALL, &Case { kernel, grid: n as i64 / 4, dims: Vec::new(), buffers });
    }
}
