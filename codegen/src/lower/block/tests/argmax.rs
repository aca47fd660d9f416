use super::*;
use ssmc_ir::ops::ArgMax;

fn problem(rows: &str, n: i64, dtype: DType, fill: fn(usize, f64) -> f64) -> Problem {
    let mut p = Problem::new();
    p.bind("rows", 3);
    let x = p.input_of("x", dtype, &[rows, &n.to_string()], fill);
    let y = p.op(ArgMax { axis: 1 }, &[Some(x)])[0];
    p.output(y);
    p
}

fn check(p: &Problem) {
    for target in targets() {
        let lowered = p.lower(|graph, group| lower_block(graph, group, &target)).unwrap();
        assert_eq!(lowered.kernel.block[0], super::super::argmax::THREADS);
        p.check(&lowered, 0.0).unwrap();
    }
}

#[test]
fn rows_of_any_length() {
    for n in [1024, 1025, 4096, 4097, 5280, 20001] {
        check(&problem("rows", n, DType::F32, |_, noise| noise));
    }
    check(&problem("rows", 2050, DType::BF16, |_, noise| noise));
    check(&problem("1", 1028, DType::F16, |at, _| at as f64));
}

#[test]
fn of_equal_elements_the_first_wins() {
    check(&problem("rows", 5000, DType::F32, |_, noise| (noise * 3.0).round()));
    check(&problem("rows", 1024, DType::F32, |_, _| f64::NEG_INFINITY));
    check(&problem("rows", 1030, DType::F32, |_, _| f64::INFINITY));
}

#[test]
fn nan_is_above_everything() {
    check(&problem("rows", 5000, DType::F32, |at, noise| if at % 1777 == 1501 { f64::NAN } else { noise }));
    check(&problem("rows", 1024, DType::F32, |at, _| if at == 3 { f64::NAN } else { f64::INFINITY }));
}
