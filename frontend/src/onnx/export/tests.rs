//! What is written is read again and computes the same.

use super::super::import_model;
use super::*;
use ssmc_ir::{Bindings, Interpreter, Model, Symbol, Tensor, TensorType, Weight, parse};
use std::collections::BTreeMap;
use std::path::Path;

fn noise(seed: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| (((i + 1) * 7919 + seed * 104_729) % 1000) as f64 / 500.0 - 1.0).collect()
}

fn tensor(seed: usize, ty: &TensorType, bindings: &Bindings) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.eval(bindings).unwrap() as usize).collect();
    let data = noise(seed, shape.iter().product());
    if ty.dtype.is_float() {
        return Tensor::floats(ty.dtype, shape, data).unwrap().rounded();
    }
    Tensor::ints(ty.dtype, shape, data.iter().map(|x| (x.abs() * 3.0) as i64).collect()).unwrap()
}

fn model_of(text: &str) -> Model {
    let graph = parse(text).unwrap_or_else(|e| panic!("{e:?}"));
    let mut model = Model { graph, ..Model::default() };
    for (i, (_, node)) in model.graph.nodes().enumerate() {
        if let ssmc_ir::ops::Op::WeightRef(w) = &node.op {
            let ty = TensorType::new(w.dtype, w.shape.clone());
            let bytes = tensor(100 + i, &ty, &Bindings::new()).to_bytes();
            model.weights.insert(w.name.clone(), Weight { ty, bytes: bytes.into() });
        }
    }
    model
}

fn run(graph: &Graph, weights: &Weights, inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    Interpreter::new(graph, weights).run(inputs).unwrap_or_else(|e| panic!("{e}\n{graph}"))
}

/// Writes the graph, reads it again and compares in the interpreter, for several extents.
#[track_caller]
fn survives(text: &str) -> ModelProto {
    let model = model_of(text);
    let mut written = None;
    for opset in [13, 17, 18, 23, 27] {
        let options = ExportOptions { opset, doc: "a test".into(), external_data: false };
        let proto = super::model(&model.graph, &model.weights, &options).unwrap();
        let back = import_model(&proto, Path::new("model.onnx"), &[]).unwrap_or_else(|e| panic!("{e}"));
        for (batch, len) in [(1, 1), (2, 3), (3, 8)] {
            let bindings = Bindings::from([(Symbol::new("batch"), batch), (Symbol::new("seq_len"), len)]);
            let inputs = model
                .graph
                .inputs()
                .iter()
                .enumerate()
                .map(|(i, port)| (port.name.clone(), tensor(i, model.graph.ty(port.value), &bindings)));
            let inputs = inputs.collect();
            let expected = run(&model.graph, &model.weights, &inputs);
            let found = run(&back.graph, &back.weights, &inputs);
            for (name, expected) in &expected {
                assert_eq!(found[name].shape(), expected.shape(), "{name} at opset {opset}");
                for (x, y) in found[name].to_f64().iter().zip(expected.to_f64()) {
                    assert!(
                        (x - y).abs() <= 1e-5 * y.abs().max(1.0),
                        "{name} at opset {opset}: {x}, expected {y}"
                    );
                }
            }
        }
        written = Some(proto);
    }
    written.unwrap()
}

fn operators(proto: &ModelProto) -> Vec<String> {
    proto.graph.iter().flat_map(|g| &g.node).map(|n| n.op_type().to_owned()).collect()
}

#[test]
fn linear_layers_are_matrix_products() {
    let proto = survives(
        r#"func @f(%x: f32[batch, seq_len, 4]) {
    %w = weight {name="w", shape=[6, 4]} : f32[6, 4]
    %b = weight {name="b", shape=[6]} : f32[6]
    %y = contract[abc,dc->abd] %x, %w : f32[batch, seq_len, 6]
    %e = broadcast %b {axes=[2], shape=[batch, seq_len, 6]} : f32[batch, seq_len, 6]
    %z = add %y, %e : f32[batch, seq_len, 6]
    return %z "z"
}"#,
    );
    assert_eq!(operators(&proto), ["MatMul", "Add"]);
    let dim = &proto.graph.as_ref().unwrap().output[0];
    assert!(format!("{dim:?}").contains("seq_len"));
}

