use super::*;
use crate::kernel::interp::{Arg, Interpreter};
use crate::kernel::*;

const SOFT: CpuOptions =
    CpuOptions { f16_convert: false, fma: true, dot_u8: false, dot_i8: false, dot_bf16: false, tiles: false };

/// y = f(x) over one block of `lanes` elements.
fn kernel(from: Elem, to: Elem, lanes: u16, f: impl FnOnce(&mut KernelBuilder, Reg) -> Reg) -> Kernel {
    let mut b = KernelBuilder::cpu("k");
    let x = b.param("x", from, Access::Read);
    let y = b.param("y", to, Access::Write);
    let block = b.block_idx();
    let at = b.mul(block, usize::from(lanes));
    let v = b.load(x, at, lanes);
    let v = f(&mut b, v);
    let at = if b.lanes(v) == lanes { at } else { block };
    b.store(y, at, v);
    b.finish()
}

fn run(kernel: &Kernel, grid: usize, x: &[u8], y_len: usize) -> Vec<u8> {
    let (mut x, mut y) = (x.to_vec(), vec![0; y_len]);
    let args = [Arg::start(0), Arg::start(1)];
    Interpreter::new(kernel).unwrap().run(0..grid as i64, &[], &args, &mut [&mut x, &mut y]).unwrap();
    y
}

/// Runs the kernel as it is and legalized and expects the same bytes, but for the bits of NaN.
fn same_after(
    kernel: &Kernel,
    grid: usize,
    x: &[u8],
    y_len: usize,
    is_nan: impl Fn(&[u8]) -> bool,
    size: usize,
) {
    let legal = legalize(kernel, SOFT).unwrap();
    let (before, after) = (run(kernel, grid, x, y_len), run(&legal, grid, x, y_len));
    for (i, (b, a)) in before.chunks(size).zip(after.chunks(size)).enumerate() {
        assert!(b == a || (is_nan(b) && is_nan(a)), "element {i}: {b:x?} became {a:x?}");
    }
}

fn f32_nan(b: &[u8]) -> bool {
    f32::from_le_bytes(b.try_into().unwrap()).is_nan()
}

fn f16_nan(b: &[u8]) -> bool {
    ::half::f16::from_le_bytes(b.try_into().unwrap()).is_nan()
}

fn bf16_nan(b: &[u8]) -> bool {
    ::half::bf16::from_le_bytes(b.try_into().unwrap()).is_nan()
}

#[test]
fn every_half_widens_exactly() {
    let x: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for elem in [Elem::F16, Elem::Bf16] {
        let k = kernel(elem, Elem::F32, 256, |b, v| b.cast(v, Elem::F32));
        same_after(&k, 256, &x, 4 << 16, f32_nan, 4);
    }
}

#[test]
fn f32_narrows_with_ties_to_even() {
    // All exponents, and around every tie of both formats.
    let mantissas = (0u32..1 << 10).flat_map(|m| [0, 1, 0xfff, 0x1000, 0x1001].map(|low| m << 13 | low));
    let ties = (0u32..1 << 7).flat_map(|m| [0x7fff, 0x8000, 0x8001].map(|low| m << 16 | low));
    let mantissas: Vec<u32> = mantissas.chain(ties).collect();
    let bits = (0u32..512).step_by(3).chain([255, 511, 112, 113, 142, 143]);
    let mut x: Vec<u8> =
        bits.flat_map(|e| mantissas.iter().map(move |m| e << 23 | m)).flat_map(u32::to_le_bytes).collect();
    let grid = x.len().div_ceil(4 * 512);
    x.resize(grid * 4 * 512, 0);
    let k = kernel(Elem::F32, Elem::F16, 512, |b, v| b.cast(v, Elem::F16));
    same_after(&k, grid, &x, x.len() / 2, f16_nan, 2);
    let k = kernel(Elem::F32, Elem::Bf16, 512, |b, v| b.cast(v, Elem::Bf16));
    same_after(&k, grid, &x, x.len() / 2, bf16_nan, 2);
}

#[test]
fn half_arithmetic_keeps_its_bits() {
    let x: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (elem, nan) in [(Elem::F16, f16_nan as fn(&[u8]) -> bool), (Elem::Bf16, bf16_nan)] {
        let k = kernel(elem, elem, 64, |b, v| {
            let square = b.mul(v, v);
            let sum = b.fma(square, v, square);
            let positive = b.gt(sum, 0.0);
            let root = b.abs(sum);
            let root = b.sqrt(root);
            let negated = b.neg(root);
            b.select(positive, negated, v)
        });
        same_after(&k, 1024, &x, x.len(), nan, 2);
        let k = kernel(elem, elem, 8, |b, v| b.reduce(ReduceOp::Add, v));
        same_after(&k, 8192, &x, x.len() / 8, nan, 2);
    }
}

