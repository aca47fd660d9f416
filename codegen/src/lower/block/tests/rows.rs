use super::super::rows::Schedule;
use super::*;
use ssmc_ir::ops::{BinaryFn, Reduce, ReduceFn};

/// A reduction of so many rows: their length, the type in memory, and whether the group squares them.
fn problem(rows: i64, width: i64, dtype: DType, (f, is_squared): (ReduceFn, bool)) -> Problem {
    let mut p = Problem::new();
    p.bind("rows", rows);
    let x = p.input("x", dtype, &["rows", &width.to_string()]);
    let b = p.builder();
    let x = if dtype == DType::F32 { x } else { b.cast(x, DType::F32).unwrap() };
    let x = if is_squared { b.binary(BinaryFn::Mul, x, x).unwrap() } else { x };
    let y = p.op(Reduce { axes: vec![1], f }, &[Some(x)])[0];
    p.output(y);
    p
}

#[test]
fn rows_are_added_up_by_warps_and_by_blocks() {
    for width in [8, 40, 256, 264, 1544, 2560, 5120, 5128, 10240] {
        for rows in [0, 1, 3, 4, 6] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for form in [(ReduceFn::Mean, true), (ReduceFn::Sum, false)] {
                    let p = problem(rows, width, dtype, form);
                    assert!(
                        p.holds(|graph, group| Schedule::of(graph, group).is_some()),
                        "{width} {dtype:?}"
                    );
                    for target in targets() {
                        let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
                        p.check(&lowered, tolerance(DType::F32))
                            .unwrap_or_else(|e| panic!("{rows} x {width} {dtype:?}: {e}"));
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_odd_lengths_have_a_thread_each() {
    for (width, f) in [(6, ReduceFn::Mean), (33, ReduceFn::Sum), (64, ReduceFn::Max)] {
        let p = problem(3, width, DType::F32, (f, false));
        assert!(!p.holds(|graph, group| Schedule::of(graph, group).is_some()), "{width} {f:?}");
        let lowered = p.lower(|graph, group| lower_block(graph, group, &targets()[0])).unwrap();
        p.check(&lowered, tolerance(DType::F32)).unwrap();
    }
}

/// What is not finite stays visible, in its own row alone.
#[test]
fn extreme_rows() {
    let fills: [fn(usize, f64) -> f64; 3] =
        [|_, _| 0.0, |_, noise| 1e15 * noise, |at, noise| if at == 300 { f64::NAN } else { noise }];
    for width in [256, 10240] {
        for fill in fills {
            let mut p = problem(3, width, DType::F32, (ReduceFn::Mean, true));
            p.refill("x", fill);
            let lowered = p.lower(|graph, group| lower_block(graph, group, &targets()[0])).unwrap();
            p.check(&lowered, tolerance(DType::F32)).unwrap();
        }
    }
}
