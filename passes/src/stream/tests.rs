use super::*;
use crate::testing::{model, noise};
use ssmc_ir::{Interpreter, Model, Tensor};

const LEN: usize = 9;

/// Runs the whole sequence through the graph and pieces of it through the programs; all outputs must agree.
#[track_caller]
fn streams(text: &str) -> Streaming {
    streams_with(model(text), &StreamOptions::default())
}

#[track_caller]
fn streams_with(mut model: Model, options: &StreamOptions) -> Streaming {
    let streaming = derive(&model.graph, &model.weights, options).unwrap_or_else(|e| panic!("{e}"));
    for (name, weight) in &streaming.weights {
        model.weights.insert(name.clone(), weight.clone());
    }
    for pieces in [&[9][..], &[1; 9], &[4, 1, 2, 2], &[1, 8], &[2, 3, 4]] {
        compare(&model, &streaming, pieces);
    }
    streaming
}

fn extents(ty: &TensorType, len: usize) -> Vec<usize> {
    let bindings = [("batch", 2), ("seq_len", len as i64)].map(|(n, v)| (Symbol::new(n), v)).into();
    ty.shape.iter().map(|d| d.eval(&bindings).unwrap() as usize).collect()
}

fn tensor(ty: &TensorType, shape: Vec<usize>, data: Vec<f64>) -> Tensor {
    if ty.dtype.is_float() {
        return Tensor::floats(ty.dtype, shape, data).unwrap();
    }
    Tensor::ints(ty.dtype, shape, data.iter().map(|x| *x as i64).collect()).unwrap()
}

/// The elements `from..from + len` of one axis.
fn part(x: &Tensor, axis: usize, from: usize, len: usize) -> (Vec<usize>, Vec<f64>) {
    let mut shape = x.shape().to_vec();
    let inner: usize = shape[axis + 1..].iter().product();
    let extent = std::mem::replace(&mut shape[axis], len);
    let data = x.to_f64();
    let blocks = data.chunks_exact(inner * extent);
    (shape, blocks.flat_map(|block| block[from * inner..(from + len) * inner].to_vec()).collect())
}

fn compare(model: &Model, streaming: &Streaming, pieces: &[usize]) {
    let mut inputs = BTreeMap::new();
    for (i, port) in model.graph.inputs().iter().enumerate() {
        let ty = model.graph.ty(port.value);
        let shape = extents(ty, LEN);
        let data = noise(i as u64, shape.iter().product());
        let data =
            if ty.dtype.is_float() { data } else { data.iter().map(|x| (x.abs() * 3.0).floor()).collect() };
        inputs.insert(port.name.clone(), tensor(ty, shape, data));
    }
    let whole = Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap();
    let mut states: BTreeMap<String, Tensor> = BTreeMap::new();
    for state in &streaming.states {
        let shape = extents(&state.ty, 0);
        let n = shape.iter().product();
        states.insert(state.name.clone(), tensor(&state.ty, shape, vec![0.0; n]));
    }
    // The kernel of a state space is that of the graph up to a residual.
    let within = if streaming.kernels.iter().any(|k| k.order.is_some()) { 1e-5 } else { 1e-9 };
    let mut from = 0;
    for len in pieces {
        let program = &streaming.programs[usize::from(*len == 1)].graph;
        let mut call = states.clone();
        for (name, x) in &inputs {
            let ty = model.graph.ty(model.graph.input(name).unwrap());
            let x = match streaming.time_axes.get(name) {
                Some(axis) => {
                    let (shape, data) = part(x, *axis, from, *len);
                    tensor(ty, shape, data)
                }
                None => x.clone(),
            };
            call.insert(name.clone(), x);
        }
        let found = Interpreter::new(program, &model.weights).run(&call).unwrap();
        for (name, y) in &whole {
            let ty = |program: &Program| program.graph.ty(program.graph.output(name).unwrap()).clone();
            let (many, one) = (ty(&streaming.programs[0]), ty(&streaming.programs[1]));
            // An output that has a time axis gives the steps of the piece, another one what is known at the end.
            let axis = many.shape.iter().zip(one.shape.iter()).position(|(many, one)| many != one);
            let expected = match axis {
                Some(axis) => part(y, axis, from, *len).1,
                None if from + len == LEN => y.to_f64(),
                None => continue,
            };
            let found = found[name].to_f64();
            assert_eq!(found.len(), expected.len(), "{name}");
            for (i, (x, y)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (x - y).abs() < within,
                    "{name}[{i}] of piece {from}..: {x}, expected {y}\n{program}"
                );
            }
        }
        for (name, state) in &mut states {
            *state = found[name].clone();
        }
        from += len;
    }
    assert_eq!(from, LEN);
}

