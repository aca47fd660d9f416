//! The mixer cores, with the layout ops that surround them in models.

use super::problem::{Case, Fill, Problem};
use ssmc_ir::DType::{self, BF16, F16, F32, F64};
use ssmc_ir::ValueId;
use ssmc_ir::ops::{Discretization, Mode, ReadOut, SelectiveScan, Ssd};

const LENGTHS: [(i64, i64); 6] = [(1, 0), (3, 1), (1, 2), (2, 7), (1, 9), (1, 33)];

/// Which optional operands are present, by bit, and what is particular.
#[derive(Clone, Copy)]
struct Options {
    dtype: DType,
    groups: i64,
    channels: i64,
    /// Rows of a head; 0 for the selective scan.
    rows: i64,
    states: i64,
    present: u32,
    reverse: bool,
    /// Chunk size of the chunked mode.
    chunk: usize,
    discretization: Discretization,
    read_out: ReadOut,
    /// Rows of a pool of seven states.
    slots: &'static [f64],
    dt: Fill,
    x: Fill,
}

const DT_BIAS: u32 = 1;
const D: u32 = 2;
const Z: u32 = 4;
const H0: u32 = 8;
const SEQ: u32 = 16;
const LIMITS: u32 = 32;
const SOFTPLUS: u32 = 64;

const PLAIN: Options = Options {
    dtype: F32,
    groups: 1,
    channels: 16,
    rows: 0,
    states: 4,
    present: 0,
    reverse: false,
    chunk: 0,
    discretization: Discretization::ExpEuler,
    read_out: ReadOut::After,
    slots: &[],
    dt: Fill::Range(0.01, 1.0),
    x: Fill::Noise(1.0),
};

/// Columns `start..start + the product of dims` of a wider projection, as `[b, l, dims..]`.
fn part(case: &mut Case, wide: ValueId, start: i64, dims: &[i64]) -> ValueId {
    let len: i64 = dims.iter().product();
    let part = case.b.slice(wide, 2, start, len).unwrap();
    let shape = [case.b.shape(wide)[0].clone(), case.b.shape(wide)[1].clone()];
    let shape: ssmc_ir::Shape = shape.into_iter().chain(dims.iter().map(|d| (*d).into())).collect();
    case.b.reshape(part, shape).unwrap()
}

fn mixer(o: Options) -> Problem {
    let is_ssd = o.rows > 0;
    let Options { groups: g, channels: e, states: n, dtype, .. } = o;
    let head = if is_ssd { vec![g, e, o.rows] } else { vec![g, e] };
    let width: i64 = head.iter().product();
    let name = format!(
        "{} {dtype} g={g} e={e} p={} n={n} present={:#b} reverse={} chunk={} {:?} {:?} slots={:?}",
        if is_ssd { "ssd" } else { "selective_scan" },
        o.rows,
        o.present,
        o.reverse,
        o.chunk,
        o.discretization,
        o.read_out,
        o.slots
    );
    let mut case = Case::new(name);
    let has = |bit: u32| o.present & bit != 0;
    let xz = case.input(dtype, &format!("b,l,{}", 2 * width + 3), o.x);
    let x = part(&mut case, xz, 3, &head);
    let z = has(Z).then(|| part(&mut case, xz, 3 + width, &head));
    let bc = case.input(dtype, &format!("b,l,{}", 2 * g * n), Fill::Noise(1.0));
    let b = part(&mut case, bc, 0, &[g, n]);
    let c = part(&mut case, bc, g * n, &[g, n]);
    let dt = case.input(dtype, &format!("b,l,{g},{e}"), o.dt);
    // Parameters are stored in a type of their own; bf16 is exact in all of them but f16.
    let stored = if dtype == F16 { F16 } else { BF16 };
    let a_dims = if is_ssd { format!("{g},{e}") } else { format!("{g},{e},{n}") };
    let a = case.weight(stored, &a_dims, Fill::Range(-2.0, -0.1));
    let a = case.b.cast(a, dtype).unwrap();
    let d_dims = match is_ssd {
        true if e % 2 == 0 => format!("{g},{e},{}", o.rows),
        true => format!("{g},{e},1"),
        false => format!("{g},{e}"),
    };
    let d = has(D).then(|| case.weight(dtype, &d_dims, Fill::Noise(1.0)));
    let dt_bias = has(DT_BIAS).then(|| case.weight(dtype, &format!("{g},{e}"), Fill::Noise(0.1)));
    let head_dims = head.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let has_slots = !o.slots.is_empty();
    let states = if has_slots { "7" } else { "b" };
    let h0 = (has(H0) || has_slots)
        .then(|| case.input(dtype, &format!("{states},{head_dims},{n}"), Fill::Noise(1.0)));
    let seq = has(SEQ).then(|| case.input(DType::I32, "b,l", Fill::Sequences));
    let slots = has_slots.then(|| case.input(DType::I32, "b", Fill::Values(o.slots)));
    let (dt_min, dt_max) = if has(LIMITS) {
        (0.02.into(), 0.5.into())
    } else {
        (f64::NEG_INFINITY.into(), f64::INFINITY.into())
    };
    let operands = [Some(x), Some(dt), Some(a), Some(b), Some(c), d, z, dt_bias, h0, seq, slots];
    let (dt_softplus, reverse) = (has(SOFTPLUS), o.reverse);
    let Options { discretization, read_out, .. } = o;
    let results = if is_ssd {
        let mode = if o.chunk > 0 { Mode::Chunked } else { Mode::Recurrent };
        let op =
            Ssd { chunk_size: o.chunk, discretization, dt_max, dt_min, dt_softplus, mode, read_out, reverse };
        case.node(op, &operands)
    } else {
        let op = SelectiveScan { discretization, dt_max, dt_min, dt_softplus, read_out, reverse };
        case.node(op, &operands)
    };
    // The next projection takes all channels as one axis.
    let flat = case.b.shape(x)[..2].iter().cloned().chain([width.into()]).collect::<ssmc_ir::Shape>();
    let y = case.b.reshape(results[0], flat).unwrap();
    let mut problem = case.finish(&[y, results[1]]);
    problem.reassociated = o.chunk > 0;
    problem
}

