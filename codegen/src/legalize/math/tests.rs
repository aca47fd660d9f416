use crate::{
    kernel::{
        interp::{self, Arg, Interpreter},
        *,
    },
    legalize::cpu::{CpuOptions, legalize},
};

const OPTIONS: CpuOptions =
    CpuOptions { f16_convert: false, fma: true, dot_u8: false, dot_i8: false, dot_bf16: false, tiles: false };

/// Lanes evaluated by one block of the test kernels.
const LANES: u16 = 512;

/// y = f(x), legalized, over blocks of `LANES` elements.
fn kernel(elem: Elem, f: impl FnOnce(&mut KernelBuilder, Reg) -> Reg) -> Kernel {
    let mut b = KernelBuilder::cpu("math");
    let x = b.param("x", elem, Access::Read);
    let y = b.param("y", elem, Access::Write);
    let block = b.block_idx();
    let at = b.mul(block, usize::from(LANES));
    let v = b.load(x, at, LANES);
    let v = f(&mut b, v);
    b.store(y, at, v);
    legalize(&b.finish(), OPTIONS).unwrap()
}

/// Values of the kernel at the given bit patterns.
fn eval<const N: usize>(kernel: &Kernel, inputs: &[[u8; N]]) -> Vec<[u8; N]> {
    let blocks = inputs.len().div_ceil(LANES.into());
    let mut x = inputs.concat();
    x.resize(blocks * usize::from(LANES) * N, 0);
    let mut y = vec![0; x.len()];
    Interpreter::new(kernel)
        .unwrap()
        .run(0..blocks as i64, &[], &[Arg::start(0), Arg::start(1)], &mut [&mut x, &mut y])
        .unwrap();
    y.as_chunks::<N>().0[..inputs.len()].to_vec()
}

fn eval_f32(op: MathOp, inputs: &[f32]) -> Vec<f32> {
    let bytes: Vec<[u8; 4]> = inputs.iter().map(|x| x.to_le_bytes()).collect();
    let kernel = kernel(Elem::F32, |b, x| b.math(op, x));
    eval(&kernel, &bytes).into_iter().map(f32::from_le_bytes).collect()
}

fn eval_f64(op: MathOp, inputs: &[f64]) -> Vec<f64> {
    let bytes: Vec<[u8; 8]> = inputs.iter().map(|x| x.to_le_bytes()).collect();
    let kernel = kernel(Elem::F64, |b, x| b.math(op, x));
    eval(&kernel, &bytes).into_iter().map(f64::from_le_bytes).collect()
}

/// Distance in units of the last place of the exact value, whose own rounding does not count.
fn ulps(found: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if found == rounded || (found.is_nan() && exact.is_nan()) {
        return 0.0;
    }
    let exponent = exact.abs().max(f32::MIN_POSITIVE.into()).log2().floor();
    (f64::from(found) - exact).abs() / (exponent - 23.0).exp2()
}

/// Bit patterns around which functions change their behaviour, and their neighbours, of both signs.
fn boundaries() -> Vec<f32> {
    let values = [
        0.0,
        f32::MIN_POSITIVE,
        1e-30,
        f32::EPSILON,
        0.25,
        1.0 / 3.0,
        std::f32::consts::LN_2 / 2.0,
        0.5,
        2.0 / 3.0,
        0.92,
        1.0,
        4.0 / 3.0,
        2.0,
        4.0,
        17.3,
        20.0,
        86.9,
        87.33,
        88.37,
        88.7228,
        89.0,
        126.0,
        127.0,
        128.0,
        1e5,
        8388608.0,
        f32::MAX,
        f32::INFINITY,
    ];
    let near = values.iter().flat_map(|v| (-3i32..=3).map(move |d| v.to_bits().wrapping_add_signed(d)));
    near.flat_map(|b| [b, b ^ 0x8000_0000]).map(f32::from_bits).collect()
}

