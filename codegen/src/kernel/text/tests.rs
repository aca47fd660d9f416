use proptest::prelude::*;

use super::*;
use crate::kernel::*;

const EXAMPLE: &str = "\
kernel scale {
  block 1 1 1
  param x: f32 readwrite
  dim n

  %0.n: i64 = dim n
  %1: i64 = const 0
  %2: f32x8 = const 0.5
  for %3.i in %1..%0.n step 8 {
    %4: f32x8 = load x[%3.i]
    %5: f32x8 = mul %4, %2
    store x[%3.i], %5
  }
}
";

#[test]
fn builder_prints_the_documented_form() {
    let mut b = KernelBuilder::cpu("scale");
    let x = b.param("x", Elem::F32, Access::ReadWrite);
    let n = b.dim("n");
    b.const_i64(0);
    let half = b.splat_f32(0.5, 8);
    b.for_("i", 0, n, 8, |b, i| {
        let v = b.load(x, i, 8);
        let v = b.mul(v, half);
        b.store(x, i, v);
    });
    let kernel = b.finish();
    assert_eq!(kernel.to_string(), EXAMPLE);
    assert_eq!(parse(EXAMPLE).unwrap(), kernel);
}

#[test]
fn dots_are_read_back() {
    let mut b = KernelBuilder::cpu("dots");
    let (x, y) = (b.param("x", Elem::U8, Access::Read), b.param("y", Elem::I8, Access::Read));
    let z = b.param("z", Elem::I32, Access::ReadWrite);
    let (w, q, sum) = (b.load(x, 0, 16), b.load(y, 0, 4), b.load(z, 0, 4));
    let q = b.recast(q, Elem::I32);
    let q = b.splat(q, 4);
    let q = b.recast(q, Elem::I8);
    let sum = b.dot(w, q, sum);
    b.store(z, 0, sum);
    let kernel = b.finish();
    verify::verify(&kernel).unwrap();
    let text = kernel.to_string();
    assert!(text.contains("i8x16 = bitcast") && text.contains("i32x4 = dot"), "{text}");
    assert_eq!(parse(&text).unwrap(), kernel);
}

#[test]
fn errors_name_the_place() {
    let spoil = |from: &str, to: &str| parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err().to_string();
    for (from, to, expected) in [
        ("mul", "mull", "11:17: no instruction is called `mull`"),
        ("f32 readwrite", "f33 readwrite", "3:12: no element type is called `f33`"),
        ("load x", "load y", "10:22: no array is called `y`"),
        ("= dim n", "= dim m", "6:19: no dim is called `m`"),
        ("const 0\n", "const 9223372036854775808\n", "7:19: number 9223372036854775808 is out of range"),
        ("const 0.5", "const half", "8:21: number half is out of range"),
        ("%5: f32x8", "%5 f32x8", "11:8: expected `:`, found `f32x8`"),
        ("%5: f32x8", "%4: f32x4", "11:9: %4 is f32x4 here, but f32x8 elsewhere"),
        ("x[%3.i]", "x[%3.j]", "10:24: %3 is called j here, but called i elsewhere"),
        ("x[%3.i]", "x[%9]", "15:1: %6 is assigned nowhere and not declared by `reg`"),
        ("step 8", "step ?", "9:29: unexpected character '?'"),
        ("  }\n}", "  }\n", "15:1: expected a statement, found the end"),
    ] {
        assert_eq!(spoil(from, to), expected, "{from} -> {to}");
    }
}

#[test]
fn hostile_texts_are_errors() {
    let deep = format!("kernel k {{ {}", "if %0 { ".repeat(100_000));
    assert_eq!(parse(&deep).unwrap_err().kind, ParseErrorKind::Depth(200));
    let sparse = "kernel k { %4294967295: i64 = const 0 }";
    assert_eq!(parse(sparse).unwrap_err().kind, ParseErrorKind::Undeclared(0));
    for text in ["", "kernel", "kernel k {", "%", "kernel k { } }", "kernel k { %0: tile<a, 4, f32> = iota }"]
    {
        assert!(parse(text).is_err(), "{text}");
    }
}

