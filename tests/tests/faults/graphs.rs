//! Faults in graphs.

use super::{Fault, TOLERANCE, apply, error_over_peak, noise};
use ssmc_ir::{DType, Interpreter, Stage, Tensor, Weights, parse, verify};
use std::collections::BTreeMap;

/// A Mamba-1 block with both directions, all options in use.
const MAMBA: &str = "func @mamba(%x: f32[2, 6, 8], %norm: f32[8], %conv_w: f32[8, 4], %conv_b: f32[8],
    %conv_state: f32[2, 3, 8], %dt: f32[2, 6, 2, 4], %dt_bias: f32[2, 4], %a: f32[2, 4, 3],
    %b: f32[2, 6, 2, 3], %c: f32[2, 6, 2, 3], %d: f32[2, 4], %z: f32[2, 6, 2, 4], %h0: f32[2, 2, 4, 3],
    %out_w: f32[8, 8], %seq_idx: i32[2, 6]) {
  %n = rms_norm %x, %norm {eps=0.01} : f32[2, 6, 8]
  %u, %tail = ssm.causal_conv1d %n, %conv_w, %conv_b, %conv_state, %seq_idx {activation=silu} : f32[2, 6, 8], f32[2, 3, 8]
  %v = reshape %u {shape=[2, 6, 2, 4]} : f32[2, 6, 2, 4]
  %y, %h = ssm.selective_scan %v, %dt, %a, %b, %c, %d, %z, %dt_bias, %h0, %seq_idx {dt_max=1.5, dt_min=0.05, dt_softplus=true} : f32[2, 6, 2, 4], f32[2, 2, 4, 3]
  %back, %h1 = ssm.selective_scan %v, %dt, %a, %b, %c {dt_softplus=true, reverse=true} : f32[2, 6, 2, 4], f32[2, 2, 4, 3]
  %both = add %y, %back : f32[2, 6, 2, 4]
  %flat = reshape %both {shape=[2, 6, 8]} : f32[2, 6, 8]
  %proj = contract[bld,ed->ble] %flat, %out_w : f32[2, 6, 8]
  %sum = add %x, %proj : f32[2, 6, 8]
  %last = slice %sum {axis=1, len=1, start=5} : f32[2, 1, 8]
  return %sum \"y\", %last \"last\", %h \"h_last\", %tail \"conv_state_out\"
}";

pub(super) const MAMBA_FAULTS: &[Fault] = &[
    ("lost skip", &[("%c, %d, %z,", "%c, _, %z,")]),
    ("lost gate", &[("%d, %z, %dt_bias", "%d, _, %dt_bias")]),
    ("missing dt bias", &[("%z, %dt_bias, %h0", "%z, _, %h0")]),
    ("b and c swapped", &[("%b, %c, %d", "%c, %b, %d")]),
    ("initial state ignored", &[("%dt_bias, %h0, %seq_idx", "%dt_bias, _, %seq_idx")]),
    ("state not reset at a new sequence", &[("%h0, %seq_idx {", "%h0 {")]),
    ("softplus lost", &[("dt_min=0.05, dt_softplus=true", "dt_min=0.05")]),
    ("upper dt limit lost", &[("dt_max=1.5, ", "")]),
    ("lower dt limit lost", &[("dt_min=0.05, ", "")]),
    ("wrong discretization", &[("{dt_max", "{discretization=zoh, dt_max")]),
    ("reversed direction lost", &[(", reverse=true", "")]),
    ("other direction lost", &[("add %y, %back", "add %y, %y")]),
    ("missing convolution bias", &[("%conv_w, %conv_b", "%conv_w, _")]),
    ("convolution state ignored", &[("%conv_state, %seq_idx {a", "_, %seq_idx {a")]),
    ("convolution across sequences", &[("%conv_state, %seq_idx {a", "%conv_state {a")]),
    ("activation lost", &[(" {activation=silu}", "")]),
    (
        "taps in reverse order",
        &[("%u, %tail", "%w = reverse %conv_w {axis=1} : f32[8, 4]\n  %u, %tail"), ("%n, %conv_w", "%n, %w")],
    ),
    (
        "convolution tail off by one",
        &[
            (
                "return",
                "%all = concat %conv_state, %n {axis=1} : f32[2, 9, 8]\n  %early = slice %all {axis=1, len=3, start=5} : f32[2, 3, 8]\n  return",
            ),
            ("%tail \"", "%early \""),
        ],
    ),
    ("eps lost", &[("eps=0.01", "eps=0.0")]),
    ("norm weight lost", &[("%x, %norm {", "%x {")]),
    (
        "wrong group",
        &[
            ("%y, %h =", "%swapped = reverse %b {axis=2} : f32[2, 6, 2, 3]\n  %y, %h ="),
            ("%b, %c, %d", "%swapped, %c, %d"),
        ],
    ),
    ("wrong axis of a projection", &[("bld,ed->ble", "bld,de->ble")]),
    ("residual lost", &[("add %x, %proj", "add %proj, %proj")]),
    ("last position off by one", &[("start=5", "start=4")]),
    ("normalized input in the residual", &[("add %x, %proj", "add %n, %proj")]),
    (
        "sign of a lost",
        &[
            ("%y, %h =", "%positive = neg %a : f32[2, 4, 3]\n  %y, %h ="),
            ("%dt, %a, %b, %c, %d", "%dt, %positive, %b, %c, %d"),
        ],
    ),
    (
        "gate before skip",
        &[
            ("%c, %d, %z, %dt_bias", "%c, _, %z, %dt_bias"),
            (
                "%both = add %y, %back",
                "%skip = contract[blge,ge->blge] %v, %d : f32[2, 6, 2, 4]\n  %late = add %y, %skip : f32[2, 6, 2, 4]\n  %both = add %late, %back",
            ),
        ],
    ),
    (
        "wrong softplus threshold",
        &[
            (
                "%y, %h =",
                "%wide = broadcast %dt_bias {axes=[2, 3], shape=[2, 6, 2, 4]} : f32[2, 6, 2, 4]
  %raw = add %dt, %wide : f32[2, 6, 2, 4]
  %soft = softplus %raw : f32[2, 6, 2, 4]
  %one = constant {data=[1.0], shape=[1]} : f32[1]
  %ones = broadcast %one {axes=[3], shape=[2, 6, 2, 4]} : f32[2, 6, 2, 4]
  %large = compare %raw, %ones {cmp=gt} : bool[2, 6, 2, 4]
  %step = select %large, %raw, %soft : f32[2, 6, 2, 4]
  %y, %h =",
            ),
            ("%v, %dt, %a, %b, %c, %d, %z, %dt_bias", "%v, %step, %a, %b, %c, %d, %z, _"),
            ("dt_min=0.05, dt_softplus=true", "dt_min=0.05"),
        ],
    ),
];

