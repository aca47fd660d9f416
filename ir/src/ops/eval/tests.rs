mod recurrent;

use crate::interp::InterpError;
use crate::ops::{EvalError, Op};
use crate::tensor::Tensor;
use crate::testing::{apply, assert_close, bools, c128s, f32s, i32s, i64s};
use crate::types::DType;
use std::collections::BTreeSet;

struct Case {
    op: &'static str,
    args: Vec<Option<Tensor>>,
    expected: Vec<Tensor>,
    regions: &'static str,
}

fn case(op: &'static str, args: Vec<Tensor>, expected: Vec<Tensor>) -> Case {
    partial(op, args.into_iter().map(Some).collect(), expected)
}

/// With absent operands.
fn partial(op: &'static str, args: Vec<Option<Tensor>>, expected: Vec<Tensor>) -> Case {
    Case { op, args, expected, regions: "" }
}

fn unary(op: &'static str, x: &[f64], y: &[f64]) -> Case {
    case(op, vec![f32s(&[x.len()], x)], vec![f32s(&[y.len()], y)])
}

fn binary(op: &'static str, x: &[f64], y: &[f64], z: &[f64]) -> Case {
    case(op, vec![f32s(&[x.len()], x), f32s(&[y.len()], y)], vec![f32s(&[z.len()], z)])
}

fn binary_int(op: &'static str, x: &[i64], y: &[i64], z: &[i64]) -> Case {
    case(op, vec![i32s(&[x.len()], x), i32s(&[y.len()], y)], vec![i32s(&[z.len()], z)])
}

fn typed(dtype: DType, x: &[i64]) -> Tensor {
    Tensor::ints(dtype, [x.len()], x.to_vec()).unwrap()
}

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;
const E: f64 = std::f64::consts::E;