/// Draws decisions from a list of numbers, zeros when it is used up.
struct Draw<'a>(std::slice::Iter<'a, u64>);

impl Draw<'_> {
    fn bits(&mut self) -> u64 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 1
    }

    fn lane(&mut self) -> u16 {
        self.bits() as u16
    }
}

const N_REGS: u64 = 12;

fn ty(d: &mut Draw) -> RegTy {
    let elem = d.pick(&Elem::ALL);
    if d.one_in(5) {
        let role = d.pick(&[TileRole::A, TileRole::B, TileRole::Acc]);
        return RegTy::Tile(TileTy { rows: d.lane(), cols: d.lane(), elem, role });
    }
    elem.x(d.pick(&[1, 2, 8, 1000]))
}

/// A kernel of well-formed statements that need not make sense.
fn kernel(numbers: &[u64]) -> Kernel {
    let d = &mut Draw(numbers.iter());
    let array = |name: &str, d: &mut Draw| Array {
        name: name.into(),
        elem: d.pick(&Elem::ALL),
        len: d.bits() as u32,
        swizzled: false,
        over: None,
    };
    let mut k = Kernel {
        name: "random".into(),
        params: vec![Param {
            name: "x".into(),
            elem: d.pick(&Elem::ALL),
            access: d.pick(&[Access::Read, Access::Constant, Access::Write, Access::ReadWrite]),
        }],
        dims: vec!["n".into(), "mask".into()],
        block: [d.bits() as u32, d.bits() as u32, 1],
        shared: vec![array("s", d)],
        locals: vec![array("l0", d), array("l1", d)],
        regs: Vec::new(),
        body: Vec::new(),
    };
    for i in 0..N_REGS {
        let name = d.one_in(3).then(|| format!("r_{i}"));
        k.regs.push(RegInfo { ty: if i == 0 { Elem::I64.x(1) } else { ty(d) }, name });
    }
    k.body = stmts(&k, d, 3);
    k
}

fn stmts(k: &Kernel, d: &mut Draw, depth: u64) -> Vec<Stmt> {
    (0..d.below(6)).map(|_| stmt(k, d, depth)).collect()
}

fn stmt(k: &Kernel, d: &mut Draw, depth: u64) -> Stmt {
    let mut reg = |d: &mut Draw| Reg(d.below(N_REGS) as u32);
    match d.below(if depth > 0 { 12 } else { 10 }) {
        10 => {
            let (lo, hi, step) = (reg(d), reg(d), d.bits() as i64);
            Stmt::For(For { var: Reg(0), lo, hi, step, body: stmts(k, d, depth - 1) })
        }
        11 => {
            let cond = reg(d);
            Stmt::If(If { cond, on_true: stmts(k, d, depth - 1), on_false: stmts(k, d, depth - 1) })
        }
        _ => Stmt::Inst(inst(k, d, &mut reg)),
    }
}