#[track_caller]
fn refused(text: &str) -> String {
    let model = model(text);
    derive(&model.graph, &model.weights, &StreamOptions::default()).unwrap_err().to_string()
}

const SCAN: &str = r#"
    %a = sigmoid %x : f32[batch, seq_len, 3]
    %h, %last = ssm.scan %a, %x : f32[batch, seq_len, 3], f32[batch, 3]"#;

fn with_scan(body: &str) -> String {
    format!("func @f(%x: f32[batch, seq_len, 3]) {{ {SCAN}\n{body} }}")
}

#[test]
fn scans_and_convolutions_carry_state() {
    let streaming = streams(
        r#"func @f(%x: f32[batch, seq_len, 3]) {
    %w = weight {name="w", shape=[3, 3]} : f32[3, 3]
    %y, %tail = ssm.causal_conv1d %x, %w : f32[batch, seq_len, 3], f32[batch, 2, 3]
    %a = sigmoid %y : f32[batch, seq_len, 3]
    %h, %last = ssm.scan %a, %x : f32[batch, seq_len, 3], f32[batch, 3]
    return %h "h", %tail "tail", %last "last"
}"#,
    );
    assert_eq!(streaming.time_axes, BTreeMap::from([("x".to_owned(), 1)]));
    assert_eq!(streaming.states.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["conv.0", "scan.1"]);
}

#[test]
fn the_length_of_a_static_graph_does_not_matter() {
    let streaming = streams(
        r#"func @f(%x: f32[2, 9, 3]) {
    %t = transpose %x {perm=[0, 2, 1]} : f32[2, 3, 9]
    %w = weight {name="w", shape=[3, 1, 4]} : f32[3, 1, 4]
    %c = conv %t, %w {groups=3, pads=[3, 3]} : f32[2, 3, 12]
    %s = slice %c {axis=2, len=9} : f32[2, 3, 9]
    %u = transpose %s {perm=[0, 2, 1]} : f32[2, 9, 3]
    %b = weight {name="b", shape=[3]} : f32[3]
    %e = broadcast %b {axes=[2], shape=[2, 9, 3]} : f32[2, 9, 3]
    %v = add %u, %e : f32[2, 9, 3]
    %f = reshape %v {shape=[18, 3]} : f32[18, 3]
    %p = weight {name="p", shape=[3, 2]} : f32[3, 2]
    %m = contract[ab,bc->ac] %f, %p : f32[18, 2]
    %r = reshape %m {shape=[2, 9, 2]} : f32[2, 9, 2]
    %l = slice %r {axis=1, len=1, start=8} : f32[2, 1, 2]
    return %r "y", %l "last"
}"#,
    );
    let step = &streaming.programs[1].graph;
    assert_eq!(step.ty(step.output("y").unwrap()).to_string(), "f32[2, 1, 2]");
    assert_eq!(streaming.states[0].ty.to_string(), "f32[2, 3, 3]");
}

#[test]
fn shifted_streams_wait_for_each_other() {
    let streaming = streams(&with_scan(
        r#" %zero = constant {data=[0.0], shape=[]} : f32[]
    %p = pad %h, %zero {axis=1, low=2} : f32[batch, seq_len + 2, 3]
    %q = slice %p {axis=1, len=seq_len} : f32[batch, seq_len, 3]
    %d = sub %h, %q : f32[batch, seq_len, 3]
    return %d "d" "#,
    ));
    assert_eq!(streaming.states[1].ty.to_string(), "f32[batch, 2, 3]");
}