fn elementwise_cases() -> Vec<Case> {
    vec![
        unary("neg", &[1.0, -2.0, NAN], &[-1.0, 2.0, NAN]),
        case("neg", vec![typed(DType::I8, &[-128, 3])], vec![typed(DType::I8, &[-128, -3])]),
        case("neg", vec![c128s(&[1], &[(1.0, -2.0)])], vec![c128s(&[1], &[(-1.0, 2.0)])]),
        unary("abs", &[-1.5, 0.0, NAN], &[1.5, 0.0, NAN]),
        case("abs", vec![i32s(&[2], &[-3, 4])], vec![i32s(&[2], &[3, 4])]),
        unary("exp", &[0.0, 1.0, -INF, NAN], &[1.0, E, 0.0, NAN]),
        case("exp", vec![c128s(&[1], &[(0.0, std::f64::consts::PI)])], vec![c128s(&[1], &[(-1.0, 0.0)])]),
        unary("log", &[1.0, E, 0.0, -1.0], &[0.0, 1.0, -INF, NAN]),
        unary("log1p", &[0.0, 1e-20], &[0.0, 1e-20]),
        unary("expm1", &[0.0, 1e-20], &[0.0, 1e-20]),
        unary("sqrt", &[4.0, -1.0], &[2.0, NAN]),
        unary("rsqrt", &[4.0, 0.0], &[0.5, INF]),
        unary("reciprocal", &[4.0, INF], &[0.25, 0.0]),
        case("reciprocal", vec![c128s(&[1], &[(0.0, 2.0)])], vec![c128s(&[1], &[(0.0, -0.5)])]),
        unary("sin", &[0.0, std::f64::consts::FRAC_PI_2], &[0.0, 1.0]),
        unary("cos", &[0.0, std::f64::consts::PI], &[1.0, -1.0]),
        unary("tanh", &[0.0, 100.0, NAN], &[0.0, 1.0, NAN]),
        unary("sigmoid", &[0.0, 1000.0, -1000.0, NAN], &[0.5, 1.0, 0.0, NAN]),
        unary("softplus", &[0.0, 1000.0, -1000.0, NAN], &[2f64.ln(), 1000.0, 0.0, NAN]),
        unary("silu", &[0.0, 1.0, 1000.0], &[0.0, 1.0 / (1.0 + (-1f64).exp()), 1000.0]),
        // Abramowitz & Stegun, table 7.1.
        unary(
            "erf",
            &[0.0, 0.5, 1.0, 2.0, -1.0, 9.0, NAN],
            &[
                0.0,
                0.520_499_877_813_046_5,
                0.842_700_792_949_714_9,
                0.995_322_265_018_952_7,
                -0.842_700_792_949_714_9,
                1.0,
                NAN,
            ],
        ),
        unary("relu", &[-1.0, 2.0, NAN], &[0.0, 2.0, NAN]),
        unary("floor", &[1.5, -1.5], &[1.0, -2.0]),
        unary("ceil", &[1.5, -1.5], &[2.0, -1.0]),
        unary("round", &[0.5, 1.5, -2.5, 2.6], &[0.0, 2.0, -2.0, 3.0]),
        unary("sign", &[-3.0, 0.0, 5.0, NAN], &[-1.0, 0.0, 1.0, NAN]),
        case(
            "dequantize {axis=1, group=2}",
            vec![Tensor::ints(DType::I8, [1, 4], vec![1, -128, 3, 127]).unwrap(), f32s(&[1, 2], &[0.5, 2.0])],
            vec![f32s(&[1, 4], &[0.5, -64.0, 6.0, 254.0])],
        ),
        case("sign", vec![typed(DType::U64, &[-1, 0])], vec![typed(DType::U64, &[1, 0])]),
        case("not", vec![bools(&[2], &[true, false])], vec![bools(&[2], &[false, true])]),
        case("is_nan", vec![f32s(&[2], &[NAN, INF])], vec![bools(&[2], &[true, false])]),
        binary("add", &[1.0, INF], &[2.0, -INF], &[3.0, NAN]),
        case("add", vec![typed(DType::I8, &[127]), typed(DType::I8, &[1])], vec![typed(DType::I8, &[-128])]),
        binary("sub", &[1.0], &[2.0], &[-1.0]),
        binary("mul", &[3.0, 0.0], &[2.0, INF], &[6.0, NAN]),
        case(
            "mul",
            vec![c128s(&[1], &[(1.0, 2.0)]), c128s(&[1], &[(3.0, -1.0)])],
            vec![c128s(&[1], &[(5.0, 5.0)])],
        ),
        binary("div", &[1.0, 1.0], &[4.0, 0.0], &[0.25, INF]),
        binary_int("div", &[7, -7, i64::from(i32::MIN)], &[2, 2, -1], &[3, -3, i64::from(i32::MIN)]),
        case(
            "div",
            vec![c128s(&[1], &[(5.0, 5.0)]), c128s(&[1], &[(3.0, -1.0)])],
            vec![c128s(&[1], &[(1.0, 2.0)])],
        ),
        binary("pow", &[2.0, 2.0, -8.0], &[3.0, -1.0, 1.0 / 3.0], &[8.0, 0.5, NAN]),
        binary_int("pow", &[2, -1, 5, 3], &[10, -3, -1, 0], &[1024, -1, 0, 1]),
        binary("min", &[1.0, NAN, 1.0], &[2.0, 1.0, NAN], &[1.0, NAN, NAN]),
        binary("max", &[1.0, NAN, 1.0], &[2.0, 1.0, NAN], &[2.0, NAN, NAN]),
        case("max", vec![typed(DType::U64, &[-1]), typed(DType::U64, &[1])], vec![typed(DType::U64, &[-1])]),
        binary("rem", &[7.0, -7.0, 7.0], &[3.0, 3.0, -3.0], &[1.0, 2.0, -2.0]),
        binary_int("rem", &[7, -7, 7], &[3, 3, -3], &[1, 2, -2]),
        binary_int("and", &[12], &[10], &[8]),
        binary_int("or", &[12], &[10], &[14]),
        binary_int("xor", &[12], &[10], &[6]),
        case(
            "and",
            vec![bools(&[2], &[true, true]), bools(&[2], &[true, false])],
            vec![bools(&[2], &[true, false])],
        ),
        case(
            "compare {cmp=lt}",
            vec![f32s(&[3], &[1.0, 2.0, NAN]), f32s(&[3], &[2.0, 2.0, 0.0])],
            vec![bools(&[3], &[true, false, false])],
        ),
        case("compare", vec![i64s(&[2], &[1, 2]), i64s(&[2], &[1, 3])], vec![bools(&[2], &[true, false])]),
        case("compare {cmp=ne}", vec![f32s(&[1], &[NAN]), f32s(&[1], &[NAN])], vec![bools(&[1], &[true])]),
        case(
            "compare {cmp=gt}",
            vec![typed(DType::U64, &[-1]), typed(DType::U64, &[1])],
            vec![bools(&[1], &[true])],
        ),
        case(
            "select",
            vec![bools(&[2], &[true, false]), f32s(&[2], &[1.0, NAN]), f32s(&[2], &[NAN, 4.0])],
            vec![f32s(&[2], &[1.0, 4.0])],
        ),
        case(
            "cast {to=i32}",
            vec![f32s(&[4], &[1.9, -1.9, NAN, 1e20])],
            vec![i32s(&[4], &[1, -1, 0, i64::from(i32::MAX)])],
        ),
        case("cast {to=u8}", vec![f32s(&[2], &[-5.0, 300.0])], vec![typed(DType::U8, &[0, 255])]),
        case("cast {to=u8}", vec![i32s(&[2], &[-1, 300])], vec![typed(DType::U8, &[255, 44])]),
        case("cast", vec![typed(DType::U64, &[-1])], vec![f32s(&[1], &[18_446_744_073_709_551_615.0])]),
        case("cast {to=bool}", vec![f32s(&[3], &[0.0, 0.5, NAN])], vec![bools(&[3], &[false, true, true])]),
        case(
            "bitcast",
            vec![f32s(&[2], &[1.0, -0.0])],
            vec![i32s(&[2], &[0x3f80_0000, i64::from(i32::MIN)])],
        ),
        case(
            "bitcast {to=f64}",
            vec![i64s(&[1], &[0x4000_0000_0000_0000])],
            vec![Tensor::floats(DType::F64, [1usize], vec![2.0]).unwrap()],
        ),
        case("bitcast {to=u8}", vec![typed(DType::I8, &[-1])], vec![typed(DType::U8, &[255])]),
        case("cast {to=c128}", vec![f32s(&[1], &[2.0])], vec![c128s(&[1], &[(2.0, 0.0)])]),
    ]
}