#[test]
fn selective_scan_of_every_shape() {
    let shapes = [(1, 1, 1), (1, 3, 4), (2, 16, 8), (1, 17, 16), (2, 48, 4), (1, 5, 40)];
    for (i, (groups, channels, states)) in shapes.into_iter().enumerate() {
        let present = [DT_BIAS | D | Z | SOFTPLUS, H0 | LIMITS, SEQ | H0 | Z][i % 3];
        mixer(Options { groups, channels, states, present, reverse: i % 2 == 1, ..PLAIN }).check(&LENGTHS);
    }
}

/// Steps are loaded in parts.
#[test]
fn selective_scan_of_long_sequences() {
    for (present, reverse) in [(D | Z | H0, false), (SEQ | H0 | D, true)] {
        let o = Options { present, reverse, channels: 5, states: 2, ..PLAIN };
        mixer(o).check(&[(1, 63), (1, 64), (2, 65), (1, 130)]);
    }
}

#[test]
fn selective_scan_with_every_optional_operand() {
    for present in [0, DT_BIAS, D, Z, H0, SEQ, LIMITS, SOFTPLUS, SEQ | H0, LIMITS | SOFTPLUS | DT_BIAS] {
        for reverse in [false, true] {
            mixer(Options { present, reverse, channels: 19, ..PLAIN }).check(&[(2, 0), (2, 9)]);
        }
    }
}

#[test]
fn selective_scan_in_every_type() {
    for dtype in [F64, F16, BF16] {
        let present = DT_BIAS | D | Z | H0 | SOFTPLUS;
        mixer(Options { dtype, present, channels: 17, states: 33, ..PLAIN }).check(&[(2, 9)]);
        mixer(Options { dtype, present, channels: 17, ..PLAIN }).check(&[(2, 9)]);
    }
}

#[test]
fn ssd_of_every_shape() {
    let shapes = [(1, 1, 1, 1), (1, 3, 3, 4), (2, 2, 16, 8), (1, 3, 17, 16), (1, 1, 48, 40)];
    for (i, (groups, channels, rows, states)) in shapes.into_iter().enumerate() {
        let present = [DT_BIAS | D | Z | SOFTPLUS, H0 | LIMITS | D, SEQ | H0 | Z][i % 3];
        for chunk in [0, 1, 5, 8, 64] {
            let o = Options { groups, channels, rows, states, present, chunk, reverse: i % 2 == 1, ..PLAIN };
            mixer(o).check(if chunk == 8 { &[(1, 7), (1, 8), (2, 33)] } else { &[(1, 0), (2, 1), (1, 17)] });
        }
    }
}

#[test]
fn ssd_with_every_optional_operand() {
    for present in [0, DT_BIAS, D, Z, H0, SEQ, LIMITS, SOFTPLUS, SEQ | H0, LIMITS | SOFTPLUS | DT_BIAS] {
        for (chunk, reverse) in [(0, true), (5, false), (5, true)] {
            mixer(Options { present, reverse, channels: 2, rows: 3, chunk, ..PLAIN }).check(&[(2, 13)]);
        }
    }
}

#[test]
fn ssd_in_every_type() {
    for dtype in [F64, F16, BF16] {
        for chunk in [0, 5] {
            let present = DT_BIAS | D | Z | H0 | SOFTPLUS;
            mixer(Options { dtype, present, channels: 3, rows: 5, chunk, ..PLAIN }).check(&[(2, 9)]);
        }
    }
}