#[test]
fn a_convolution_without_padding_is_padded_later() {
    streams(
        r#"func @f(%x: f32[batch, 3, seq_len]) {
    %w = weight {name="w", shape=[5, 3, 3]} : f32[5, 3, 3]
    %bias = weight {name="bias", shape=[5]} : f32[5]
    %c = conv %x, %w, %bias : f32[batch, 5, max(0, seq_len - 2)]
    %two = constant {data=[2.0], shape=[]} : f32[]
    %p = pad %c, %two {axis=2, low=2} : f32[batch, 5, max(0, seq_len - 2) + 2]
    %s = cumsum %p {axis=2, exclusive=true} : f32[batch, 5, max(0, seq_len - 2) + 2]
    return %s "s"
}"#,
    );
}

/// A convolution as a sum of shifted products that starts from a tensor of zeros.
#[test]
fn sums_that_start_from_zeros_are_zero_before_the_sequence() {
    streams(
        r#"func @f(%x: f32[batch, seq_len, 3]) {
    %0 = constant {data=[0.0], shape=[]} : f32[]
    %p = pad %x, %0 {axis=1, low=2} : f32[batch, seq_len + 2, 3]
    %z = broadcast %0 {shape=[batch, seq_len, 3]} : f32[batch, seq_len, 3]
    %a = slice %p {axis=1, len=seq_len} : f32[batch, seq_len, 3]
    %b = slice %p {axis=1, len=seq_len, start=1} : f32[batch, seq_len, 3]
    %s = add %z, %a : f32[batch, seq_len, 3]
    %y = add %s, %b : f32[batch, seq_len, 3]
    %h, %t = ssm.scan %x, %y : f32[batch, seq_len, 3], f32[batch, 3]
    return %h "h"
}"#,
    );
}

#[test]
fn other_recurrences_carry_their_states() {
    streams(
        r#"func @f(%q: f32[batch, seq_len, 2, 1, 3], %k: f32[batch, seq_len, 2, 3], %v: f32[batch, seq_len, 2, 4],
        %w: f32[batch, seq_len, 2, 1]) {
    %y, %s = ssm.linear_attention %q, %k, %v, %w : f32[batch, seq_len, 2, 1, 4], f32[batch, 2, 3, 4]
    return %y "y", %s "s"
}"#,
    );
    streams(
        r#"func @f(%x: f32[batch, 9, 3]) {
    %k = weight {name="k", shape=[9, 3]} : f32[9, 3]
    %y, %t = ssm.long_conv %x, %k : f32[batch, 9, 3], f32[batch, 8, 3]
    %a = sigmoid %x : f32[batch, 9, 3]
    %re, %im, %p, %q = ssm.complex_scan %a, %x, %x, %y : f32[batch, 9, 3], f32[batch, 9, 3], f32[batch, 3], f32[batch, 3]
    return %y "y", %t "t", %re "re", %im "im", %q "q"
}"#,
    );
    let streaming = streams(
        r#"func @f(%k: f32[batch, seq_len, 3], %v: f32[batch, seq_len, 3]) {
    %w = weight {name="w", shape=[1, 1, 3]} : f32[1, 1, 3]
    %u = weight {name="u", shape=[3]} : f32[3]
    %y, %n, %d, %m = ssm.wkv %w, %k, %v, %u : f32[batch, seq_len, 3], f32[batch, 3], f32[batch, 3], f32[batch, 3]
    return %y "y"
}"#,
    );
    assert_eq!(streaming.states.len(), 4);
}

#[test]
fn positions_are_counted() {
    streams(&with_scan(
        r#" %i = iota {axis=0, dtype=f32, shape=[seq_len]} : f32[seq_len]
    %e = broadcast %i {axes=[1], shape=[batch, seq_len, 3]} : f32[batch, seq_len, 3]
    %y = mul %h, %e : f32[batch, seq_len, 3]
    return %y "y" "#,
    ));
}