/// Largest error of the legalized function over every `stride`-th bit pattern and the boundaries. Where the
/// exact result lies below `flush`, 0 is right too.
fn worst(op: MathOp, stride: usize, flush: f64) -> (f64, f32) {
    let mut inputs: Vec<f32> = (0..=u32::MAX).step_by(stride).map(f32::from_bits).collect();
    inputs.extend(boundaries());
    let found = eval_f32(op, &inputs);
    let error = |(&x, &y): (&f32, &f32)| {
        let exact = interp::math(op, x.into());
        if exact.abs() < flush && y == 0.0 {
            return (0.0, x);
        }
        let e = ulps(y, exact);
        (if e.is_nan() { f64::INFINITY } else { e }, x)
    };
    inputs.iter().zip(&found).map(error).fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
}

/// Every how many bit patterns of `f32` are tested; a prime, so that all low bits occur. Set
/// `SSMC_MATH_STRIDE` to test more.
fn stride() -> usize {
    std::env::var("SSMC_MATH_STRIDE").ok().and_then(|s| s.parse().ok()).unwrap_or(997)
}

fn check(op: MathOp, bound: f64, flush: f64) {
    let (error, x) = worst(op, stride(), flush);
    assert!(error <= bound, "{op:?}({x:e}): {error} ulp, bound {bound}");
    println!("{op:?}: {error:.3} ulp at {x:e}");
}

/// 2^-125.5, and a little for the rounding of the exponent.
const FLUSH: f64 = 1.6625e-38;

#[test]
fn exp_bound() {
    check(MathOp::Exp, 1.5, FLUSH);
}

#[test]
fn exp2_bound() {
    check(MathOp::Exp2, 1.5, FLUSH);
}

#[test]
fn exp2_mul_bound() {
    // Products over the whole range, and those that lie between two numbers of f32.
    let factors = [0.1f32, -1.0, 3.0, 1.0 / 3.0, -15.999_999, 16.0, 1e-30];
    for factor in factors {
        let k = kernel(Elem::F32, |b, x| {
            let y = b.const_like(b.ty(x), f64::from(factor));
            b.exp2_mul(x, y)
        });
        let wide = 125.0 / factor.abs();
        let inputs: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 / 40_000.0 * wide).collect();
        let inputs: Vec<f32> = inputs.into_iter().filter(|x| (x * factor).abs() <= 125.0).collect();
        let bytes: Vec<[u8; 4]> = inputs.iter().map(|x| x.to_le_bytes()).collect();
        for (x, y) in inputs.iter().zip(eval(&k, &bytes)) {
            let (found, exact) = (f32::from_le_bytes(y), (f64::from(*x) * f64::from(factor)).exp2());
            assert!(ulps(found, exact) <= 1.5, "2^({x} * {factor}) = {found}, expected {exact}");
        }
    }
}

#[test]
fn expm1_bound() {
    check(MathOp::Expm1, 2.0, 0.0);
}

#[test]
fn log_bound() {
    check(MathOp::Log, 1.5, 0.0);
}

#[test]
fn log1p_bound() {
    check(MathOp::Log1p, 2.0, 0.0);
}

#[test]
fn sigmoid_bound() {
    check(MathOp::Sigmoid, 3.0, FLUSH);
}

#[test]
fn softplus_bound() {
    check(MathOp::Softplus, 2.5, FLUSH);
}

#[test]
fn silu_bound() {
    check(MathOp::Silu, 3.5, 100.0 * FLUSH);
}

#[test]
fn tanh_bound() {
    check(MathOp::Tanh, 3.0, 0.0);
}

#[test]
fn erf_bound() {
    check(MathOp::Erf, 2.5, 0.0);
}

#[test]
fn rsqrt_bound() {
    check(MathOp::Rsqrt, 1.5, 0.0);
}