fn layout_cases() -> Vec<Case> {
    let m = || f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    vec![
        case("constant {data=[1.5, -0.0], shape=[2]}", vec![], vec![f32s(&[2], &[1.5, -0.0])]),
        case("dim {value=7}", vec![], vec![i64s(&[], &[7])]),
        case("iota {axis=1, shape=[2, 3]}", vec![], vec![i64s(&[2, 3], &[0, 1, 2, 0, 1, 2])]),
        case("iota {dtype=f32, shape=[2, 2]}", vec![], vec![f32s(&[2, 2], &[0.0, 0.0, 1.0, 1.0])]),
        case(
            "broadcast {axes=[1], shape=[2, 2]}",
            vec![f32s(&[2], &[1.0, 2.0])],
            vec![f32s(&[2, 2], &[1.0, 2.0, 1.0, 2.0])],
        ),
        case(
            "broadcast {axes=[0, 1], shape=[2, 3]}",
            vec![f32s(&[2, 1], &[1.0, 2.0])],
            vec![f32s(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0])],
        ),
        case("broadcast {shape=[0]}", vec![f32s(&[], &[1.0])], vec![f32s(&[0], &[])]),
        case("reshape {shape=[3, 2]}", vec![m()], vec![f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]),
        case("transpose {perm=[1, 0]}", vec![m()], vec![f32s(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])]),
        case("slice {axis=1, len=2, start=1}", vec![m()], vec![f32s(&[2, 2], &[2.0, 3.0, 5.0, 6.0])]),
        case(
            "slice {axis=1, len=2, start=2, stride=-2}",
            vec![m()],
            vec![f32s(&[2, 2], &[3.0, 1.0, 6.0, 4.0])],
        ),
        case("slice {axis=0, len=0, start=2}", vec![m()], vec![f32s(&[0, 3], &[])]),
        case("reverse {axis=1}", vec![m()], vec![f32s(&[2, 3], &[3.0, 2.0, 1.0, 6.0, 5.0, 4.0])]),
        case("reverse", vec![f32s(&[0], &[])], vec![f32s(&[0], &[])]),
        case(
            "concat {axis=1}",
            vec![m(), f32s(&[2, 1], &[7.0, 8.0]), f32s(&[2, 0], &[])],
            vec![f32s(&[2, 4], &[1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 8.0])],
        ),
        case(
            "pad {axis=1, high=1, low=2}",
            vec![f32s(&[2, 1], &[1.0, 2.0]), f32s(&[], &[9.0])],
            vec![f32s(&[2, 4], &[9.0, 9.0, 1.0, 9.0, 9.0, 9.0, 2.0, 9.0])],
        ),
        case(
            "gather {axis=1}",
            vec![m(), i64s(&[2, 1], &[-1, 0])],
            vec![f32s(&[2, 2, 1], &[3.0, 1.0, 6.0, 4.0])],
        ),
        case("gather", vec![f32s(&[0, 2], &[]), i64s(&[0], &[])], vec![f32s(&[0, 2], &[])]),
        case(
            "scatter",
            vec![
                m(),
                i64s(&[3], &[-1, 0, -1]),
                f32s(&[3, 3], &[7.0, 7.0, 7.0, 8.0, 8.0, 8.0, 9.0, 9.0, 9.0]),
            ],
            vec![f32s(&[2, 3], &[8.0, 8.0, 8.0, 9.0, 9.0, 9.0])],
        ),
        case(
            "scatter {f=add}",
            vec![typed(DType::I8, &[127, 1]), i64s(&[2], &[0, 0]), typed(DType::I8, &[1, 2])],
            vec![typed(DType::I8, &[-126, 1])],
        ),
        case(
            "scatter {f=mul}",
            vec![f32s(&[2], &[2.0, 3.0]), i64s(&[2], &[1, 1]), f32s(&[2], &[2.0, 5.0])],
            vec![f32s(&[2], &[2.0, 30.0])],
        ),
        case(
            "scatter {f=max}",
            vec![f32s(&[3], &[2.0, NAN, 3.0]), i64s(&[3], &[0, 1, 2]), f32s(&[3], &[NAN, 1.0, 2.0])],
            vec![f32s(&[3], &[NAN, NAN, 3.0])],
        ),
        case(
            "scatter {f=min}",
            vec![typed(DType::U64, &[-1]), i64s(&[1], &[0]), typed(DType::U64, &[4])],
            vec![typed(DType::U64, &[4])],
        ),
        case(
            "top_k {axis=1, k=2}",
            vec![f32s(&[2, 3], &[1.0, 5.0, 5.0, 2.0, NAN, 9.0])],
            vec![f32s(&[2, 2], &[5.0, 5.0, NAN, 9.0]), i64s(&[2, 2], &[1, 2, 1, 2])],
        ),
        case(
            "top_k {k=2, largest=false}",
            vec![typed(DType::U8, &[3, 200, 3])],
            vec![typed(DType::U8, &[3, 3]), i64s(&[2], &[0, 2])],
        ),
    ]
}