#[test]
fn states_start_with_what_the_model_says() {
    streams(
        r#"func @f(%x: f32[batch, seq_len, 3], %h0: f32[batch, 3]) {
    %a = sigmoid %x : f32[batch, seq_len, 3]
    %h, %last = ssm.scan %a, %x, %h0 : f32[batch, seq_len, 3], f32[batch, 3]
    %s = cumsum %h {axis=1} : f32[batch, seq_len, 3]
    return %s "s", %last "last"
}"#,
    );
}

#[test]
fn what_looks_ahead_is_refused_with_its_node() {
    let reverse = r#"func @f(%x: f32[batch, seq_len, 3]) {
    %h, %last = ssm.scan %x, %x {reverse=true} : f32[batch, seq_len, 3], f32[batch, 3]
    return %h "h"
}"#;
    assert!(refused(reverse).contains("ssm.scan runs from the end"), "{}", refused(reverse));
    let cases = [
        (
            r#" %zero = constant {data=[0.0], shape=[]} : f32[]
    %s = slice %h {axis=1, len=seq_len - 1, start=1} : f32[batch, seq_len - 1, 3]
    %p = pad %s, %zero {axis=1, high=1} : f32[batch, seq_len, 3]
    return %p "p" "#,
            "slice needs one later step",
        ),
        (r#" %m = reduce %h {axes=[1], f=mean} : f32[batch, 3] return %m "m" "#, "reduce combines all steps"),
        (
            r#" %m = contract[abc,adc->abd] %h, %x : f32[batch, seq_len, seq_len] return %m "m" "#,
            "contract relates all pairs",
        ),
        (
            r#" %e = broadcast %last {axes=[0, 2], shape=[batch, seq_len, 3]} : f32[batch, seq_len, 3]
    %y = mul %h, %e : f32[batch, seq_len, 3] return %y "y" "#,
            "mul needs the end of the sequence",
        ),
        (
            r#" %s = slice %h {axis=1, len=1, start=0} : f32[batch, 1, 3] return %s "s" "#,
            "slice reads fixed steps",
        ),
        (
            r#" %n = dim {value=seq_len} : i64[]
    %f = cast %n {to=f32} : f32[]
    %e = broadcast %f {shape=[batch, seq_len, 3]} : f32[batch, seq_len, 3]
    %y = mul %h, %e : f32[batch, seq_len, 3] return %y "y" "#,
            "dim depends on the length",
        ),
    ];
    for (body, expected) in cases {
        let message = refused(&with_scan(body));
        assert!(message.contains(expected), "expected {expected:?} in {message:?}");
    }
}

#[test]
fn a_graph_without_memory_has_no_time_axis() {
    let message = refused(r#"func @f(%x: f32[batch, 4]) { %y = neg %x : f32[batch, 4] return %y "y" }"#);
    assert!(message.contains("no recurrence runs along an axis"), "{message}");
}

#[test]
fn equal_extents_on_other_axes_are_not_time() {
    let streaming = streams(
        r#"func @f(%x: f32[2, 9, 9], %p: f32[9, 3], %d: f32[9]) {
    %t = transpose %x {perm=[0, 2, 1]} : f32[2, 9, 9]
    %a = sigmoid %t : f32[2, 9, 9]
    %h, %last = ssm.scan %a, %t : f32[2, 9, 9], f32[2, 9]
    %y = contract[abc,cd,c->abd] %h, %p, %d : f32[2, 9, 3]
    return %y "y"
}"#,
    );
    assert_eq!(streaming.time_axes, BTreeMap::from([("x".to_owned(), 2)]));
}