fn inst(k: &Kernel, d: &mut Draw, reg: &mut impl FnMut(&mut Draw) -> Reg) -> Inst {
    use BinaryOp as B;
    use MathOp as M;
    use UnaryOp as U;
    let (dst, a, b, c) = (reg(d), reg(d), reg(d), reg(d));
    let mems =
        [Mem::Param(ParamId(0)), Mem::Shared(SharedId(0)), Mem::Local(LocalId(0)), Mem::Local(LocalId(1))];
    let (mem, mem2) = (d.pick(&mems), d.pick(&mems));
    let mask = d.one_in(2).then_some(c);
    let value = Const::from_bits(k.ty(dst).elem(), d.bits());
    let layout = d.pick(&[TileLayout::RowMajor, TileLayout::ColMajor]);
    match d.below(32) {
        0 => Inst::Dim { dst, dim: DimId(d.below(2) as u32) },
        1 => Inst::BlockIdx { dst },
        2 => Inst::ThreadIdx { dst, axis: d.pick(&[Axis::X, Axis::Y, Axis::Z]) },
        3 => Inst::Copy { dst, src: a },
        4 => {
            let ops = [U::Neg, U::Abs, U::Sqrt, U::Floor, U::Ceil, U::Trunc, U::Round, U::Not];
            Inst::Unary { dst, op: d.pick(&ops), src: a }
        }
        5 => {
            let ops = [M::Exp, M::Exp2, M::Log, M::Log1p, M::Expm1, M::Sigmoid, M::Softplus];
            Inst::Math { dst, op: d.pick(&ops), src: a }
        }
        6 => {
            let ops = [M::Silu, M::Tanh, M::Erf, M::Sin, M::Cos, M::Rsqrt, M::Recip];
            Inst::Math { dst, op: d.pick(&ops), src: a }
        }
        7 => Inst::Binary {
            dst,
            op: d.pick(&[B::Add, B::Sub, B::Mul, B::Div, B::Rem, B::Pow, B::Exp2Mul]),
            lhs: a,
            rhs: b,
        },
        8 => {
            let ops = [B::Min, B::Max, B::And, B::Or, B::Xor, B::Shl, B::Shr];
            Inst::Binary { dst, op: d.pick(&ops), lhs: a, rhs: b }
        }
        9 => Inst::Fma { dst, a, b, c },
        10 => {
            use CompareOp::*;
            Inst::Compare { dst, op: d.pick(&[Eq, Ne, Lt, Le, Gt, Ge]), lhs: a, rhs: b }
        }
        11 => Inst::Select { dst, cond: a, on_true: b, on_false: c },
        12 => Inst::Cast { dst, src: a },
        13 => Inst::Bitcast { dst, src: a },
        14 => Inst::Splat { dst, src: a },
        15 => Inst::Iota { dst },
        16 => Inst::Extract { dst, src: a, lane: d.lane() },
        17 => Inst::Insert { dst, src: a, value: b, lane: d.lane() },
        18 => Inst::Reduce { dst, op: d.pick(&[ReduceOp::Add, ReduceOp::Min, ReduceOp::Max]), src: a },
        19 => Inst::Shuffle { dst, a, b, pattern: (0..d.below(4)).map(|_| d.lane()).collect() },
        20 => Inst::Load { dst, mem, index: a, mask },
        21 => Inst::Store { mem, index: a, src: b, mask },
        22 => Inst::Gather { dst, mem, index: a, mask },
        23 => Inst::Scatter { mem, index: a, src: b, mask },
        24 => {
            use WarpShuffleOp::*;
            Inst::WarpShuffle { dst, op: d.pick(&[Up, Down, Xor, Idx]), src: a, amount: b }
        }
        25 => d.pick(&[&Inst::Barrier, &Inst::AsyncCommit]).clone(),
        26 => {
            let elems = d.lane();
            Inst::AsyncCopy { dst: mem, dst_index: a, src: mem2, src_index: b, elems, pred: mask }
        }
        27 => Inst::AsyncWait { pending: d.lane() },
        28 => Inst::TileFill { dst, value },
        29 => Inst::TileLoad { dst, mem, index: a, stride: b, layout },
        30 => {
            if mask.is_some() {
                Inst::TileStore { mem, index: a, stride: b, layout, src: c }
            } else {
                Inst::Mma { dst, a, b, acc: c }
            }
        }
        _ => Inst::Const { dst, value },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn print_and_parse_round_trip(numbers in prop::collection::vec(any::<u64>(), 0..600)) {
        let kernel = kernel(&numbers);
        let text = kernel.to_string();
        let parsed = parse(&text);
        prop_assert_eq!(parsed.as_ref(), Ok(&kernel), "{}", text);
    }

    #[test]
    fn any_bits_of_any_type_round_trip(elem in 0usize..13, bits: u64) {
        let mut b = KernelBuilder::cpu("c");
        b.constant(Const::from_bits(Elem::ALL[elem], bits), 1);
        let kernel = b.finish();
        prop_assert_eq!(parse(&kernel.to_string()), Ok(kernel));
    }

    #[test]
    fn parser_never_panics(text in "[kernel{}%0-9:.x=,\\[\\] f32constiadpm\\n]{0,60}") {
        let _: Result<Kernel, ParseError> = parse(&format!("kernel k {{ {text}"));
    }
}