#[test]
fn halves_convert_through_f32() {
    let x: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for (from, to) in [(Elem::F16, Elem::I32), (Elem::Bf16, Elem::U32), (Elem::U16, Elem::F16)] {
        let k = kernel(from, to, 256, |b, v| b.cast(v, to));
        same_after(&k, 256, &x, to.size() << 16, |_| false, to.size());
    }
}

#[test]
fn native_conversions_stay() {
    let k = kernel(Elem::F16, Elem::F32, 8, |b, v| b.cast(v, Elem::F32));
    let n_casts = |k: &Kernel| {
        let is_cast =
            |s: &&Stmt| matches!(s, Stmt::Inst(Inst::Cast { src, .. }) if k.ty(*src).elem() == Elem::F16);
        k.body.iter().filter(is_cast).count()
    };
    assert_eq!(n_casts(&legalize(&k, CpuOptions { f16_convert: true, ..SOFT }).unwrap()), 1);
    assert_eq!(n_casts(&legalize(&k, SOFT).unwrap()), 0);
}

#[test]
fn math_of_halves_is_that_of_f32_rounded() {
    let x: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let k = kernel(Elem::Bf16, Elem::Bf16, 64, |b, v| b.exp(v));
    let legal = legalize(&k, SOFT).unwrap();
    let y = run(&legal, 1024, &x, x.len());
    for (x, y) in x.as_chunks::<2>().0.iter().zip(y.as_chunks::<2>().0) {
        let (x, y) = (::half::bf16::from_le_bytes(*x), ::half::bf16::from_le_bytes(*y));
        let exact = x.to_f64().exp();
        let close = (y.to_f64() - exact).abs() <= exact * 2f64.powi(-8);
        let flushed = exact < 2f64.powf(-125.5) && y.to_f64() == 0.0;
        let overflow = exact > f64::from(f32::MAX) * (1.0 - 2f64.powi(-9)) && y.to_f64() == f64::INFINITY;
        assert!(close || flushed || overflow || (x.is_nan() && y.is_nan()), "exp({x}) = {y}");
    }
}

#[test]
fn control_flow_survives() {
    let mut b = KernelBuilder::cpu("nest");
    let y = b.param("y", Elem::F32, Access::Write);
    b.for_("i", 0, 4, 1, |b, i| {
        let low = b.lt(i, 2);
        b.if_else(low, |b| b.store(y, i, 1.0), |b| b.store(y, i, 2.0));
    });
    let k = b.finish();
    assert_eq!(legalize(&k, SOFT).unwrap(), k);
}

fn rejected(block: [u32; 3], f: impl FnOnce(&mut KernelBuilder)) -> LegalizeError {
    let mut b = KernelBuilder::new("k", block);
    f(&mut b);
    legalize(&b.finish(), SOFT).unwrap_err()
}

#[test]
fn gpu_constructs_are_rejected() {
    let construct = |f: fn(&mut KernelBuilder)| match rejected([1, 1, 1], f) {
        LegalizeError::Unsupported { construct, .. } => construct,
        other => panic!("{other}"),
    };
    let tile = TileTy { rows: 16, cols: 8, elem: Elem::F32, role: TileRole::Acc };
    assert!(matches!(rejected([32, 1, 1], |_| {}), LegalizeError::Threads { threads: 32, .. }));
    assert_eq!(construct(|b| _ = b.shared("s", Elem::F32, 4)), "shared memory");
    assert_eq!(construct(|b| b.barrier()), "a barrier");
    assert_eq!(construct(|b| _ = b.thread_idx(Axis::X)), "a thread index");
    assert_eq!(construct(|b| b.async_commit()), "asynchronous copies");
    assert_eq!(
        construct(|b| {
            let x = b.const_f32(1.0);
            b.warp_shuffle(WarpShuffleOp::Up, x, 1);
        }),
        "a warp shuffle"
    );
    let found = rejected([1, 1, 1], |b| _ = b.tile_fill(tile, 0.0));
    assert!(matches!(found, LegalizeError::Unsupported { construct: "matrix tiles", .. }));
    assert_eq!(
        construct(|b| {
            let x = b.const_f32(1.0);
            b.rem(x, 2.0);
        }),
        "the floating-point remainder"
    );
}