/// A Mamba-2 core and its gated norm.
const SSD: &str = "func @ssd(%x: f32[1, 6, 2, 2, 3], %dt: f32[1, 6, 2, 2], %a: f32[2, 2], %b: f32[1, 6, 2, 4],
    %c: f32[1, 6, 2, 4], %d: f32[2, 2, 1], %dt_bias: f32[2, 2], %z: f32[1, 6, 12], %norm: f32[12]) {
  %y, %h = ssm.ssd %x, %dt, %a, %b, %c, %d, _, %dt_bias {chunk_size=2, dt_softplus=true, mode=chunked} : f32[1, 6, 2, 2, 3], f32[1, 2, 2, 3, 4]
  %flat = reshape %y {shape=[1, 6, 12]} : f32[1, 6, 12]
  %g = silu %z : f32[1, 6, 12]
  %gated = mul %flat, %g : f32[1, 6, 12]
  %n = rms_norm %gated, %norm {eps=0.01} : f32[1, 6, 12]
  return %n \"y\", %h \"h_last\"
}";

pub(super) const SSD_FAULTS: &[Fault] = &[
    (
        "norm before gate",
        &[
            ("%gated = mul %flat, %g : f32[1, 6, 12]\n", ""),
            ("rms_norm %gated", "rms_norm %flat"),
            ("return %n", "%late = mul %n, %g : f32[1, 6, 12]\n  return %late"),
        ],
    ),
    (
        "heads in the wrong order",
        &[
            ("%y, %h =", "%other = reverse %a {axis=1} : f32[2, 2]\n  %y, %h ="),
            ("%dt, %a, %b", "%dt, %other, %b"),
        ],
    ),
    (
        "skip of another head",
        &[
            ("%y, %h =", "%other = reverse %d {axis=1} : f32[2, 2, 1]\n  %y, %h ="),
            ("%c, %d, _", "%c, %other, _"),
        ],
    ),
    ("dt bias of a matrix scan lost", &[("_, %dt_bias {", "_ {")]),
];