#[test]
fn gelus_are_one_operator() {
    let text = |last: &str| {
        format!(
            r#"func @f(%x: f32[batch, 4]) {{
    %c = constant {{data=[0.70710677], shape=[]}} : f32[]
    %cs = broadcast %c {{shape=[batch, 4]}} : f32[batch, 4]
    %h = constant {{data=[0.5], shape=[]}} : f32[]
    %hs = broadcast %h {{shape=[batch, 4]}} : f32[batch, 4]
    %o = constant {{data=[1.0], shape=[]}} : f32[]
    %os = broadcast %o {{shape=[batch, 4]}} : f32[batch, 4]
    %1 = mul %x, %cs : f32[batch, 4]
    %2 = erf %1 : f32[batch, 4]
    %3 = add %2, %os : f32[batch, 4]
    {last}
    return %y "y"
}}"#
        )
    };
    for last in [
        "%4 = mul %x, %hs : f32[batch, 4]\n    %y = mul %4, %3 : f32[batch, 4]",
        "%4 = mul %3, %x : f32[batch, 4]\n    %y = mul %hs, %4 : f32[batch, 4]",
        "%4 = mul %3, %hs : f32[batch, 4]\n    %y = mul %x, %4 : f32[batch, 4]",
    ] {
        assert_eq!(operators(&survives(&text(last))), ["Gelu"], "{last}");
    }
    let other = "%4 = mul %x, %os : f32[batch, 4]\n    %y = mul %4, %3 : f32[batch, 4]";
    assert!(operators(&survives(&text(other))).contains(&"Erf".to_owned()));
}

#[test]
fn a_kernel_that_depends_on_the_input_is_one_for_each_channel_and_row() {
    let proto = survives(
        r#"func @f(%x: f32[2, seq_len, 3], %k: f32[2, 5, 3]) {
    %y, %h = ssm.long_conv %x, %k : f32[2, seq_len, 3], f32[2, 4, 3]
    return %y "y", %h "h"
}"#,
    );
    assert!(operators(&proto).contains(&"Conv".to_owned()));
}

#[test]
fn channels_that_read_the_same_are_one_group() {
    let proto = survives(
        r#"func @f(%x: f32[batch, 3, 8, 1], %dt: f32[batch, 3, 8, 1], %b: f32[batch, 3, 2, 3], %c: f32[batch, 3, 2, 3]) {
    %a = weight {name="a", shape=[8, 1, 3]} : f32[8, 1, 3]
    %b1 = broadcast %b {axes=[0, 1, 2, 4], shape=[batch, 3, 2, 4, 3]} : f32[batch, 3, 2, 4, 3]
    %b2 = reshape %b1 {shape=[batch, 3, 8, 3]} : f32[batch, 3, 8, 3]
    %c1 = broadcast %c {axes=[0, 1, 2, 4], shape=[batch, 3, 2, 4, 3]} : f32[batch, 3, 2, 4, 3]
    %c2 = reshape %c1 {shape=[batch, 3, 8, 3]} : f32[batch, 3, 8, 3]
    %y, %h = ssm.selective_scan %x, %dt, %a, %b2, %c2 : f32[batch, 3, 8, 1], f32[batch, 8, 1, 3]
    return %y "y", %h "h"
}"#,
    );
    assert!(!operators(&proto).contains(&"Expand".to_owned()), "{:?}", operators(&proto));
}

#[test]
fn products_take_any_labels() {
    survives(
        r#"func @f(%x: f32[batch, seq_len, 4], %y: f32[batch, seq_len, 3], %z: f32[4, 3, 2]) {
    %p = contract[abc,abd->abcd] %x, %y : f32[batch, seq_len, 4, 3]
    %q = contract[abcd,cde->aeb] %p, %z : f32[batch, 2, seq_len]
    %r = contract[abc,abd,cde->ae] %x, %y, %z : f32[batch, 2]
    %s = contract[abc->cb] %x : f32[4, seq_len]
    %t = contract[abc,adc->abd] %x, %x : f32[batch, seq_len, seq_len]
    return %q "q", %r "r", %s "s", %t "t"
}"#,
    );
}

