//! Instructions on one thread: a table of operand bits and expected bits per instruction.

use super::*;

/// Stores what `f` makes of the given constants and returns the lanes.
fn eval(
    inputs: &[Const],
    out: Elem,
    lanes: u16,
    f: impl FnOnce(&mut KernelBuilder, &[Reg]) -> Reg,
) -> Vec<Const> {
    let mut b = KernelBuilder::cpu("eval");
    let y = b.param("y", out, Access::Write);
    let regs: Vec<Reg> = inputs.iter().map(|&c| b.constant(c, 1)).collect();
    let value = f(&mut b, &regs);
    b.store(y, 0, value);
    let kernel = b.finish();
    let mut buffers = [vec![0; out.size() * usize::from(lanes)]];
    run(&kernel, 1, &[], &mut buffers).unwrap();
    let lane = |c: &[u8]| c.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
    buffers[0].chunks(out.size()).map(|c| Const::from_bits(out, lane(c))).collect()
}

fn int(e: Elem, v: i64) -> Const {
    Const::int(e, v)
}

#[test]
fn binary_table() {
    use BinaryOp::*;
    let (i8, u8, i32, i64) = (Elem::I8, Elem::U8, Elem::I32, Elem::I64);
    for (op, e, a, b, y) in [
        (Add, i8, 127, 1, -128),
        (Add, i64, i64::MAX, 1, i64::MIN),
        (Sub, u8, 0, 1, 255),
        (Mul, i32, 1 << 31, 2, 0),
        (Div, i32, -7, 2, -3),
        (Div, u8, 250, 7, 35),
        (Rem, i32, -7, 2, -1),
        (Rem, u8, 250, 7, 5),
        (Min, i8, -1, 1, -1),
        (Max, u8, 255, 1, 255),
        (And, i32, 12, 10, 8),
        (Or, i32, 12, 10, 14),
        (Xor, i32, 12, 10, 6),
        (Shl, u8, 129, 1, 2),
        (Shr, i8, -128, 1, -64),
        (Shr, u8, 128, 1, 64),
    ] {
        let found = eval(&[int(e, a), int(e, b)], e, 1, |k, r| k.binary(op, r[0], r[1]));
        assert_eq!(found, [int(e, y)], "{op:?} {e} {a} {b}");
    }
    let nan = f32::NAN;
    for (op, a, b, y) in [
        (Add, 1.0, f32::EPSILON / 2.0, 1.0),
        (Sub, 1.0, 3.0, -2.0),
        (Mul, f32::MAX, 2.0, f32::INFINITY),
        (Div, 1.0, -0.0, f32::NEG_INFINITY),
        (Rem, -7.5, 2.0, -1.5),
        (Min, nan, 1.0, 1.0),
        (Min, 1.0, nan, nan),
        (Max, -0.0, 0.0, 0.0),
        (Max, 0.0, -0.0, -0.0),
        (Pow, -2.0, 3.0, -8.0),
        (Exp2Mul, -2.0, 1.5, 0.125),
    ] {
        let found = eval(&[Const::f32(a), Const::f32(b)], Elem::F32, 1, |k, r| k.binary(op, r[0], r[1]));
        assert_eq!(found, [Const::f32(y)], "{op:?} {a} {b}");
    }
}

#[test]
fn unary_table() {
    use UnaryOp::*;
    for (op, x, y) in [
        (Neg, 0.0, -0.0),
        (Abs, -2.5, 2.5),
        (Sqrt, 2.0, 2f32.sqrt()),
        (Floor, -0.5, -1.0),
        (Ceil, 0.5, 1.0),
        (Trunc, -1.5, -1.0),
        (Round, 2.5, 2.0),
        (Round, 3.5, 4.0),
    ] {
        let found = eval(&[Const::f32(x)], Elem::F32, 1, |k, r| k.unary(op, r[0]));
        assert_eq!(found, [Const::f32(y)], "{op:?} {x}");
    }
    for (op, e, x, y) in [
        (Neg, Elem::I8, -128, -128),
        (Neg, Elem::U8, 1, 255),
        (Abs, Elem::I16, -5, 5),
        (Not, Elem::U8, 1, 254),
        (Not, Elem::Bool, 1, 0),
    ] {
        assert_eq!(eval(&[int(e, x)], e, 1, |k, r| k.unary(op, r[0])), [int(e, y)], "{op:?} {e} {x}");
    }
}