#[test]
fn sin_and_cos_bound() {
    let limit = (1u64 << 40) as f32;
    let mut inputs: Vec<f32> = (0..limit.to_bits()).step_by(stride() / 2).map(f32::from_bits).collect();
    inputs.extend(boundaries().iter().filter(|x| x.abs() <= limit));
    inputs.extend([1e5, -1e5, limit, -limit]);
    for op in [MathOp::Sin, MathOp::Cos] {
        let found = eval_f32(op, &inputs);
        let worst = inputs.iter().zip(found).map(|(&x, y)| (ulps(y, interp::math(op, x.into())), x));
        let (error, x) = worst.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
        assert!(error <= 1.5, "{op:?}({x:e}): {error} ulp");
        println!("{op:?}: {error:.3} ulp at {x:e}");
        let beyond = eval_f32(op, &[f32::INFINITY, f32::MAX, f32::NAN, limit * 1.01]);
        assert!(beyond.iter().all(|y| y.is_nan()), "{op:?}: {beyond:?}");
    }
}

#[test]
fn special_values() {
    use MathOp::*;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for (op, x, y) in [
        (Exp, inf, inf),
        (Exp, -inf, 0.0),
        (Exp, 0.0, 1.0),
        (Exp, -0.0, 1.0),
        (Exp, 100.0, inf),
        (Exp, -100.0, 0.0),
        (Exp2, 128.0, inf),
        (Exp2, 127.0, 2f32.powi(127)),
        (Exp2, -3.0, 0.125),
        (Expm1, -inf, -1.0),
        (Expm1, -0.0, -0.0),
        (Log, 0.0, -inf),
        (Log, -0.0, -inf),
        (Log, -1.0, nan),
        (Log, inf, inf),
        (Log, 1.0, 0.0),
        (Log1p, -1.0, -inf),
        (Log1p, -1.5, nan),
        (Log1p, inf, inf),
        (Log1p, -0.0, -0.0),
        (Sigmoid, inf, 1.0),
        (Sigmoid, -inf, 0.0),
        (Sigmoid, 0.0, 0.5),
        (Softplus, inf, inf),
        (Softplus, -inf, 0.0),
        (Silu, inf, inf),
        (Silu, -inf, nan),
        (Silu, -0.0, -0.0),
        (Tanh, inf, 1.0),
        (Tanh, -inf, -1.0),
        (Tanh, -0.0, -0.0),
        (Erf, inf, 1.0),
        (Erf, -inf, -1.0),
        (Erf, -0.0, -0.0),
        (Rsqrt, 0.0, inf),
        (Rsqrt, inf, 0.0),
        (Rsqrt, -1.0, nan),
        (Cos, 0.0, 1.0),
        (Sin, -0.0, -0.0),
    ] {
        let found = eval_f32(op, &[x])[0];
        let same = found.to_bits() == y.to_bits() || (found.is_nan() && y.is_nan());
        assert!(same, "{op:?}({x}) = {found}, expected {y}");
    }
}

#[test]
fn nan_propagates_with_any_payload() {
    use MathOp::*;
    let nans = [0x7fc0_0000, 0x7fc0_0001, 0xffff_ffff, 0x7f80_0001, 0x7fab_cdef].map(f32::from_bits);
    for op in [Exp, Exp2, Log, Log1p, Expm1, Sigmoid, Softplus, Silu, Tanh, Erf, Sin, Cos, Rsqrt] {
        let found = eval_f32(op, &nans);
        assert!(found.iter().all(|y| y.is_nan()), "{op:?}: {found:?}");
    }
}

#[test]
fn f64_forms() {
    use MathOp::*;
    let grid: Vec<f64> = (-4000..=4000).map(|i| f64::from(i) * 0.173).collect();
    let fine: Vec<f64> = (-4000..=4000).map(|i| f64::from(i) * 3.7e-4).collect();
    for op in [Exp, Exp2, Log, Log1p, Expm1, Sigmoid, Softplus, Silu, Tanh, Erf, Sin, Cos, Rsqrt] {
        for inputs in [&grid, &fine] {
            for (&x, y) in inputs.iter().zip(eval_f64(op, inputs)) {
                let exact = interp::math(op, x);
                let flushed = exact.abs() < 1e-300 && y.abs() <= exact.abs();
                let close = (y - exact).abs() <= 4.0 * f64::EPSILON * exact.abs();
                let same = y == exact || (y.is_nan() && exact.is_nan());
                assert!(close || same || flushed, "{op:?}({x}) = {y}, expected {exact}");
            }
        }
    }
}

