use super::*;

fn c(value: i64) -> Expr {
    Expr::constant(value)
}

fn s(index: u32) -> Expr {
    Expr::symbol(index)
}

fn raw(op: ExprOp, operands: Vec<Expr>) -> Expr {
    Expr { op: op.into(), value: 0, operands }
}

#[test]
fn evaluates_and_prints() {
    let symbols = ["batch", "seq_len"].map(|name| Symbol { name: name.into(), ..Symbol::default() });
    let cases = [
        (c(7), "7", 7),
        (s(1), "seq_len", 10),
        (s(0) * s(1) * c(4) + c(3), "(batch*seq_len*4) + 3", 123),
        ((s(0) + c(-5)).floor_div(c(4)), "floordiv(batch + -5, 4)", -1),
        ((s(0) + c(-5)).ceil_div(c(4)), "ceildiv(batch + -5, 4)", 0),
        ((s(0) + c(-5)).modulo(c(4)), "mod(batch + -5, 4)", 2),
        (s(1).min(c(4)).min(s(0)), "min(seq_len, 4, batch)", 3),
        (s(1).max(c(40)), "max(seq_len, 40)", 40),
        (s(0) * (s(1) + c(1)), "batch*(seq_len + 1)", 33),
    ];
    for (expr, text, value) in cases {
        assert_eq!(expr.display(&symbols).to_string(), text);
        assert_eq!(expr.eval(&[3, 10]), Ok(value), "{text}");
        assert_eq!(expr.check(2), Ok(()), "{text}");
    }
    assert_eq!((s(0) + s(2)).display(&symbols).to_string(), "batch + s2");
}

#[test]
fn folds_constants_and_neutral_elements() {
    assert_eq!(c(3) * c(4) + c(0), c(12));
    assert_eq!(c(1) * s(0), s(0));
    assert_eq!(s(0) + c(0), s(0));
    assert_eq!(c(7).ceil_div(c(2)), c(4));
    assert_eq!(c(1).floor_div(c(0)).eval(&[]), Err(ExprError::Divisor { found: 0 }));
    assert_eq!((s(0) + s(1) + c(2)).operands.len(), 3);
}

#[test]
fn reports_faults() {
    let overflow = s(0) * c(i64::MAX);
    assert_eq!(overflow.eval(&[2]), Err(ExprError::Overflow));
    assert_eq!(overflow.range(&[(1, 2)]), Err(ExprError::Overflow));
    assert_eq!(s(3).check(2), Err(ExprError::UnknownSymbol { index: 3, count: 2 }));
    assert_eq!(s(3).eval(&[1]), Err(ExprError::UnknownSymbol { index: 3, count: 1 }));
    let unknown = Expr { op: 99, ..Expr::default() };
    assert_eq!(unknown.check(0), Err(ExprError::UnknownOp { found: 99 }));
    let empty = raw(ExprOp::Add, vec![]);
    assert_eq!(empty.check(0), Err(ExprError::Arity { op: ExprOp::Add, found: 0 }));
    assert_eq!(empty.eval(&[]), Err(ExprError::Arity { op: ExprOp::Add, found: 0 }));
    let one = raw(ExprOp::Mod, vec![c(1)]);
    assert_eq!(one.eval(&[]), Err(ExprError::Arity { op: ExprOp::Mod, found: 1 }));
    assert_eq!(c(1).modulo(s(0)).eval(&[-2]), Err(ExprError::Divisor { found: -2 }));
    assert_eq!(c(i64::MIN).ceil_div(s(0)).eval(&[1]), Ok(i64::MIN));
    let deep = (0..MAX_EXPR_DEPTH).fold(s(0), |expr, _| expr.floor_div(c(2)));
    assert_eq!(deep.check(1), Err(ExprError::TooDeep));
}

#[test]
fn ranges_hold_every_value() {
    let exprs = [
        s(0) * s(1) + c(-7) * s(0),
        (s(0) + c(-5)).floor_div(s(1)),
        (s(0) + c(-5)).ceil_div(s(1)),
        (s(0) + c(-5)).modulo(s(1)),
        s(0).modulo(c(100)),
        s(0).modulo(s(1)),
        s(0).min(s(1)).max(c(2)),
    ];
    let ranges = [(0, 12), (1, 5)];
    for expr in exprs {
        let (low, high) = expr.range(&ranges).expect("all divisors are positive");
        for x in ranges[0].0..=ranges[0].1 {
            for y in ranges[1].0..=ranges[1].1 {
                let value = expr.eval(&[x, y]).expect("all divisors are positive");
                assert!(low <= value && value <= high, "{expr} = {value}, range {low}..={high}");
            }
        }
    }
    assert_eq!(s(0).modulo(c(8)).range(&[(0, 20)]), Ok((0, 7)));
}