/// A scan in two chunks, the state passed between them.
const CHUNKS: &str = "func @chunks(%a: f32[1, 6, 4], %b: f32[1, 6, 4], %h0: f32[1, 4]) {
  %a0 = slice %a {axis=1, len=3, start=0} : f32[1, 3, 4]
  %a1 = slice %a {axis=1, len=3, start=3} : f32[1, 3, 4]
  %b0 = slice %b {axis=1, len=3, start=0} : f32[1, 3, 4]
  %b1 = slice %b {axis=1, len=3, start=3} : f32[1, 3, 4]
  %y0, %carry = ssm.scan %a0, %b0, %h0 : f32[1, 3, 4], f32[1, 4]
  %y1, %end = ssm.scan %a1, %b1, %carry : f32[1, 3, 4], f32[1, 4]
  %y = concat %y0, %y1 {axis=1} : f32[1, 6, 4]
  return %y \"y\", %end \"h_last\"
}";

pub(super) const CHUNK_FAULTS: &[Fault] = &[
    ("carry between chunks lost", &[("%b1, %carry", "%b1")]),
    ("wrong carry between chunks", &[("%b1, %carry", "%b1, %h0")]),
    ("chunks in the wrong order", &[("concat %y0, %y1", "concat %y1, %y0")]),
    ("chunk boundary off by one", &[("%b {axis=1, len=3, start=3}", "%b {axis=1, len=3, start=2}")]),
    ("decay of the chunk before", &[("ssm.scan %a1", "ssm.scan %a0")]),
];

/// The same numbers for every input of this name: step sizes on both sides of the limits, negative decays.
fn input(name: &str, dtype: DType, shape: Vec<usize>) -> Tensor {
    let n = shape.iter().product();
    if dtype == DType::I32 {
        let seq_idx = (0..n).map(|i| i64::from(i % 6 >= 2 + i / 6)).collect();
        return Tensor::ints(dtype, shape, seq_idx).expect("as many elements as the shape has");
    }
    let seed = name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte));
    let scaled = noise(seed, n).into_iter().map(|x| match name {
        "dt" => 4.0 * x,
        "a" => -0.6 + 0.4 * x,
        "norm" => 1.0 + 0.5 * x,
        _ => x,
    });
    Tensor::floats(dtype, shape, scaled.collect()).expect("as many elements as the shape has")
}

fn run(text: &str) -> BTreeMap<String, Vec<f64>> {
    let graph = parse(text).unwrap_or_else(|faults| panic!("{faults:?} in\n{text}"));
    assert_eq!(verify(&graph, Stage::Rewritten), [], "{text}");
    let inputs = graph.inputs().iter().map(|port| {
        let ty = graph.ty(port.value);
        let extents = ty.shape.as_const().expect("the graphs have constant shapes");
        let shape = extents.iter().map(|extent| *extent as usize).collect();
        (port.name.clone(), input(&port.name, ty.dtype, shape))
    });
    let outputs = Interpreter::new(&graph, &Weights::new()).run(&inputs.collect());
    let outputs = outputs.unwrap_or_else(|error| panic!("{error} in\n{text}"));
    outputs.into_iter().map(|(name, tensor)| (name, tensor.to_f64())).collect()
}

#[track_caller]
fn check(text: &str, faults: &[Fault]) {
    let truth = run(text);
    assert!(truth.values().flatten().all(|x| x.is_finite()));
    for fault in faults {
        let found = run(&apply(text, fault));
        let errors = truth.iter().map(|(name, expected)| error_over_peak(&found[name], expected));
        let worst = errors.fold(0.0, f64::max);
        assert!(worst > TOLERANCE, "{}: not caught, error {worst:e}", fault.0);
    }
}

#[test]
fn faults_of_a_mamba_block_are_caught() {
    check(MAMBA, MAMBA_FAULTS);
}

#[test]
fn faults_of_a_matrix_scan_are_caught() {
    check(SSD, SSD_FAULTS);
}

#[test]
fn faults_between_chunks_are_caught() {
    check(CHUNKS, CHUNK_FAULTS);
}

/// Changes that keep the meaning pass, so that the faults above are caught for what they are.
#[test]
fn equivalent_graphs_pass() {
    let whole = apply(
        CHUNKS,
        &(
            "one chunk",
            &[
                (
                    "return %y",
                    "%whole, %last = ssm.scan %a, %b, %h0 : f32[1, 6, 4], f32[1, 4]\n  return %whole",
                ),
                ("%end \"", "%last \""),
            ],
        ),
    );
    let recurrent = apply(SSD, &("mode", &[("chunk_size=2, ", ""), (", mode=chunked", "")]));
    for (text, same) in [(CHUNKS, whole.as_str()), (SSD, &recurrent)] {
        let (truth, found) = (run(text), run(same));
        for (name, expected) in &truth {
            let error = error_over_peak(&found[name], expected);
            assert!(error < TOLERANCE / 100.0, "{name}: {error:e}");
        }
    }
}