#[test]
fn layout_takes_symbolic_extents() {
    survives(
        r#"func @f(%x: f32[batch, seq_len, 4]) {
    %r = reshape %x {shape=[batch*seq_len, 2, 2]} : f32[batch*seq_len, 2, 2]
    %s = slice %x {axis=1, len=1, start=seq_len - 1} : f32[batch, 1, 4]
    %v = reverse %x {axis=1} : f32[batch, seq_len, 4]
    %c = concat %x, %v, %s {axis=1} : f32[batch, 2*seq_len + 1, 4]
    %i = iota {axis=1, dtype=f32, shape=[batch, seq_len, 4]} : f32[batch, seq_len, 4]
    %n = dim {value=2*seq_len + 1} : i64[]
    %u = reshape %x {shape=[batch, 1, seq_len, 4]} : f32[batch, 1, seq_len, 4]
    %y = add %x, %i : f32[batch, seq_len, 4]
    %zero = constant {data=[0.5], shape=[]} : f32[]
    %p = pad %y, %zero {axis=1, high=1, low=2} : f32[batch, seq_len + 3, 4]
    %k = cumsum %p {axis=1, exclusive=true} : f32[batch, seq_len + 3, 4]
    %m = reduce %k {axes=[0, 2], f=mean} : f32[seq_len + 3]
    return %r "r", %c "c", %n "n", %u "u", %m "m", %x "same"
}"#,
    );
}

#[test]
fn recurrences_are_calls_of_functions() {
    let proto = survives(
        r#"func @f(%x: f32[batch, seq_len, 3], %h0: f32[batch, 3]) {
    %a = sigmoid %x : f32[batch, seq_len, 3]
    %h, %last = ssm.scan %a, %x : f32[batch, seq_len, 3], f32[batch, 3]
    %g, %first = ssm.scan %a, %x, %h0 {reverse=true} : f32[batch, seq_len, 3], f32[batch, 3]
    %i, %end = ssm.scan %x, %a : f32[batch, seq_len, 3], f32[batch, 3]
    return %h "h", %last "last", %g "g", %first "first", %i "i", %end "end"
}"#,
    );
    assert_eq!(operators(&proto), ["Sigmoid", "ssm_scan_0", "ssm_scan_1", "ssm_scan_0"]);
    assert_eq!(proto.functions.len(), 2);
}

#[test]
fn short_sequences_are_written_out() {
    let proto = survives(
        r#"func @f(%x: f32[batch, 5, 3], %a: f32[1, 1, 3]) {
    %h, %last = ssm.scan %a, %x : f32[batch, 5, 3], f32[batch, 3]
    %g, %first = ssm.scan %a, %x {reverse=true} : f32[batch, 5, 3], f32[batch, 3]
    return %h "h", %last "last", %g "g", %first "first"
}"#,
    );
    assert!(proto.functions[0].node.iter().all(|n| n.op_type() != "Scan"));
}

#[test]
fn fused_scans_are_functions_too() {
    for len in ["seq_len", "5"] {
        let text = r#"func @f(%x: f32[batch, LEN, 2, 3], %dt: f32[batch, LEN, 2, 3], %a: f32[2, 3, 4],
        %b: f32[batch, LEN, 2, 4], %c: f32[batch, LEN, 2, 4], %d: f32[2, 3], %h0: f32[batch, 2, 3, 4]) {
    %y, %s = ssm.selective_scan %x, %dt, %a, %b, %c, %d, %x, %d, %h0 {dt_max=0.75, dt_min=0.1, dt_softplus=true} : f32[batch, LEN, 2, 3], f32[batch, 2, 3, 4]
    %h, %t = ssm.discretized_scan %x, %dt, %a, %b : f32[batch, LEN, 2, 3, 4], f32[batch, 2, 3, 4]
    return %y "y", %s "s", %h "h", %t "t"
}"#;
        survives(&text.replace("LEN", len));
        let text = r#"func @f(%x: f32[batch, LEN, 2, 3, 5], %dt: f32[batch, LEN, 2, 3], %a: f32[2, 3],
        %b: f32[batch, LEN, 2, 4], %c: f32[batch, LEN, 2, 4], %d: f32[2, 3, 1], %h0: f32[batch, 2, 3, 5, 4]) {
    %y, %s = ssm.ssd %x, %dt, %a, %b, %c, %d, %x, %a, %h0 {dt_softplus=true} : f32[batch, LEN, 2, 3, 5], f32[batch, 2, 3, 5, 4]
    %z, %u = ssm.ssd %x, %dt, %a, %b, %c {reverse=true} : f32[batch, LEN, 2, 3, 5], f32[batch, 2, 3, 5, 4]
    %h, %t = ssm.discretized_scan %x, %dt, %a, %b, %h0 : f32[batch, LEN, 2, 3, 5, 4], f32[batch, 2, 3, 5, 4]
    return %y "y", %s "s", %z "z", %u "u", %h "h", %t "t"
}"#;
        survives(&text.replace("LEN", len));
    }
}

