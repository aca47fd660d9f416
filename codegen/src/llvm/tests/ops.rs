//! Every instruction on every element type, at one and at several lanes, on values chosen to go wrong.

use super::harness::{Buffer, Case, check_cases};
use crate::kernel::{Access, BinaryOp, CompareOp, Elem, Kernel, KernelBuilder, ReduceOp, Reg, UnaryOp};

const NUMBERS: [Elem; 10] = [
    Elem::I8,
    Elem::U8,
    Elem::I16,
    Elem::U16,
    Elem::I32,
    Elem::U32,
    Elem::I64,
    Elem::U64,
    Elem::F32,
    Elem::F64,
];

/// Lane counts that the tests use: a scalar, an odd vector, and vectors below, at and above a register.
const LANES: [u16; 4] = [1, 3, 8, 32];

/// Bit patterns at the edges of the type and a few ordinary ones.
fn values(elem: Elem) -> Vec<u64> {
    let f32s = [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        1.5,
        2.5,
        -2.5,
        0.1,
        1e-40,
        -1e-45,
        3.0e38,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        65504.0,
        65520.0,
        6e-8,
        1.003_906_2,
        2147483648.0,
        -2147483904.0,
        9.3e18,
        255.5,
        -128.75,
    ];
    match elem {
        Elem::Bool => vec![0, 1],
        Elem::F32 => f32s.iter().map(|value| value.to_bits().into()).collect(),
        Elem::F64 => {
            f32s.iter().map(|value| f64::from(*value).to_bits()).chain([1, 0.1f64.to_bits()]).collect()
        }
        Elem::F16 | Elem::Bf16 => {
            (0..=u16::MAX).step_by(1021).map(u64::from).chain([0x7c00, 0x7f80, 1]).collect()
        }
        _ => {
            let top = 1u64 << (elem.bits() - 1);
            let all = u64::MAX >> (64 - elem.bits());
            [0, 1, 2, 3, 7, 100, top - 1, top, top + 1, all - 1, all, 0x5555_5555_5555_5555 & all].into()
        }
    }
}

/// All pairs of [`values`] as two buffers, repeated to a whole number of vectors.
fn pairs(elem: Elem, keep: impl Fn(u64, u64) -> bool) -> (Buffer, Buffer, usize) {
    let values = values(elem);
    let mut pairs: Vec<(u64, u64)> = values
        .iter()
        .flat_map(|a| values.iter().map(move |b| (*a, *b)))
        .filter(|(a, b)| keep(*a, *b))
        .collect();
    let len = pairs.len().next_multiple_of(96);
    pairs = pairs.iter().copied().cycle().take(len).collect();
    let (a, b): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
    (Buffer::from_bits(elem, a), Buffer::from_bits(elem, b), len)
}

/// A kernel that computes `out = f(a, b)` on vectors of `lanes`, one per block.
fn zip_kernel(
    name: &str,
    (elem, out_elem, lanes): (Elem, Elem, u16),
    f: impl FnOnce(&mut KernelBuilder, Reg, Reg) -> Reg,
) -> Kernel {
    let mut b = KernelBuilder::cpu(name);
    let lhs = b.param("lhs", elem, Access::Read);
    let rhs = b.param("rhs", elem, Access::Read);
    let out = b.param("out", out_elem, Access::Write);
    let block = b.block_idx();
    let start = b.mul(block, i64::from(lanes));
    let (lhs, rhs) = (b.load(lhs, start, lanes), b.load(rhs, start, lanes));
    let value = f(&mut b, lhs, rhs);
    b.store(out, start, value);
    b.finish()
}

/// `out = f(a, b)` over the pairs that `keep` wants, at every lane count.
fn zips(
    name: &str,
    elem: Elem,
    out_elem: Elem,
    keep: impl Fn(u64, u64) -> bool,
    f: impl Fn(&mut KernelBuilder, Reg, Reg) -> Reg,
) -> Vec<Case> {
    let (lhs, rhs, len) = pairs(elem, keep);
    let case = |lanes: u16| {
        let kernel = zip_kernel(&format!("{name}_{elem}_{lanes}"), (elem, out_elem, lanes), &f);
        let buffers = vec![lhs.clone(), rhs.clone(), Buffer::zeros(out_elem, len)];
        Case { kernel, grid: (len / usize::from(lanes)) as i64, dims: Vec::new(), buffers }
    };
    LANES.into_iter().map(case).collect()
}

fn sign_extended(elem: Elem, bits: u64) -> i64 {
    let unused = 64 - elem.bits();
    ((bits << unused) as i64) >> unused
}

#[test]
fn arithmetic() {
    let mut cases = Vec::new();
    for elem in NUMBERS {
        for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Min, BinaryOp::Max] {
            cases.extend(zips(
                &format!("{op:?}"),
                elem,
                elem,
                |_, _| true,
                |b, lhs, rhs| b.binary(op, lhs, rhs),
            ));
        }
    }
    check_cases(&cases);
}