#[test]
fn compare_table() {
    use CompareOp::*;
    let nan = f32::NAN;
    for (op, a, b, y) in [
        (Eq, 0.0, -0.0, true),
        (Ne, nan, nan, true),
        (Lt, nan, 1.0, false),
        (Le, 1.0, 1.0, true),
        (Gt, 2.0, 1.0, true),
        (Ge, nan, nan, false),
    ] {
        let found = eval(&[Const::f32(a), Const::f32(b)], Elem::Bool, 1, |k, r| k.compare(op, r[0], r[1]));
        assert_eq!(found, [Const::bool(y)], "{op:?} {a} {b}");
    }
    let signed = eval(&[int(Elem::I8, -1), int(Elem::I8, 1)], Elem::Bool, 1, |k, r| k.lt(r[0], r[1]));
    let unsigned = eval(&[int(Elem::U8, -1), int(Elem::U8, 1)], Elem::Bool, 1, |k, r| k.lt(r[0], r[1]));
    assert_eq!((signed[0], unsigned[0]), (Const::bool(true), Const::bool(false)));
}

#[test]
fn cast_table() {
    let f = |v: f64| Const::f64(v);
    for (from, to) in [
        (int(Elem::I32, -1), int(Elem::U8, 255)),
        (int(Elem::U64, -1), Const::f32(18_446_744_073_709_551_615.0)),
        (int(Elem::I64, 16_777_217), Const::f32(16_777_216.0)),
        (f(300.7), int(Elem::U8, 255)),
        (f(-1.5), int(Elem::I32, -1)),
        (f(f64::NAN), int(Elem::I64, 0)),
        (f(0.5), Const::bool(true)),
        (int(Elem::I8, 0), Const::bool(false)),
        (f(65520.0), Const::from_bits(Elem::F16, 0x7c00)),
        (Const::f32(1.0 + 1.0 / 256.0), Const::from_bits(Elem::Bf16, 0x3f80)),
        (Const::from_bits(Elem::F16, 1), f(2f64.powi(-24))),
        (Const::bool(true), Const::f32(1.0)),
    ] {
        assert_eq!(eval(&[from], to.elem(), 1, |k, r| k.cast(r[0], to.elem())), [to], "{from:?}");
    }
}

#[test]
fn fma_rounds_once() {
    let x = Const::f32(1.0 + f32::EPSILON);
    let c = Const::f32(-1.0 - 2.0 * f32::EPSILON);
    let found = eval(&[x, c], Elem::F32, 1, |k, r| k.fma(r[0], r[0], r[1]));
    assert_eq!(found, [Const::f32(f32::EPSILON * f32::EPSILON)]);
}

#[test]
fn lane_instructions() {
    let i32s = |v: &[i64]| v.iter().map(|&v| int(Elem::I32, v)).collect::<Vec<_>>();
    let iota = |k: &mut KernelBuilder| k.iota(Elem::I32, 4);
    assert_eq!(eval(&[], Elem::I32, 4, |k, _| iota(k)), i32s(&[0, 1, 2, 3]));
    let shuffled = eval(&[], Elem::I32, 3, |k, _| {
        let a = iota(k);
        let b = k.add(a, 10);
        k.shuffle2(a, b, &[7, 0, 4])
    });
    assert_eq!(shuffled, i32s(&[13, 0, 10]));
    let inserted = eval(&[int(Elem::I32, 9)], Elem::I32, 4, |k, r| {
        let a = iota(k);
        k.insert(a, r[0], 2)
    });
    assert_eq!(inserted, i32s(&[0, 1, 9, 3]));
    let extracted = eval(&[], Elem::I32, 1, |k, _| {
        let a = iota(k);
        k.extract(a, 3)
    });
    assert_eq!(extracted, i32s(&[3]));
    let splat = eval(&[int(Elem::I32, 5)], Elem::I32, 2, |k, r| k.splat(r[0], 2));
    assert_eq!(splat, i32s(&[5, 5]));
    let selected = eval(&[], Elem::I32, 4, |k, _| {
        let a = iota(k);
        let small = k.lt(a, 2);
        k.select(small, a, -1)
    });
    assert_eq!(selected, i32s(&[0, 1, -1, -1]));
    let bits = eval(&[Const::f32(1.0)], Elem::U32, 1, |k, r| k.bitcast(r[0], Elem::U32));
    assert_eq!(bits, [Const::u32(0x3f80_0000)]);
}

