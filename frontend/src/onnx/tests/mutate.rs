use super::*;
use prost::Message;

/// A model with initializers, shape arithmetic, a convolution, a scan with a capture, a function call and a branch.
fn seed() -> ModelProto {
    let step = graph(
        &["h[2]", "v[2]"],
        vec![],
        vec![node("Mul w h -> a", vec![]), node("Add a v -> n", vec![])],
        &["n[2]"],
    );
    let then = graph(&[], vec![], vec![node("Relu r -> t", vec![])], &["t[l,2]"]);
    let other = graph(&[], vec![], vec![node("Neg r -> e", vec![])], &["e[l,2]"]);
    let mut call = node("Twice q -> c", vec![("k", A::Int(1))]);
    call.domain = Some("local".into());
    let nodes = vec![
        node("Shape x -> s", vec![]),
        node("Gather s zero -> len", vec![("axis", A::Int(0))]),
        node("Transpose x -> xt", vec![("perm", A::Ints(vec![1, 0]))]),
        node("Unsqueeze xt zero -> xb", vec![]),
        node("Conv xb kernel -> conv", vec![("pads", A::Ints(vec![1, 1])), ("group", A::Int(2))]),
        node("Slice conv zero len two -> cut", vec![]),
        node("Squeeze cut zero -> flat", vec![]),
        node("Transpose flat -> q", vec![]),
        call,
        node("Scan h0 c -> last", vec![("body", A::Graph(step.into())), ("num_scan_inputs", A::Int(1))]),
        node("Concat len two -> to", vec![("axis", A::Int(0))]),
        node("Expand last to -> r", vec![]),
        node(
            "If cond -> y",
            vec![("then_branch", A::Graph(then.into())), ("else_branch", A::Graph(other.into()))],
        ),
    ];
    let initializers = vec![
        ints("zero", &[0]),
        ints("two", &[2]),
        floats("kernel", &[2, 1, 3], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        floats("w", &[2], &[0.5, 0.25]),
        floats("h0", &[2], &[0.0, 0.0]),
    ];
    let mut m = model(18, graph(&["x[l,2]", "b:cond[]"], initializers, nodes, &["y[l,2]"]));
    m.functions = vec![FunctionProto {
        name: Some("Twice".into()),
        domain: Some("local".into()),
        input: vec!["p".into()],
        output: vec!["o".into()],
        attribute: vec!["k".into()],
        node: vec![node("Add p p -> o", vec![])],
        opset_import: vec![opset(18)],
        ..FunctionProto::default()
    }];
    m
}

#[test]
fn the_seed_is_valid() {
    import(&seed()).unwrap_or_else(|e| panic!("{e}"));
}

/// A small generator with a fixed seed (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Ok or Err: what matters is that nothing panics.
fn survives(bytes: &[u8]) -> bool {
    ModelProto::decode(bytes).is_ok_and(|m| import(&m).is_ok())
}

#[test]
fn flipped_bytes_do_not_panic() {
    let bytes = seed().encode_to_vec();
    let mut random = Random(1);
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..6000 {
        let mut bytes = bytes.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = match random.below(3) {
                0 => bytes[at] ^ (1 << random.below(8)),
                1 => random.below(256) as u8,
                _ => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            };
        }
        if survives(&bytes) { accepted += 1 } else { rejected += 1 }
    }
    assert!(accepted > 100 && rejected > 1000, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn truncated_and_spliced_bytes_do_not_panic() {
    let bytes = seed().encode_to_vec();
    for n in 0..bytes.len() {
        survives(&bytes[..n]);
    }
    let mut random = Random(2);
    for _ in 0..1500 {
        let (a, b) = (random.below(bytes.len()), random.below(bytes.len()));
        survives(&[&bytes[..a], &bytes[b..]].concat());
    }
}

/// Numbers in attributes and shapes replaced by extreme ones, which random bytes rarely hit.
#[test]
fn extreme_numbers_do_not_panic() {
    let extremes = [0, -1, 1, 3, i64::from(i32::MAX), 1 << 40, i64::MAX, i64::MIN, i64::MIN + 1, 1 << 62];
    let mut random = Random(3);
    for _ in 0..4000 {
        let mut m = seed();
        let g = m.graph.as_mut().unwrap();
        let mut slots: Vec<&mut i64> = Vec::new();
        for t in &mut g.initializer {
            slots.extend(t.dims.iter_mut().chain(&mut t.int64_data));
        }
        for a in g.node.iter_mut().flat_map(|n| &mut n.attribute) {
            slots.extend(a.ints.iter_mut().chain(a.i.as_mut()));
        }
        for info in g.input.iter_mut().chain(&mut g.output) {
            if let Some(TypeValue::TensorType(t)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
                for d in t.shape.iter_mut().flat_map(|s| &mut s.dim) {
                    if random.below(4) == 0 {
                        d.value = Some(DimValue::DimValue(2));
                    }
                    if let Some(DimValue::DimValue(n)) = &mut d.value {
                        slots.push(n);
                    }
                }
            }
        }
        for _ in 0..=random.below(2) {
            let at = random.below(slots.len());
            *slots[at] = extremes[random.below(extremes.len())];
        }
        survives(&m.encode_to_vec());
    }
}