#[test]
fn division_by_anything_that_is_no_fault() {
    let mut cases = Vec::new();
    for elem in NUMBERS {
        let defined = |lhs: u64, rhs: u64| {
            let overflows =
                elem.is_signed_int() && lhs == 1 << (elem.bits() - 1) && sign_extended(elem, rhs) == -1;
            elem.is_float() || (rhs != 0 && !overflows)
        };
        cases.extend(zips("div", elem, elem, defined, |b, lhs, rhs| b.div(lhs, rhs)));
        if elem.is_int() {
            cases.extend(zips("rem", elem, elem, defined, |b, lhs, rhs| b.rem(lhs, rhs)));
        }
    }
    check_cases(&cases);
}

#[test]
fn bits() {
    let mut cases = Vec::new();
    for elem in NUMBERS.into_iter().filter(|elem| elem.is_int()).chain([Elem::Bool]) {
        for op in [BinaryOp::And, BinaryOp::Or, BinaryOp::Xor] {
            cases.extend(zips(
                &format!("{op:?}"),
                elem,
                elem,
                |_, _| true,
                |b, lhs, rhs| b.binary(op, lhs, rhs),
            ));
        }
        cases.extend(zips("not", elem, elem, |_, _| true, |b, lhs, _| b.unary(UnaryOp::Not, lhs)));
    }
    check_cases(&cases);
}

#[test]
fn shifts_inside_the_width() {
    let mut cases = Vec::new();
    for elem in NUMBERS.into_iter().filter(|elem| elem.is_int()) {
        for op in [BinaryOp::Shl, BinaryOp::Shr] {
            let inside = |_: u64, amount: u64| amount < u64::from(elem.bits());
            cases.extend(zips(&format!("{op:?}"), elem, elem, inside, |b, lhs, rhs| b.binary(op, lhs, rhs)));
        }
    }
    check_cases(&cases);
}

#[test]
fn one_operand() {
    use UnaryOp::{Abs, Ceil, Floor, Neg, Round, Sqrt, Trunc};
    let mut cases = Vec::new();
    for elem in NUMBERS {
        let ops: &[UnaryOp] = match elem {
            Elem::F32 | Elem::F64 => &[Neg, Abs, Sqrt, Floor, Ceil, Trunc, Round],
            _ if elem.is_signed_int() => &[Neg, Abs],
            _ => &[Neg],
        };
        for &op in ops {
            cases.extend(zips(&format!("{op:?}"), elem, elem, |_, _| true, |b, lhs, _| b.unary(op, lhs)));
        }
    }
    check_cases(&cases);
}

#[test]
fn fused_multiply_add() {
    let mut cases = Vec::new();
    for elem in [Elem::F32, Elem::F64] {
        cases.extend(zips("fma", elem, elem, |_, _| true, |b, lhs, rhs| b.fma(lhs, rhs, lhs)));
    }
    check_cases(&cases);
}

#[test]
fn comparisons_and_selection() {
    use CompareOp::{Eq, Ge, Gt, Le, Lt, Ne};
    let mut cases = Vec::new();
    for elem in NUMBERS {
        for op in [Eq, Ne, Lt, Le, Gt, Ge] {
            cases.extend(zips(
                &format!("{op:?}"),
                elem,
                Elem::Bool,
                |_, _| true,
                |b, lhs, rhs| b.compare(op, lhs, rhs),
            ));
        }
        cases.extend(zips(
            "select",
            elem,
            elem,
            |_, _| true,
            |b, lhs, rhs| {
                let cond = b.compare(Lt, lhs, rhs);
                b.select(cond, rhs, lhs)
            },
        ));
        cases.extend(zips(
            "select_by_one",
            elem,
            elem,
            |_, _| true,
            |b, lhs, rhs| {
                let (first, second) = (b.extract(lhs, 0), b.extract(rhs, 0));
                let cond = b.compare(Ge, first, second);
                b.select(cond, rhs, lhs)
            },
        ));
    }
    for op in [Eq, Ne] {
        cases.extend(zips(
            &format!("{op:?}"),
            Elem::Bool,
            Elem::Bool,
            |_, _| true,
            |b, lhs, rhs| b.compare(op, lhs, rhs),
        ));
    }
    check_cases(&cases);
}

#[test]
fn conversions_between_all_types() {
    let mut cases = Vec::new();
    for from in Elem::ALL {
        let source: Vec<u64> = values(from);
        let len = source.len().next_multiple_of(96);
        let source = Buffer::from_bits(from, source.into_iter().cycle().take(len));
        for to in Elem::ALL {
            for lanes in LANES {
                let kernel =
                    map_kernel(&format!("{from}_to_{to}_{lanes}"), (from, to, lanes), |b, x| b.cast(x, to));
                cases.push(Case {
                    kernel,
                    grid: (len / usize::from(lanes)) as i64,
                    dims: Vec::new(),
                    buffers: vec![source.clone(), Buffer::zeros(to, len)],
                });
            }
        }
    }
    check_cases(&cases);
}