#[test]
fn mixers_with_other_discretizations() {
    for discretization in [Discretization::Zoh, Discretization::Bilinear] {
        for present in [0, DT_BIAS | D | Z | SOFTPLUS, H0 | LIMITS, SEQ | H0] {
            let o = Options { present, discretization, channels: 19, ..PLAIN };
            mixer(o).check(&[(2, 0), (2, 9)]);
            mixer(Options { states: 40, reverse: true, ..o }).check(&[(1, 9)]);
            let ssd = Options { channels: 2, rows: 3, ..o };
            mixer(ssd).check(&[(2, 0), (2, 9)]);
            if discretization == Discretization::Zoh {
                mixer(Options { chunk: 4, reverse: true, ..ssd }).check(&[(2, 9)]);
            }
        }
        for dtype in [F64, F16, BF16] {
            let o = Options { dtype, discretization, channels: 3, ..PLAIN };
            mixer(o).check(&[(2, 9)]);
            mixer(Options { rows: 5, ..o }).check(&[(2, 9)]);
        }
    }
}

#[test]
fn mixers_that_read_before_the_update() {
    let read_out = ReadOut::Before;
    for present in [0, H0 | D | Z, SEQ | H0, SEQ | SOFTPLUS] {
        for reverse in [false, true] {
            let o = Options { present, reverse, read_out, channels: 5, ..PLAIN };
            mixer(o).check(&[(2, 0), (2, 1), (2, 9), (1, 66)]);
            mixer(Options { states: 40, ..o }).check(&[(2, 9)]);
            mixer(Options { rows: 17, ..o }).check(&[(2, 0), (2, 1), (2, 9)]);
        }
    }
}

/// Rows of a pool, some named by none, one by two, in any order.
#[test]
fn mixers_on_a_state_pool() {
    for slots in [&[6.0, 2.0, 0.0][..], &[3.0, 3.0, 5.0]] {
        for present in [0, D | Z | SEQ] {
            let o = Options { present, slots, channels: 5, ..PLAIN };
            mixer(o).check(&[(3, 1), (3, 0), (3, 5), (1, 2), (0, 1)]);
            mixer(Options { rows: 3, ..o }).check(&[(3, 1), (3, 0), (3, 5), (1, 2), (0, 1)]);
        }
    }
}

/// Steps from zero to ten thousand beside each other, with and without softplus.
#[test]
fn steps_of_any_size() {
    for present in [0, SOFTPLUS, H0 | D | Z | DT_BIAS] {
        let o = Options { present, channels: 3, dt: Fill::Steps, ..PLAIN };
        mixer(o).check(&[(1, 33)]);
        for chunk in [0, 1, 8, 64] {
            mixer(Options { rows: 4, chunk, ..o }).check(&[(1, 33)]);
        }
    }
}

/// A NaN or infinity reaches exactly the outputs that it reaches in the reference.
#[test]
fn what_is_not_finite_spreads_as_in_the_reference() {
    for salt in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for present in [0, D | Z | H0, SEQ] {
            let o = Options { present, channels: 7, states: 3, x: Fill::Salted(salt), ..PLAIN };
            mixer(o).check(&[(2, 9)]);
            mixer(Options { rows: 5, ..o }).check(&[(2, 9)]);
            mixer(Options { rows: 5, chunk: 4, ..o }).check(&[(2, 9)]);
        }
    }
    for chunk in [0, 4] {
        let o = Options { channels: 5, rows: 2, states: 3, dt: Fill::Salted(f64::NAN), chunk, ..PLAIN };
        mixer(o).check(&[(2, 9)]);
    }
    mixer(Options { dt: Fill::Salted(f64::NAN), present: LIMITS | SOFTPLUS, ..PLAIN }).check(&[(2, 9)]);
}

/// Operands that are the same in every lane must not be counted in lanes that do not exist.
#[test]
fn ssd_of_maps_that_all_states_share() {
    for chunk in [0, 4] {
        let mut case = Case::new(format!("ssd of broadcast maps, chunk={chunk}"));
        let x = case.input(F32, "b,l,1,2,3", Fill::Noise(1.0));
        let dt = case.input(F32, "b,l,1,2", Fill::Range(0.1, 1.0));
        let a = case.weight(F32, "1,2", Fill::Range(-1.0, -0.1));
        let maps: Vec<ValueId> = (0..2)
            .map(|_| {
                let one = case.input(F32, "b,l,1,1", Fill::Noise(1.0));
                case.b.broadcast(one, &[0, 1, 2, 3], super::problem::shape("b,l,1,5")).unwrap()
            })
            .collect();
        let mode = if chunk > 0 { Mode::Chunked } else { Mode::Recurrent };
        let op = Ssd { chunk_size: chunk, mode, ..Ssd::default() };
        let results = case.node(op, &[Some(x), Some(dt), Some(a), Some(maps[0]), Some(maps[1])]);
        case.finish(&results).check(&[(2, 9)]);
    }
}
