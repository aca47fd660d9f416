use super::*;
use crate::text::parse;
use proptest::prelude::*;

/// An expression before it becomes a normal form.
#[derive(Clone, Debug)]
enum Expr {
    Const(i64),
    Symbol(usize),
    Add(Box<Expr>, Box<Expr>),
    Sub(Box<Expr>, Box<Expr>),
    Mul(Box<Expr>, Box<Expr>),
    Apply(DimFn, Box<Expr>, Box<Expr>),
}

const SYMBOLS: [&str; 3] = ["batch", "seq_len", "odd name"];

impl Expr {
    fn dim(&self) -> Dim {
        match self {
            Expr::Const(n) => Dim::from(*n),
            Expr::Symbol(i) => Dim::symbol(SYMBOLS[*i]),
            Expr::Add(a, b) => a.dim() + b.dim(),
            Expr::Sub(a, b) => a.dim() - b.dim(),
            Expr::Mul(a, b) => a.dim() * b.dim(),
            Expr::Apply(f, a, b) => Dim::apply(*f, &a.dim(), &b.dim()),
        }
    }

    /// The value, unless a divisor is 0.
    fn eval(&self, values: [i64; 3]) -> Option<i64> {
        Some(match self {
            Expr::Const(n) => *n,
            Expr::Symbol(i) => values[*i],
            Expr::Add(a, b) => a.eval(values)?.checked_add(b.eval(values)?)?,
            Expr::Sub(a, b) => a.eval(values)?.checked_sub(b.eval(values)?)?,
            Expr::Mul(a, b) => a.eval(values)?.checked_mul(b.eval(values)?)?,
            Expr::Apply(f, a, b) => f.apply(a.eval(values)?, b.eval(values)?)?,
        })
    }
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![(-4i64..9).prop_map(Expr::Const), (0usize..3).prop_map(Expr::Symbol)];
    leaf.prop_recursive(4, 24, 2, |inner| {
        let pair = (inner.clone(), inner).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            pair.clone().prop_map(|(a, b)| Expr::Add(a, b)),
            pair.clone().prop_map(|(a, b)| Expr::Sub(a, b)),
            pair.clone().prop_map(|(a, b)| Expr::Mul(a, b)),
            (prop::sample::select(DimFn::ALL), pair).prop_map(|(f, (a, b))| Expr::Apply(f, a, b)),
        ]
    })
}

fn bindings(values: [i64; 3]) -> Bindings {
    SYMBOLS.iter().zip(values).map(|(name, v)| (Symbol::new(name), v)).collect()
}

proptest! {
    #[test]
    fn the_normal_form_has_the_value_of_the_expression(e in expr(), values in prop::array::uniform3(0i64..12)) {
        if let Some(expected) = e.eval(values) {
            // Intermediate coefficients may leave 64 bits although the value does not.
            let dim = e.dim();
            if !dim.is_undefined() && dim.eval(&bindings(values)).is_ok() {
                prop_assert_eq!(dim.eval(&bindings(values)), Ok(expected), "{}", dim);
            }
        }
    }

    #[test]
    fn substitution_commutes_with_evaluation(e in expr(), values in prop::array::uniform3(1i64..12)) {
        let with: BTreeMap<_, _> = bindings(values).into_iter().map(|(s, v)| (s, Dim::from(v))).collect();
        let dim = e.dim();
        if let Ok(expected) = dim.eval(&bindings(values)) {
            prop_assert_eq!(dim.substitute(&with).as_const(), Some(expected), "{}", dim);
        }
    }

    #[test]
    fn printing_and_parsing_changes_nothing(e in expr()) {
        let dim = e.dim();
        let text = format!("func @f(%x: f32[{dim}]) {{ return %x }}");
        let graph = parse(&text).map_err(|faults| TestCaseError::fail(format!("{faults:?} in {text}")))?;
        prop_assert_eq!(&graph.ty(graph.inputs()[0].value).shape[0], &dim);
    }
}

#[test]
fn equal_polynomials_are_equal() {
    let (b, l) = (Dim::symbol("b"), Dim::symbol("l"));
    assert_eq!((b.clone() + &l) * &b - b.clone() * &b, l.clone() * &b);
    assert_eq!((l.clone() * 6).floordiv(&Dim::from(3)), l.clone() * 2);
    assert_eq!((l.clone() * &b).modulo(&b), Dim::from(0));
    assert_eq!(l.at_most(&(l.clone() + 3)), l);
    assert_eq!((l.clone() + 3).at_least(&Dim::from(2)), l.clone() + 3);
    assert_eq!(l.at_most(&Dim::from(3)), Dim::from(3).at_most(&l));
    assert_eq!((l.clone() * 2 - 1i64).to_string(), "2*l - 1");
    assert_eq!(Dim::from(0).as_const(), Some(0));
}

#[test]
fn what_leaves_64_bits_is_undefined_and_stays_so() {
    let max = Dim::from(i64::MAX);
    for dim in [
        max.clone() + 1,
        max.clone() * 2,
        Dim::from(i64::MIN) - 1,
        -Dim::from(i64::MIN),
        (max.clone() + 1) * Dim::from(0),
        (max.clone() + 1) - (max.clone() + 1),
        (max.clone() * 2).at_least(&Dim::from(0)),
    ] {
        assert!(dim.is_undefined(), "{dim}");
        assert!(matches!(dim.eval(&Bindings::new()), Err(DimError::Overflow(_))));
    }
    let symbol = Dim::symbol("n");
    assert_eq!(symbol.eval(&Bindings::new()), Err(DimError::Unbound(Symbol::new("n"))));
    let square = symbol.clone() * &symbol;
    let large = Bindings::from([(Symbol::new("n"), i64::MAX)]);
    assert_eq!(square.eval(&large), Err(DimError::Overflow(square.clone())));
}

#[test]
fn division_rounds_as_its_name_says() {
    let values = |f: DimFn| [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3)].map(|(a, b)| f.apply(a, b));
    assert_eq!(values(DimFn::FloorDiv), [3, -4, -4, 3, 2].map(Some));
    assert_eq!(values(DimFn::CeilDiv), [4, -3, -3, 4, 2].map(Some));
    assert_eq!(values(DimFn::Mod), [1, 1, -1, -1, 0].map(Some));
    assert_eq!(DimFn::FloorDiv.apply(1, 0), None);
    assert_eq!(DimFn::FloorDiv.apply(i64::MIN, -1), None);
}