#[test]
fn a_padded_stream_need_not_be_zero() {
    streams(
        r#"func @f(%x: f32[batch, 3, seq_len]) {
    %w = weight {name="w", shape=[5, 3, 4]} : f32[5, 3, 4]
    %e = exp %x : f32[batch, 3, seq_len]
    %zero = constant {data=[0.0], shape=[]} : f32[]
    %p = pad %e, %zero {axis=2, low=3} : f32[batch, 3, seq_len + 3]
    %c = conv %p, %w : f32[batch, 5, seq_len]
    return %c "c"
}"#,
    );
}

#[test]
fn stated_axes_are_checked() {
    let model = model(&with_scan(r#"return %h "h""#));
    let derive = |axes: &[(&str, usize)]| {
        let time_axes = axes.iter().map(|(n, a)| ((*n).to_owned(), *a)).collect();
        derive(&model.graph, &model.weights, &StreamOptions { time_axes, ..StreamOptions::default() })
    };
    assert!(derive(&[("x", 1)]).is_ok());
    assert!(derive(&[("x", 5)]).is_err_and(|e| e.to_string().contains("axis 5")));
    assert!(derive(&[("y", 1)]).is_err_and(|e| e.to_string().contains("no such input")));
    assert!(derive(&[("x", 2)]).is_err_and(|e| e.to_string().contains("another axis than time")));
}

#[test]
fn long_convolutions_carry_what_their_kernel_reaches() {
    for width in [1, 5, 20] {
        let streaming = streams(&format!(
            r#"func @f(%x: f32[batch, seq_len, 3]) {{
    %k = weight {{name="k", shape=[{width}, 3]}} : f32[{width}, 3]
    %y, %tail = ssm.long_conv %x, %k : f32[batch, seq_len, 3], f32[batch, {}, 3]
    %z = mul %x, %y : f32[batch, seq_len, 3]
    return %z "z"
}}"#,
            width - 1,
        ));
        assert_eq!(streaming.states.len(), usize::from(width > 1));
    }
    let ahead = r#"func @f(%x: f32[batch, seq_len, 3]) {
    %k = weight {name="k", shape=[5, 3]} : f32[5, 3]
    %y, %tail = ssm.long_conv %x, %k {lead=2} : f32[batch, seq_len, 3], f32[batch, 4, 3]
    return %y "y"
}"#;
    assert!(refused(ahead).contains("ssm.long_conv"), "{}", refused(ahead));
}

/// Softmax attention with a causal mask of -inf, keys of two heads shared, and positions from a table.
fn attention(mask: &str, len: &str) -> String {
    format!(
        r#"func @f(%x: f32[2, {len}, 4]) {{
    %table = weight {{name="table", shape=[9, 4]}} : f32[9, 4]
    %t = broadcast %table {{axes=[1, 2], shape=[2, {len}, 4]}} : f32[2, {len}, 4]
    %p = add %x, %t : f32[2, {len}, 4]
    %wk = weight {{name="wk", shape=[4, 3]}} : f32[4, 3]
    %k = contract[abc,cd->abd] %p, %wk : f32[2, {len}, 3]
    %kt = transpose %k {{perm=[0, 2, 1]}} : f32[2, 3, {len}]
    %kb = broadcast %kt {{axes=[0, 2, 3], shape=[2, 2, 3, {len}]}} : f32[2, 2, 3, {len}]
    %wq = weight {{name="wq", shape=[4, 2, 3]}} : f32[4, 2, 3]
    %q = contract[abc,cde->adbe] %p, %wq : f32[2, 2, {len}, 3]
    %s = contract[abcd,abde->abce] %q, %kb : f32[2, 2, {len}, {len}]
    {mask}
    %mb = broadcast %m {{axes=[2, 3], shape=[2, 2, {len}, {len}]}} : f32[2, 2, {len}, {len}]
    %z = add %s, %mb : f32[2, 2, {len}, {len}]
    %max = reduce %z {{axes=[3], f=max}} : f32[2, 2, {len}]
    %maxb = broadcast %max {{axes=[0, 1, 2], shape=[2, 2, {len}, {len}]}} : f32[2, 2, {len}, {len}]
    %d = sub %z, %maxb : f32[2, 2, {len}, {len}]
    %e = exp %d : f32[2, 2, {len}, {len}]
    %sum = reduce %e {{axes=[3]}} : f32[2, 2, {len}]
    %sumb = broadcast %sum {{axes=[0, 1, 2], shape=[2, 2, {len}, {len}]}} : f32[2, 2, {len}, {len}]
    %a = div %e, %sumb : f32[2, 2, {len}, {len}]
    %v = reshape %p {{shape=[2, {len}, 2, 2]}} : f32[2, {len}, 2, 2]
    %y = contract[abcd,adbe->abce] %a, %v : f32[2, 2, {len}, 2]
    return %y "y"
}}"#
    )
}