/// A kernel that computes `out = f(a)` on vectors of `lanes`, one per block.
fn map_kernel(
    name: &str,
    (from, to, lanes): (Elem, Elem, u16),
    f: impl FnOnce(&mut KernelBuilder, Reg) -> Reg,
) -> Kernel {
    let mut b = KernelBuilder::cpu(name);
    let source = b.param("source", from, Access::Read);
    let out = b.param("out", to, Access::Write);
    let block = b.block_idx();
    let start = b.mul(block, i64::from(lanes));
    let value = b.load(source, start, lanes);
    let value = f(&mut b, value);
    b.store(out, start, value);
    b.finish()
}

#[test]
fn sixteen_bit_floats_widen_and_round_back_exactly() {
    let mut cases = Vec::new();
    for elem in [Elem::F16, Elem::Bf16] {
        let patterns = || (0..=u16::MAX).map(u64::from);
        for lanes in [1, 8, 16] {
            let grid = 65536 / i64::from(lanes);
            let widen = map_kernel(&format!("{elem}_widen_{lanes}"), (elem, Elem::F32, lanes), |b, x| {
                b.cast(x, Elem::F32)
            });
            let buffers = vec![Buffer::from_bits(elem, patterns()), Buffer::zeros(Elem::F32, 65536)];
            cases.push(Case { kernel: widen, grid, dims: Vec::new(), buffers });
            // The high half holds the pattern, the low half walks over ties, near-ties and subnormals.
            let wide =
                (0..65536u64).map(|high| high << 16 | (high.wrapping_mul(0x9e37) & 0xffff & !(high & 0xff)));
            let narrow = map_kernel(&format!("{elem}_narrow_{lanes}"), (Elem::F32, elem, lanes), |b, x| {
                b.cast(x, elem)
            });
            let buffers = vec![Buffer::from_bits(Elem::F32, wide), Buffer::zeros(elem, 65536)];
            cases.push(Case { kernel: narrow, grid, dims: Vec::new(), buffers });
        }
    }
    check_cases(&cases);
}

#[test]
fn bit_patterns() {
    let mut cases = Vec::new();
    let same_width = [
        (Elem::F32, Elem::I32),
        (Elem::U64, Elem::F64),
        (Elem::F16, Elem::I16),
        (Elem::Bf16, Elem::F16),
        (Elem::I8, Elem::U8),
    ];
    for (from, to) in same_width {
        cases.extend(zips("bitcast", from, to, |_, _| true, |b, lhs, _| b.bitcast(lhs, to)));
        cases.extend(zips("bitcast_back", to, from, |_, _| true, |b, _, rhs| b.bitcast(rhs, from)));
    }
    check_cases(&cases);
}

#[test]
fn lanes_move() {
    let mut cases = Vec::new();
    for elem in NUMBERS.into_iter().chain([Elem::Bool, Elem::F16, Elem::Bf16]) {
        cases.extend(zips(
            "rotate",
            elem,
            elem,
            |_, _| true,
            |b, lhs, rhs| {
                let lanes = b.lanes(lhs);
                let pattern: Vec<u16> = (0..lanes).map(|lane| (2 * lane + 1) % (2 * lanes)).collect();
                b.shuffle2(lhs, rhs, &pattern)
            },
        ));
        cases.extend(zips(
            "replace",
            elem,
            elem,
            |_, _| true,
            |b, lhs, rhs| {
                let lanes = b.lanes(lhs);
                let scalar = b.extract(rhs, lanes - 1);
                b.insert(lhs, scalar, lanes / 2)
            },
        ));
        cases.extend(zips(
            "splat",
            elem,
            elem,
            |_, _| true,
            |b, lhs, _| {
                let lanes = b.lanes(lhs);
                let scalar = b.extract(lhs, lanes / 2);
                b.splat(scalar, lanes)
            },
        ));
    }
    for elem in NUMBERS.into_iter().filter(|elem| elem.is_int()) {
        cases.extend(zips(
            "iota",
            elem,
            elem,
            |_, _| true,
            |b, lhs, _| {
                let lanes = b.lanes(lhs);
                let iota = b.iota(elem, lanes);
                b.add(lhs, iota)
            },
        ));
    }
    check_cases(&cases);
}

#[test]
fn lanes_reduce_in_halves() {
    let mut cases = Vec::new();
    for elem in NUMBERS {
        for op in [ReduceOp::Add, ReduceOp::Min, ReduceOp::Max] {
            for lanes in [1, 2, 4, 8, 16, 32] {
                let (lhs, _, len) = pairs(elem, |_, _| true);
                let mut b = KernelBuilder::cpu(&format!("{op:?}_{elem}_{lanes}"));
                let source = b.param("source", elem, Access::Read);
                let out = b.param("out", elem, Access::Write);
                let block = b.block_idx();
                let start = b.mul(block, i64::from(lanes));
                let value = b.load(source, start, lanes);
                let value = b.reduce(op, value);
                b.store(out, block, value);
                let grid = len / usize::from(lanes);
                let buffers = vec![lhs, Buffer::zeros(elem, grid)];
                cases.push(Case { kernel: b.finish(), grid: grid as i64, dims: Vec::new(), buffers });
            }
        }
    }
    check_cases(&cases);
}
