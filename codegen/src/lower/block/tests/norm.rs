use super::super::norm::Schedule;
use super::*;
use ssmc_ir::ops::{GatedRmsNorm, RmsNorm};

/// A norm of rows: their length, the type in memory, whether a group widens them, and which of `weight gate first` it
/// has; `first` says that the norm comes before the gate.
fn problem(width: i64, dtype: DType, is_widened: bool, has: &str) -> Problem {
    let has = |what: &str| has.split(' ').any(|h| h == what);
    let mut p = Problem::new();
    p.bind("rows", 3);
    let n = width.to_string();
    let input = |p: &mut Problem, name: &str, shape: &[&str]| {
        let x = p.input(name, dtype, shape);
        if is_widened { p.builder().cast(x, DType::F32).unwrap() } else { x }
    };
    let x = input(&mut p, "x", &["rows", &n]);
    let z = has("gate").then(|| input(&mut p, "z", &["rows", &n]));
    let weight = has("weight").then(|| input(&mut p, "weight", &[&n]));
    let eps = 1e-5.into();
    let y = match z {
        Some(_) => p.op(GatedRmsNorm { eps, norm_before_gate: has("first") }, &[Some(x), z, weight]),
        None => p.op(RmsNorm { eps }, &[Some(x), weight]),
    };
    let mut y = y[0];
    if is_widened {
        y = p.builder().cast(y, dtype).unwrap();
        p.epilogue(1);
    }
    p.output(y);
    p
}

#[test]
fn rows_in_registers() {
    for (width, dtype) in
        [(128, DType::F32), (768, DType::F32), (2560, DType::F32), (256, DType::BF16), (5120, DType::BF16)]
    {
        for has in ["", "weight", "weight gate", "weight gate first"] {
            for is_widened in [false, dtype != DType::F32] {
                let p = problem(width, dtype, is_widened, has);
                assert!(p.holds(|graph, group| Schedule::of(graph, group).is_some()), "{width} {dtype:?}");
                for target in targets() {
                    let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
                    p.check(&lowered, tolerance(dtype)).unwrap_or_else(|e| panic!("{width} {has}: {e}"));
                }
            }
        }
    }
}

#[test]
fn rows_that_no_block_divides_are_read_twice() {
    for width in [1, 6, 100, 130, 1 << 16] {
        assert!(
            !problem(width, DType::F32, false, "weight")
                .holds(|graph, group| Schedule::of(graph, group).is_some()),
            "{width}"
        );
    }
}

/// Zeros have no direction, and what is not finite stays visible.
#[test]
fn extreme_rows() {
    let fills: [fn(usize, f64) -> f64; 3] =
        [|_, _| 0.0, |_, noise| 1e15 * noise, |at, noise| if at == 200 { f64::NAN } else { noise }];
    for fill in fills {
        let mut p = problem(128, DType::F32, false, "weight");
        p.refill("x", fill);
        let lowered = p.lower(|graph, group| lower_block(graph, group, &targets()[0])).unwrap();
        p.check(&lowered, tolerance(DType::F32)).unwrap();
    }
}