const MASK: &str = r#"%i = iota {axis=0, dtype=i64, shape=[9, 9]} : i64[9, 9]
    %j = iota {axis=1, dtype=i64, shape=[9, 9]} : i64[9, 9]
    %seen = compare %j, %i {cmp=le} : bool[9, 9]
    %0 = constant {data=[0.0], shape=[]} : f32[]
    %0b = broadcast %0 {shape=[9, 9]} : f32[9, 9]
    %low = constant {data=[-3e38], shape=[]} : f32[]
    %lowb = broadcast %low {shape=[9, 9]} : f32[9, 9]
    %m = select %seen, %0b, %lowb : f32[9, 9]"#;

#[test]
fn attention_streams_over_a_window() {
    let model = model(&attention(MASK, "9"));
    let options = StreamOptions { max_context: Some(9), ..StreamOptions::default() };
    let streaming = streams_with(model.clone(), &options);
    assert_eq!(streaming.max_context, Some(9));
    assert_eq!(streaming.time_axes, BTreeMap::from([("x".to_owned(), 1)]));
    // Keys are kept before they are repeated for the heads.
    let windows: Vec<String> = streaming.states.iter().map(|s| s.ty.to_string()).collect();
    assert!(windows.contains(&"f32[2, 8, 3]".to_owned()), "{windows:?}");
    let refused = |max_context| {
        let options = StreamOptions { max_context, ..StreamOptions::default() };
        derive(&model.graph, &model.weights, &options).unwrap_err().to_string()
    };
    assert!(refused(None).contains("--max-context"), "{}", refused(None));
    assert!(refused(Some(10)).contains("for 9 steps, fewer than the 10"), "{}", refused(Some(10)));
}

#[test]
fn attention_that_sees_later_steps_is_refused() {
    let ahead = MASK.replace("cmp=le", "cmp=ge");
    let all = MASK.replace("data=[-3e38]", "data=[-1.0]");
    for mask in [ahead, all] {
        let model = model(&attention(&mask, "9"));
        let options = StreamOptions { max_context: Some(9), ..StreamOptions::default() };
        let message = derive(&model.graph, &model.weights, &options).unwrap_err().to_string();
        assert!(message.contains("no mask leaves out later ones"), "{message}");
    }
}

/// Decays that are differences of running sums, with zeros for what is masked.
fn decayed(seen: &str) -> String {
    format!(
        r#"func @f(%x: f32[2, 9, 4], %g: f32[2, 9]) {{
    %c = cumsum %g {{axis=1}} : f32[2, 9]
    %q = broadcast %c {{axes=[0, 1], shape=[2, 9, 9]}} : f32[2, 9, 9]
    %k = broadcast %c {{axes=[0, 2], shape=[2, 9, 9]}} : f32[2, 9, 9]
    %d = sub %q, %k : f32[2, 9, 9]
    %e = exp %d : f32[2, 9, 9]
    %s = contract[abc,adc->abd] %x, %x : f32[2, 9, 9]
    %p = mul %s, %e : f32[2, 9, 9]
    {MASK}
    %seenb = broadcast {seen} {{axes=[1, 2], shape=[2, 9, 9]}} : bool[2, 9, 9]
    %zeros = broadcast %0 {{shape=[2, 9, 9]}} : f32[2, 9, 9]
    %z = select %seenb, %p, %zeros : f32[2, 9, 9]
    %y = contract[abc,acd->abd] %z, %x : f32[2, 9, 4]
    return %y "y"
}}"#
    )
}