#[test]
fn matrix_states_are_scans() {
    survives(
        r#"func @f(%q: f32[batch, seq_len, 2, 3, 4], %k: f32[batch, seq_len, 2, 4], %v: f32[batch, seq_len, 2, 5],
        %w: f32[batch, seq_len, 2, 1]) {
    %y, %s = ssm.linear_attention %q, %k, %v, %w {scale=0.5} : f32[batch, seq_len, 2, 3, 5], f32[batch, 2, 4, 5]
    %z, %t = ssm.linear_attention %q, %k, %v : f32[batch, seq_len, 2, 3, 5], f32[batch, 2, 4, 5]
    return %y "y", %s "s", %z "z", %t "t"
}"#,
    );
}

#[test]
fn norms_and_convolutions_have_an_older_spelling() {
    survives(
        r#"func @f(%x: f32[batch, seq_len, 4], %z: f32[batch, seq_len, 4], %s: f32[batch, 2, 4]) {
    %w = weight {name="w", shape=[4]} : f32[4]
    %f = weight {name="f", shape=[4, 3]} : f32[4, 3]
    %n = rms_norm %x, %w {eps=1e-3} : f32[batch, seq_len, 4]
    %l = layer_norm %n, %w, %w {eps=1e-3} : f32[batch, seq_len, 4]
    %g = gated_rms_norm %l, %z, %w {eps=1e-3} : f32[batch, seq_len, 4]
    %b = gated_rms_norm %g, %z, %w {eps=1e-3, norm_before_gate=true} : f32[batch, seq_len, 4]
    %c, %t = ssm.causal_conv1d %b, %f, %w, %s {activation=silu} : f32[batch, seq_len, 4], f32[batch, 2, 4]
    %d, %u = ssm.causal_conv1d %c, %f : f32[batch, seq_len, 4], f32[batch, 2, 4]
    %k = weight {name="k", shape=[5, 4]} : f32[5, 4]
    %e, %v = ssm.long_conv %d, %k : f32[batch, seq_len, 4], f32[batch, 4, 4]
    %o, %h = ssm.long_conv %e, %k {lead=2} : f32[batch, seq_len, 4], f32[batch, 4, 4]
    return %d "d", %t "t", %o "o"
}"#,
    );
}

#[test]
fn tensors_go_to_a_file_of_their_own_on_request() {
    let model = model_of(
        r#"func @f(%x: f32[batch, 64]) {
    %w = weight {name="w", shape=[64, 64]} : f32[64, 64]
    %y = contract[ab,bc->ac] %x, %w : f32[batch, 64]
    return %y "y"
}"#,
    );
    let options = ExportOptions { opset: 18, doc: String::new(), external_data: true };
    let encoded = encode(&model.graph, &model.weights, &options, "model.onnx.data").unwrap();
    assert_eq!(encoded.data.as_deref(), Some(model.weights.get("w").unwrap().bytes.as_slice()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.onnx"), &encoded.model).unwrap();
    std::fs::write(dir.path().join("model.onnx.data"), encoded.data.unwrap()).unwrap();
    let back = super::super::import(&dir.path().join("model.onnx")).unwrap();
    assert_eq!(
        back.weights.get("w").unwrap().bytes.as_slice(),
        model.weights.get("w").unwrap().bytes.as_slice()
    );
}

#[test]
fn opsets_out_of_range_are_refused() {
    let model = model_of("func @f(%x: f32[2]) { return %x \"x\" }");
    let options = ExportOptions { opset: 9, doc: String::new(), external_data: false };
    let error = super::model(&model.graph, &model.weights, &options).unwrap_err();
    assert_eq!(error.to_string(), "opset 9: expected 13 to 27");
}

#[test]
fn complex_recurrences_are_written_out() {
    for reverse in [false, true] {
        let text = format!(
            r#"func @f(%ar: f32[1, 1, 2], %ai: f32[1, 1, 2], %br: f32[batch, 3, 2], %bi: f32[batch, 3, 2], %hr: f32[batch, 2], %hi: f32[batch, 2]) {{
    %r, %i, %lr, %li = ssm.complex_scan %ar, %ai, %br, %bi, %hr, %hi {{reverse={reverse}}} : f32[batch, 3, 2], f32[batch, 3, 2], f32[batch, 2], f32[batch, 2]
    return %r "r", %i "i", %lr "lr", %li "li"
}}"#
        );
        survives(&text);
    }
    survives(
        r#"func @f(%ar: f32[batch, 1, 2], %ai: f32[batch, 1, 2], %br: f32[batch, 1, 2], %bi: f32[batch, 1, 2]) {
    %r, %i, %lr, %li = ssm.complex_scan %ar, %ai, %br, %bi : f32[batch, 1, 2], f32[batch, 1, 2], f32[batch, 2], f32[batch, 2]
    return %r "r", %lr "lr"
}"#,
    );
}