#[test]
fn reduce_folds_halves() {
    // (1e8 + 1) + (-1e8 + 1) in pairs (0,2) and (1,3) gives (1e8 - 1e8) + (1 + 1).
    let mut b = KernelBuilder::cpu("sum");
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let v = b.load(x, 0, 4);
    let sum = b.reduce(ReduceOp::Add, v);
    b.store(y, 0, sum);
    let max = b.reduce(ReduceOp::Max, v);
    b.store(y, 1, max);
    let min = b.reduce(ReduceOp::Min, v);
    b.store(y, 2, min);
    let mut buffers = [bytes_f32(&[1e8, 1.0, -1e8, 1.0]), vec![0; 12]];
    run(&b.finish(), 1, &[], &mut buffers).unwrap();
    assert_eq!(f32s(&buffers[1]), [2.0, 1e8, -1e8]);
}

#[test]
fn masks_and_gathers() {
    let mut b = KernelBuilder::cpu("masks");
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let n = b.dim("n");
    let mask = b.lane_mask(n, 4);
    let v = b.load_masked(x, 0, 4, mask);
    b.store_masked(y, 0, v, mask);
    let ids = b.iota(Elem::I64, 4);
    let reversed = b.sub(2, ids);
    let w = b.gather(x, reversed, Some(mask));
    let at = b.add(ids, 4);
    b.scatter(y, at, w, Some(mask));
    let mut buffers = [bytes_f32(&[1.0, 2.0, 3.0]), bytes_f32(&[9.0; 7])];
    run(&b.finish(), 1, &[3], &mut buffers).unwrap();
    assert_eq!(f32s(&buffers[1]), [1.0, 2.0, 3.0, 9.0, 3.0, 2.0, 1.0]);
}

#[test]
fn memory_faults() {
    let mut b = KernelBuilder::cpu("oob");
    let y = b.param("y", Elem::F32, Access::Write);
    b.for_("i", 0, 3, 1, |b, i| b.store(y, i, 1.0));
    let (path, found) = fault(&b.finish(), 1, &mut [vec![0; 8]]);
    assert_eq!(found, RunFault::OutOfBounds { name: "y".into(), index: 2, len: 2, thread: 0 });
    assert!(path.ends_with("for[0]"), "{path}");

    let mut b = KernelBuilder::cpu("unwritten");
    let y = b.param("y", Elem::F32, Access::Write);
    let tmp = b.local("tmp", Elem::F32, 2);
    b.store(tmp, 0, 1.0);
    let v = b.load(tmp, 0, 2);
    b.store(y, 0, v);
    let (_, found) = fault(&b.finish(), 1, &mut [vec![0; 8]]);
    assert_eq!(found, RunFault::Unwritten { name: "tmp".into(), index: 1, thread: 0 });

    let mut b = KernelBuilder::cpu("division");
    let y = b.param("y", Elem::I64, Access::ReadWrite);
    let zero = b.load(y, 0, 1);
    let v = b.div(1, zero);
    b.store(y, 0, v);
    assert_eq!(fault(&b.finish(), 1, &mut [vec![0; 8]]).1, RunFault::BadDivision);

    let mut b = KernelBuilder::cpu("shift");
    let y = b.param("y", Elem::I64, Access::ReadWrite);
    let v = b.load(y, 0, 1);
    let v = b.shl(v, 64);
    b.store(y, 0, v);
    assert_eq!(fault(&b.finish(), 1, &mut [vec![0; 8]]).1, RunFault::BadShift);
}

#[test]
fn blocks_must_not_touch_each_others_results() {
    let mut b = KernelBuilder::cpu("blocks");
    let y = b.param("y", Elem::F32, Access::ReadWrite);
    let block = b.block_idx();
    let next = b.add(block, 1);
    let v = b.load(y, next, 1);
    b.store(y, block, v);
    let kernel = b.finish();
    let mut buffers = [bytes_f32(&[1.0, 2.0, 3.0])];
    assert_eq!(fault(&kernel, 2, &mut buffers).1, RunFault::BlockRace { name: "y".into(), index: 1 });
}