fn sum_cases() -> Vec<Case> {
    let m = || f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let empty = || f32s(&[2, 0], &[]);
    vec![
        case("reduce {axes=[1]}", vec![m()], vec![f32s(&[2], &[6.0, 15.0])]),
        case("reduce {axes=[0], f=mean}", vec![m()], vec![f32s(&[3], &[2.5, 3.5, 4.5])]),
        case("reduce {axes=[0, 1], f=prod}", vec![m()], vec![f32s(&[], &[720.0])]),
        case("reduce {axes=[0], f=max}", vec![f32s(&[3], &[1.0, NAN, 3.0])], vec![f32s(&[], &[NAN])]),
        case("reduce {axes=[0], f=min}", vec![i64s(&[3], &[5, -2, 3])], vec![i64s(&[], &[-2])]),
        case("reduce", vec![f32s(&[1], &[4.0])], vec![f32s(&[1], &[4.0])]),
        case("reduce {axes=[1]}", vec![empty()], vec![f32s(&[2], &[0.0, 0.0])]),
        case("reduce {axes=[1], f=mean}", vec![empty()], vec![f32s(&[2], &[NAN, NAN])]),
        case("reduce {axes=[1], f=max}", vec![empty()], vec![f32s(&[2], &[-INF, -INF])]),
        case("reduce {axes=[1], f=min}", vec![empty()], vec![f32s(&[2], &[INF, INF])]),
        case("reduce {axes=[1], f=prod}", vec![empty()], vec![f32s(&[2], &[1.0, 1.0])]),
        case(
            "reduce {axes=[0], f=max}",
            vec![typed(DType::I8, &[])],
            vec![Tensor::ints(DType::I8, [], vec![-128]).unwrap()],
        ),
        case(
            "reduce {axes=[0]}",
            vec![c128s(&[2], &[(1.0, 2.0), (3.0, -1.0)])],
            vec![c128s(&[], &[(4.0, 1.0)])],
        ),
        case("cumsum", vec![f32s(&[3], &[1.0, 2.0, 3.0])], vec![f32s(&[3], &[1.0, 3.0, 6.0])]),
        case(
            "cumsum {exclusive=true, reverse=true}",
            vec![f32s(&[3], &[1.0, 2.0, 3.0])],
            vec![f32s(&[3], &[5.0, 3.0, 0.0])],
        ),
        case("cumsum {axis=1}", vec![i64s(&[2, 2], &[1, 2, 3, 4])], vec![i64s(&[2, 2], &[1, 3, 3, 7])]),
        case(
            "argmax {axis=1}",
            vec![f32s(&[2, 3], &[1.0, 5.0, 5.0, 2.0, NAN, 9.0])],
            vec![i64s(&[2], &[1, 1])],
        ),
        case(
            "contract[bd,ed->be]",
            vec![m(), f32s(&[1, 3], &[1.0, 0.0, -1.0])],
            vec![f32s(&[2, 1], &[-2.0, -2.0])],
        ),
        case("contract[ab->ba]", vec![m()], vec![f32s(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])]),
        case("contract[ab->]", vec![m()], vec![f32s(&[], &[21.0])]),
        case(
            "contract[ab,b,a->a]",
            vec![m(), f32s(&[3], &[1.0, 1.0, 2.0]), f32s(&[2], &[10.0, 1.0])],
            vec![f32s(&[2], &[90.0, 21.0])],
        ),
        case("contract[ab,b->a]", vec![empty(), f32s(&[0], &[])], vec![f32s(&[2], &[0.0, 0.0])]),
        case(
            "contract[a,b->ab]",
            vec![i64s(&[2], &[1, 2]), i64s(&[2], &[3, 4])],
            vec![i64s(&[2, 2], &[3, 4, 6, 8])],
        ),
        case(
            "contract[a,a->]",
            vec![c128s(&[1], &[(0.0, 1.0)]), c128s(&[1], &[(0.0, 1.0)])],
            vec![c128s(&[], &[(-1.0, 0.0)])],
        ),
        // Two groups, stride 2, dilation 2, pads 1 and 0, bias.
        partial(
            "conv {dilations=[2], groups=2, pads=[1, 0], strides=[2]}",
            vec![
                Some(f32s(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])),
                Some(f32s(&[2, 1, 2], &[1.0, 10.0, 1.0, 100.0])),
                Some(f32s(&[2], &[0.5, 0.0])),
            ],
            // Padded: 0 1 2 3 4; places 0 and 2 read (0, 2) and (2, 4).
            vec![f32s(&[1, 2, 2], &[20.5, 42.5, 600.0, 806.0])],
        ),
        case(
            "conv {dilations=[1, 1], pads=[0, 0, 0, 0], strides=[1, 1]}",
            vec![f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), f32s(&[1, 1, 2, 1], &[1.0, 10.0])],
            vec![f32s(&[1, 1, 1, 2], &[31.0, 42.0])],
        ),
    ]
}