#[test]
fn pow_as_c_defines_it() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 2.5, inf, -inf, nan, 1e30, 1e-40];
    let mut pairs: Vec<(f32, f32)> = special.iter().flat_map(|&x| special.map(|y| (x, y))).collect();
    pairs.extend((1..2000).map(|i| (i as f32 * 0.37, (i % 41) as f32 * 0.77 - 15.0)));
    let mut b = KernelBuilder::cpu("pow");
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::ReadWrite);
    let i = b.block_idx();
    let (base, exponent) = (b.load(x, i, 1), b.load(y, i, 1));
    let power = b.pow(base, exponent);
    b.store(y, i, power);
    let kernel = legalize(&b.finish(), OPTIONS).unwrap();
    let mut x: Vec<u8> = pairs.iter().flat_map(|p| p.0.to_le_bytes()).collect();
    let mut y: Vec<u8> = pairs.iter().flat_map(|p| p.1.to_le_bytes()).collect();
    let args = [Arg::start(0), Arg::start(1)];
    let interp = Interpreter::new(&kernel).unwrap();
    interp.run(0..pairs.len() as i64, &[], &args, &mut [&mut x, &mut y]).unwrap();
    for (&(x, e), y) in pairs.iter().zip(y.as_chunks::<4>().0) {
        let (found, exact) = (f32::from_le_bytes(*y), f64::from(x).powf(e.into()));
        assert!(ulps(found, exact) <= 1.0, "pow({x}, {e}) = {found}, expected {exact}");
        if found == 0.0 {
            assert_eq!(found.is_sign_negative(), exact.is_sign_negative(), "pow({x}, {e})");
        }
    }
}

/// The forms for machines with 2^x and 1/x, here with functions of the interpreter in their place.
#[test]
fn fast_gates_and_step_sizes_keep_their_bound() {
    let exact = |op: MathOp, x: f64| match op {
        MathOp::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        MathOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        _ => x / (1.0 + (-x).exp()),
    };
    let samples: Vec<f32> = (-90_000..90_000).map(|i| i as f32 * 1e-3 + 3e-5).chain(boundaries()).collect();
    let samples: Vec<f32> = samples.into_iter().filter(|x| x.abs() <= 1e4 || x.is_nan()).collect();
    for op in [MathOp::Sigmoid, MathOp::Silu, MathOp::Softplus] {
        let bytes: Vec<[u8; 4]> = samples.iter().map(|x| x.to_le_bytes()).collect();
        let kernel = kernel(Elem::F32, |b, x| super::fast::expand(b, op, x).unwrap());
        let found = eval(&kernel, &bytes).into_iter().map(f32::from_le_bytes);
        for (x, found) in samples.iter().zip(found) {
            let (wide, least) = (f64::from(*x), 2.0 * f64::from(f32::MIN_POSITIVE));
            let right = exact(op, wide);
            // Factors below 2^-125 may be 0.
            let vanishes = exact(MathOp::Sigmoid, wide) < least && op != MathOp::Softplus;
            if x.is_nan() {
                assert!(found.is_nan(), "{op:?}({x}) = {found}");
            } else if vanishes || right.abs() < least {
                assert!(
                    (f64::from(found) - right).abs() <= least * wide.abs().max(1.0),
                    "{op:?}({x}) = {found}"
                );
            } else {
                assert!(
                    ulps(found, right) <= 4.0 + 1.25 * wide.abs(),
                    "{op:?}({x}) = {found}, expected {right}"
                );
            }
        }
    }
}