#[test]
fn products_of_pairs_stream_over_a_window() {
    let options = StreamOptions { max_context: Some(9), ..StreamOptions::default() };
    streams_with(model(&decayed("%seen")), &options);
    let all = decayed("%any").replace(
        "%seenb =",
        "%any = compare %i, %i {cmp=le} : bool[9, 9]
    %seenb =",
    );
    let model = model(&all);
    let message = derive(&model.graph, &model.weights, &options).unwrap_err().to_string();
    assert!(message.contains("no mask leaves out later ones"), "{message}");
}

#[test]
fn frozen_kernels_become_state_spaces_or_histories() {
    let text = r#"func @f(%x: f32[batch, 9, 3]) {
    %k = weight {name="k", shape=[9, 3]} : f32[9, 3]
    %y, %tail = ssm.long_conv %x, %k : f32[batch, 9, 3], f32[batch, 8, 3]
    return %y "y"
}"#;
    let mut model = model(text);
    let streaming = streams_with(model.clone(), &StreamOptions::default());
    assert_eq!(streaming.kernels[0].order, None, "{:?}", streaming.kernels);
    let kernel = (0..27).map(|i| (0.9 - 0.2 * f64::from(i % 3)).powi(i / 3)).collect();
    let kernel = Tensor::floats(ssmc_ir::DType::F32, [9usize, 3], kernel).unwrap();
    let ty = model.weights.get("k").unwrap().ty.clone();
    model.weights.insert("k", Weight { ty, bytes: kernel.to_bytes().into() });
    let streaming = streams_with(model, &StreamOptions::default());
    assert_eq!(streaming.kernels[0].order, Some(1), "{:?}", streaming.kernels);
    assert!(streaming.kernels[0].to_string().contains("order 1"), "{}", streaming.kernels[0]);
}

/// A cell that is no linear recurrence, over slices along the second axis, with a captured weight and an initial value.
fn cell(scan: &str, next: &str) -> String {
    format!(
        r#"func @f(%x: f32[batch, seq_len, 3]) {{
    %w = weight {{name="w", shape=[3, 3]}} : f32[3, 3]
    %one = constant {{data=[0.5], shape=[]}} : f32[]
    %h0 = broadcast %one {{axes=[], shape=[batch, 3]}} : f32[batch, 3]
    %last, %all = loop %h0, %x, %w {{n_carried=1, {scan}, stack_axes=[1], stack_reverse=[false], trip_count=seq_len}} : f32[batch, 3], f32[batch, seq_len, 3] {{
        func @body(%i: i64[], %h: f32[batch, 3], %r: f32[batch, 3], %v: f32[3, 3]) {{
            %0 = contract[bn,mn->bm] %h, %v : f32[batch, 3]
            %1 = add %0, %r : f32[batch, 3]
            %2 = tanh %1 : f32[batch, 3]
            {next}
            return %3 "h", %2 "y"
        }}
    }}
    %y = neg %all : f32[batch, seq_len, 3]
    return %y "y", %last "last"
}}"#
    )
}

#[test]
fn loops_carry_what_they_carry() {
    let next = "%3 = mul %2, %r : f32[batch, 3]";
    let streaming = streams(&cell("scan_axes=[1], scan_reverse=[false]", next));
    let names: Vec<&str> = streaming.states.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["loop.0", "position"]);
    let found = refused(&cell("scan_axes=[1], scan_reverse=[true]", next));
    assert!(found.ends_with("loop runs from the end of the sequence to its beginning"), "{found}");
    let counted = "%n = cast %i {to=f32} : f32[]
        %m = broadcast %n {axes=[], shape=[batch, 3]} : f32[batch, 3]
        %3 = mul %2, %m : f32[batch, 3]";
    let found = refused(&cell("scan_axes=[1], scan_reverse=[false]", counted));
    assert!(found.contains("differs from step to step"), "{found}");
}