fn ssm_cases() -> Vec<Case> {
    let (half, x) = (f32s(&[1, 3, 1], &[0.5; 3]), f32s(&[1, 3, 1], &[1.0, 2.0, 4.0]));
    let e = (-1f64).exp();
    vec![
        // u = 7 8 | 1 2 3, taps 1 10 100.
        partial(
            "ssm.causal_conv1d",
            vec![
                Some(f32s(&[1, 3, 1], &[1.0, 2.0, 3.0])),
                Some(f32s(&[1, 3], &[1.0, 10.0, 100.0])),
                Some(f32s(&[1], &[0.5])),
                Some(f32s(&[1, 2, 1], &[7.0, 8.0])),
            ],
            vec![f32s(&[1, 3, 1], &[187.5, 218.5, 321.5]), f32s(&[1, 2, 1], &[2.0, 3.0])],
        ),
        // The second step starts another sequence; the state is longer than the input.
        partial(
            "ssm.causal_conv1d",
            vec![
                Some(f32s(&[1, 2, 1], &[1.0, 2.0])),
                Some(f32s(&[1, 4], &[1.0, 1.0, 1.0, 1.0])),
                None,
                Some(f32s(&[1, 3, 1], &[7.0, 8.0, 9.0])),
                Some(i32s(&[1, 2], &[0, 1])),
            ],
            vec![f32s(&[1, 2, 1], &[25.0, 2.0]), f32s(&[1, 3, 1], &[9.0, 1.0, 2.0])],
        ),
        case(
            "ssm.causal_conv1d {activation=silu}",
            vec![f32s(&[1, 1, 1], &[1.0]), f32s(&[1, 1], &[1.0])],
            vec![f32s(&[1, 1, 1], &[1.0 / (1.0 + e)]), f32s(&[1, 0, 1], &[])],
        ),
        // Taps 1 10 100 act on 1 2 3 and on what went before; then the first tap looks ahead.
        partial(
            "ssm.long_conv",
            vec![
                Some(f32s(&[1, 3, 1], &[1.0, 2.0, 3.0])),
                Some(f32s(&[3, 1], &[1.0, 10.0, 100.0])),
                Some(f32s(&[1, 2, 1], &[7.0, 8.0])),
            ],
            vec![f32s(&[1, 3, 1], &[781.0, 812.0, 123.0]), f32s(&[1, 2, 1], &[2.0, 3.0])],
        ),
        case(
            "ssm.long_conv {lead=1}",
            vec![f32s(&[1, 3, 1], &[1.0, 2.0, 3.0]), f32s(&[3, 1], &[1.0, 10.0, 100.0])],
            vec![f32s(&[1, 3, 1], &[12.0, 123.0, 230.0]), f32s(&[1, 2, 1], &[2.0, 3.0])],
        ),
        // A kernel of its own for each sequence, longer than they are.
        case(
            "ssm.long_conv",
            vec![f32s(&[2, 1, 1], &[3.0, 5.0]), f32s(&[2, 2, 1], &[1.0, 10.0, 2.0, 20.0])],
            vec![f32s(&[2, 1, 1], &[3.0, 10.0]), f32s(&[2, 1, 1], &[3.0, 5.0])],
        ),
        // A quarter turn per step.
        case(
            "ssm.complex_scan",
            vec![
                f32s(&[1, 1, 1], &[0.0]),
                f32s(&[1, 1, 1], &[1.0]),
                f32s(&[1, 3, 1], &[1.0, 0.0, 2.0]),
                f32s(&[1, 3, 1], &[0.0, 0.0, 3.0]),
            ],
            vec![
                f32s(&[1, 3, 1], &[1.0, 0.0, 1.0]),
                f32s(&[1, 3, 1], &[0.0, 1.0, 3.0]),
                f32s(&[1, 1], &[1.0]),
                f32s(&[1, 1], &[3.0]),
            ],
        ),
        // Backwards from a state, with another sequence in the middle.
        partial(
            "ssm.complex_scan {reverse=true}",
            vec![
                Some(f32s(&[1, 1, 1], &[2.0])),
                Some(f32s(&[1, 1, 1], &[1.0])),
                Some(f32s(&[1, 2, 1], &[0.5, 0.0])),
                Some(f32s(&[1, 2, 1], &[0.25, 0.0])),
                Some(f32s(&[1, 1], &[1.0])),
                Some(f32s(&[1, 1], &[-1.0])),
                Some(i32s(&[1, 2], &[0, 1])),
            ],
            vec![
                f32s(&[1, 2, 1], &[0.5, 3.0]),
                f32s(&[1, 2, 1], &[0.25, -1.0]),
                f32s(&[1, 1], &[0.5]),
                f32s(&[1, 1], &[0.25]),
            ],
        ),
        case(
            "dft {length=2}",
            vec![f32s(&[2], &[1.0, 3.0])],
            vec![f32s(&[2], &[4.0, -2.0]), f32s(&[2], &[0.0; 2])],
        ),
        // 1 i -1 -i turns once per four steps.
        case(
            "dft {length=4}",
            vec![f32s(&[4], &[1.0, 0.0, -1.0, 0.0]), f32s(&[4], &[0.0, 1.0, 0.0, -1.0])],
            vec![f32s(&[4], &[0.0, 4.0, 0.0, 0.0]), f32s(&[4], &[0.0; 4])],
        ),
        case(
            "dft {inverse=true, length=4}",
            vec![f32s(&[4], &[0.0, 4.0, 0.0, 0.0]), f32s(&[4], &[0.0; 4])],
            vec![f32s(&[4], &[1.0, 0.0, -1.0, 0.0]), f32s(&[4], &[0.0, 1.0, 0.0, -1.0])],
        ),
        // A shorter signal is padded, on any axis; half of the spectrum is the other half's mirror image.
        case(
            "dft {axis=1, length=4, onesided=true}",
            vec![f32s(&[1, 2], &[1.0, 2.0])],
            vec![f32s(&[1, 3], &[3.0, 1.0, -1.0]), f32s(&[1, 3], &[0.0, -2.0, 0.0])],
        ),
        // The imaginary parts of the first and the middle element have no meaning.
        case(
            "dft {inverse=true, length=4, onesided=true}",
            vec![f32s(&[3], &[3.0, 1.0, -1.0]), f32s(&[3], &[9.0, -2.0, 9.0])],
            vec![f32s(&[4], &[1.0, 2.0, 0.0, 0.0]), f32s(&[4], &[0.0; 4])],
        ),
        case(
            "dft {inverse=true, length=3, onesided=true}",
            vec![f32s(&[2], &[6.0, 0.0]), f32s(&[2], &[0.0, 0.0])],
            vec![f32s(&[3], &[2.0; 3]), f32s(&[3], &[0.0; 3])],
        ),
        case(
            "ssm.scan",
            vec![half.clone(), x.clone()],
            vec![f32s(&[1, 3, 1], &[1.0, 2.5, 5.25]), f32s(&[1, 1], &[5.25])],
        ),
        partial(
            "ssm.scan {reverse=true}",
            vec![Some(half.clone()), Some(x.clone()), Some(f32s(&[1, 1], &[8.0]))],
            vec![f32s(&[1, 3, 1], &[4.0, 6.0, 8.0]), f32s(&[1, 1], &[4.0])],
        ),
        partial(
            "ssm.scan",
            vec![Some(half.clone()), Some(x), None, Some(i32s(&[1, 3], &[0, 1, 1]))],
            vec![f32s(&[1, 3, 1], &[1.0, 2.0, 5.0]), f32s(&[1, 1], &[5.0])],
        ),
        // Constant coefficients, no step: the state stays.
        case(
            "ssm.scan",
            vec![f32s(&[1, 1, 1], &[0.5]), f32s(&[1, 0, 2], &[]), f32s(&[1, 2], &[3.0, 4.0])],
            vec![f32s(&[1, 0, 2], &[]), f32s(&[1, 2], &[3.0, 4.0])],
        ),
        case(
            "ssm.scan",
            vec![c128s(&[1, 1, 1], &[(0.0, 1.0)]), c128s(&[1, 2, 1], &[(1.0, 0.0), (0.0, 0.0)])],
            vec![c128s(&[1, 2, 1], &[(1.0, 0.0), (0.0, 1.0)]), c128s(&[1, 1], &[(0.0, 1.0)])],
        ),
        // x = 2, dt = 0.5, a = -2: a_bar = e^-1, b_bar = 0.5*3.
        case(
            "ssm.discretized_scan",
            vec![
                f32s(&[1, 1, 1, 1], &[2.0]),
                f32s(&[1, 1, 1, 1], &[0.5]),
                f32s(&[1, 1, 1], &[-2.0]),
                f32s(&[1, 1, 1, 1], &[3.0]),
                f32s(&[1, 1, 1, 1], &[10.0]),
            ],
            vec![f32s(&[1, 1, 1, 1, 1], &[10.0 * e + 3.0]), f32s(&[1, 1, 1, 1], &[10.0 * e + 3.0])],
        ),
        case(
            "ssm.discretized_scan {discretization=zoh}",
            vec![
                f32s(&[1, 1, 1, 1], &[2.0]),
                f32s(&[1, 1, 1, 1], &[0.5]),
                f32s(&[1, 1, 2], &[-2.0, 0.0]),
                f32s(&[1, 1, 1, 2], &[3.0, 3.0]),
            ],
            vec![
                f32s(&[1, 1, 1, 1, 2], &[3.0 * (1.0 - e), 3.0]),
                f32s(&[1, 1, 1, 2], &[3.0 * (1.0 - e), 3.0]),
            ],
        ),
        // Scalar decay, bilinear: half = -0.5, below = 1.5; a_bar = 1/3, factor = 1/3.
        case(
            "ssm.discretized_scan {discretization=bilinear}",
            vec![
                f32s(&[1, 1, 1, 1, 1], &[2.0]),
                f32s(&[1, 1, 1, 1], &[0.5]),
                f32s(&[1, 1], &[-2.0]),
                f32s(&[1, 1, 1, 1], &[3.0]),
                f32s(&[1, 1, 1, 1, 1], &[9.0]),
            ],
            vec![f32s(&[1, 1, 1, 1, 1, 1], &[5.0]), f32s(&[1, 1, 1, 1, 1], &[5.0])],
        ),
        // dt = softplus(0) = ln 2, limited to 0.5; h = 0.5*3*2 = 3; y = (5*3 + 7*2) * silu(1000).
        partial(
            "ssm.selective_scan {dt_max=0.5, dt_softplus=true}",
            vec![
                Some(f32s(&[1, 1, 1, 1], &[2.0])),
                Some(f32s(&[1, 1, 1, 1], &[1.0])),
                Some(f32s(&[1, 1, 1], &[-2.0])),
                Some(f32s(&[1, 1, 1, 1], &[3.0])),
                Some(f32s(&[1, 1, 1, 1], &[5.0])),
                Some(f32s(&[1, 1], &[7.0])),
                Some(f32s(&[1, 1, 1, 1], &[1000.0])),
                Some(f32s(&[1, 1], &[-1.0])),
                Some(f32s(&[1, 1, 1, 1], &[0.0])),
            ],
            vec![f32s(&[1, 1, 1, 1], &[29000.0]), f32s(&[1, 1, 1, 1], &[3.0])],
        ),
        // Two channels of one head, one skip weight each; h0 = 10, a_bar = e^-1.
        partial(
            "ssm.ssd",
            vec![
                Some(f32s(&[1, 1, 1, 1, 2], &[2.0, 4.0])),
                Some(f32s(&[1, 1, 1, 1], &[0.5])),
                Some(f32s(&[1, 1], &[-2.0])),
                Some(f32s(&[1, 1, 1, 1], &[3.0])),
                Some(f32s(&[1, 1, 1, 1], &[5.0])),
                Some(f32s(&[1, 1, 2], &[1.0, -1.0])),
                None,
                None,
                Some(f32s(&[1, 1, 1, 2, 1], &[10.0, 0.0])),
            ],
            vec![
                f32s(&[1, 1, 1, 1, 2], &[5.0 * (10.0 * e + 3.0) + 2.0, 5.0 * 6.0 - 4.0]),
                f32s(&[1, 1, 1, 2, 1], &[10.0 * e + 3.0, 6.0]),
            ],
        ),
        case(
            "rms_norm",
            vec![f32s(&[1, 2], &[3.0, 4.0]), f32s(&[2], &[1.0, 2.0])],
            vec![f32s(&[1, 2], &[3.0 / 12.5f64.sqrt(), 8.0 / 12.5f64.sqrt()])],
        ),
        case("rms_norm {eps=1.0}", vec![f32s(&[0, 2], &[])], vec![f32s(&[0, 2], &[])]),
        case(
            "layer_norm {eps=3.0}",
            vec![f32s(&[2], &[1.0, 3.0]), f32s(&[2], &[1.0, 2.0]), f32s(&[2], &[0.0, 10.0])],
            vec![f32s(&[2], &[-0.5, 11.0])],
        ),
        case(
            "gated_rms_norm {norm_before_gate=true}",
            vec![f32s(&[1], &[3.0]), f32s(&[1], &[1000.0])],
            vec![f32s(&[1], &[1000.0])],
        ),
        case(
            "gated_rms_norm {eps=1.0}",
            vec![f32s(&[1], &[3.0]), f32s(&[1], &[1000.0])],
            vec![f32s(&[1], &[3000.0 / (9e6f64 + 1.0).sqrt()])],
        ),
    ]
}