#[test]
fn stabilized_means_are_written_out() {
    for (state, reverse) in [("", false), (", %num, %den, %max", false), (", %num, %den, %max", true)] {
        for (w, u) in [("[1, 1, 2]", "%u"), ("[batch, 3, 2]", "_")] {
            survives(&format!(
                r#"func @f(%w: f32{w}, %k: f32[batch, 3, 2], %v: f32[batch, 3, 2], %u: f32[2], %num: f32[batch, 2], %den: f32[batch, 2], %max: f32[batch, 2]) {{
    %y, %n, %d, %m = ssm.wkv %w, %k, %v, {u}{state} {{reverse={reverse}}} : f32[batch, 3, 2], f32[batch, 2], f32[batch, 2], f32[batch, 2]
    return %y "y", %n "n", %d "d", %m "m"
}}"#
            ));
        }
    }
}

#[test]
fn operator_set_27_has_operators_for_recurrences() {
    let text = r#"func @f(%q: f32[batch, seq_len, 2, 3, 4], %k: f32[batch, seq_len, 2, 4], %v: f32[batch, seq_len, 2, 5], %d: f32[batch, seq_len, 2, 1], %b: f32[batch, seq_len, 2], %h: f32[batch, 2, 4, 5], %w: f32[10, 3], %s: f32[batch, 2, 10]) {
    %n = neg %d : f32[batch, seq_len, 2, 1]
    %y, %l = ssm.linear_attention %q, %k, %v, %n, %b, _, _, %h {scale=0.5} : f32[batch, seq_len, 2, 3, 5], f32[batch, 2, 4, 5]
    %r = reshape %v {shape=[batch, seq_len, 10]} : f32[batch, seq_len, 10]
    %c, %t = ssm.causal_conv1d %r, %w, _, %s : f32[batch, seq_len, 10], f32[batch, 2, 10]
    return %y "y", %l "l", %c "c", %t "t"
}"#;
    let model = model_of(text);
    let options = ExportOptions { opset: 27, doc: String::new(), external_data: false };
    let proto = super::model(&model.graph, &model.weights, &options).unwrap();
    assert!(proto.functions.is_empty());
    let has = |op: &str| operators(&proto).iter().any(|found| found == op);
    assert!(has("LinearAttention") && has("CausalConvWithState"), "{:?}", operators(&proto));
    let back = import_model(&proto, Path::new("model.onnx"), &[]).unwrap_or_else(|e| panic!("{e}"));
    let bindings = Bindings::from([(Symbol::new("batch"), 2), (Symbol::new("seq_len"), 4)]);
    let ports = model.graph.inputs().iter().enumerate();
    let inputs: BTreeMap<String, Tensor> =
        ports.map(|(i, p)| (p.name.clone(), tensor(i, model.graph.ty(p.value), &bindings))).collect();
    let (expected, found) =
        (run(&model.graph, &model.weights, &inputs), run(&back.graph, &back.weights, &inputs));
    for (name, expected) in &expected {
        assert_eq!(found[name].shape(), expected.shape(), "{name}");
        let pairs = found[name].to_f64().into_iter().zip(expected.to_f64());
        assert!(pairs.into_iter().all(|(x, y)| (x - y).abs() <= 1e-5 * y.abs().max(1.0)), "{name}");
    }
}