fn region_cases() -> Vec<Case> {
    vec![
        Case {
            op: "loop {n_carried=1, scan_axes=[1], scan_reverse=[true], stack_axes=[0], stack_reverse=[false], trip_count=3}",
            args: vec![
                Some(f32s(&[2], &[0.0, 0.0])),
                Some(f32s(&[2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0])),
                Some(f32s(&[2], &[1.0, -1.0])),
            ],
            expected: vec![f32s(&[2], &[6.0, -60.0]), f32s(&[3, 2], &[3.0, -30.0, 5.0, -50.0, 6.0, -60.0])],
            regions: "{ func @body(%i: i64[], %h: f32[2], %x: f32[2], %w: f32[2]) {
                %p = mul %x, %w : f32[2]
                %n = add %h, %p : f32[2]
                return %n, %n \"stacked\" } }",
        },
        Case {
            op: "loop {n_carried=1, stack_axes=[0], stack_reverse=[true]}",
            args: vec![Some(i64s(&[], &[5]))],
            expected: vec![i64s(&[], &[5]), i64s(&[0], &[])],
            regions: "{ func @body(%i: i64[], %h: i64[]) { return %h, %i } }",
        },
        Case {
            op: "loop {stack_axes=[0], stack_reverse=[true], trip_count=3}",
            args: vec![],
            expected: vec![i64s(&[3], &[2, 1, 0])],
            regions: "{ func @body(%i: i64[]) { return %i } }",
        },
        Case {
            op: "if",
            args: vec![Some(bools(&[], &[false])), Some(f32s(&[1], &[3.0]))],
            expected: vec![f32s(&[1], &[-3.0])],
            regions: "{ func @then(%x: f32[1]) { return %x }
                func @else(%x: f32[1]) { %y = neg %x : f32[1] return %y } }",
        },
    ]
}

fn cases() -> Vec<Case> {
    [elementwise_cases(), layout_cases(), sum_cases(), ssm_cases(), recurrent::cases(), region_cases()]
        .into_iter()
        .flatten()
        .collect()
}

fn types(tensors: &[Tensor]) -> Vec<(DType, Vec<usize>)> {
    tensors.iter().map(|x| (x.dtype(), x.shape().to_vec())).collect()
}

#[test]
fn ops_compute_what_a_person_computes() {
    for case in cases() {
        let found = apply(case.op, &case.args, &types(&case.expected), case.regions)
            .unwrap_or_else(|e| panic!("{}: {e}", case.op));
        assert_eq!(found.len(), case.expected.len(), "{}", case.op);
        for (found, expected) in found.iter().zip(&case.expected) {
            assert_close(found, expected, 1e-14, case.op);
        }
    }
}

#[test]
fn every_op_has_a_case() {
    let word = |op: &'static str| op.split([' ', '[']).next().unwrap();
    let tested: BTreeSet<_> = cases().iter().map(|c| word(c.op)).collect();
    // Weights need bytes beside the graph: interp/tests.rs.
    let all = Op::templates().into_iter().map(|op| op.name()).filter(|name| *name != "weight");
    assert_eq!(all.filter(|name| !tested.contains(name)).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn ops_without_a_value_are_errors() {
    let fails = |op: &str, args: Vec<Tensor>, shape: (DType, &[usize])| {
        let args: Vec<_> = args.into_iter().map(Some).collect();
        match apply(op, &args, &[(shape.0, shape.1.to_vec())], "") {
            Err(InterpError::Node { source, .. }) => *source,
            other => panic!("{op}: {other:?}"),
        }
    };
    let int = |x: &[i64]| i64s(&[x.len()], x);
    let one = (DType::I64, &[1][..]);
    assert_eq!(fails("div", vec![int(&[1]), int(&[0])], one), EvalError::DivisionByZero);
    assert_eq!(fails("rem", vec![int(&[1]), int(&[0])], one), EvalError::DivisionByZero);
    assert_eq!(fails("pow", vec![int(&[0]), int(&[-1])], one), EvalError::DivisionByZero);
    for index in [3, -4, i64::MIN, i64::MAX] {
        let error = fails("gather", vec![int(&[1, 2, 3]), int(&[index])], one);
        assert_eq!(error, EvalError::Index { operand: "indices", index, extent: 3 });
    }
    let error = fails("scatter", vec![int(&[1]), int(&[1]), int(&[5])], one);
    assert_eq!(error, EvalError::Index { operand: "indices", index: 1, extent: 1 });
    let empty = Tensor::ints(DType::I64, [1, 0], vec![]).unwrap();
    assert_eq!(fails("reduce {axes=[1], f=mean}", vec![empty.clone()], one), EvalError::DivisionByZero);
    assert_eq!(fails("argmax {axis=1}", vec![empty], one), EvalError::EmptyAxis { op: "argmax" });
    let huge = fails("iota {shape=[1099511627776]}", vec![], (DType::I64, &[1 << 40]));
    assert!(matches!(huge, EvalError::Tensor(_)), "{huge}");
    let negative = fails("pad {low=-1}", vec![int(&[1, 2]), i64s(&[], &[0])], one);
    assert!(matches!(negative, EvalError::NegativeExtent { value: -1, .. }), "{negative}");
}
