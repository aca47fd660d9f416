use super::*;
use crate::testing::{model, noise};
use proptest::prelude::*;
use ssmc_ir::ops::{BinaryFn, Concat, Reverse, UnaryFn};
use ssmc_ir::{Bindings, DType, GraphBuilder, Interpreter, Model, Symbol, Tensor, TensorType};

fn plan(text: &str) -> Plan {
    partition(&model(text).graph).unwrap()
}

/// The ops of a group: `*` marks the root, `+` its epilogue.
fn shown(plan: &Plan, group: &Group) -> String {
    let mark = |id: &NodeId| {
        let name = plan.graph.node(*id).op.name();
        match () {
            () if *id == group.root => format!("*{name}"),
            () if group.epilogue.contains(id) => format!("+{name}"),
            () => name.to_owned(),
        }
    };
    group.members.iter().map(mark).collect::<Vec<_>>().join(" ")
}

fn groups(text: &str) -> Vec<String> {
    let plan = plan(text);
    plan.groups.iter().map(|g| shown(&plan, g)).collect()
}

#[test]
fn what_follows_a_product_is_its_epilogue() {
    let found = groups(
        r#"func @f(%x: f32[batch, 4], %r: f32[batch, 5]) {
            %w = weight {name="w", shape=[5, 4]} : f32[5, 4]
            %b = weight {name="b", shape=[5]} : f32[5]
            %y = contract[ab,cb->ac] %x, %w : f32[batch, 5]
            %c = broadcast %b {axes=[1], shape=[batch, 5]} : f32[batch, 5]
            %s = add %y, %c : f32[batch, 5]
            %t = tanh %s : f32[batch, 5]
            %z = add %r, %t : f32[batch, 5]
            return %z "z"
        }"#,
    );
    assert_eq!(found, ["*contract broadcast +add +tanh +add"]);
}

#[test]
fn an_epilogue_ends_where_another_reads() {
    let found = groups(
        r#"func @f(%x: f32[batch, 4]) {
            %w = weight {name="w", shape=[4, 4]} : f32[4, 4]
            %y = contract[ab,cb->ac] %x, %w : f32[batch, 4]
            %t = tanh %y : f32[batch, 4]
            %z = contract[ab,cb->ac] %t, %w : f32[batch, 4]
            %s = add %z, %t : f32[batch, 4]
            return %s "s"
        }"#,
    );
    assert_eq!(found, ["*contract +tanh", "*contract +add"]);
}

#[test]
fn what_a_product_reads_again_and_again_lies_in_memory() {
    let text = |f: &str| {
        format!(
            r#"func @f(%x: f32[batch, 4]) {{
                %w = weight {{name="w", shape=[5, 4]}} : f32[5, 4]
                %t = {f} %x : f32[batch, 4]
                %y = contract[ab,cb->ac] %t, %w : f32[batch, 5]
                return %y "y"
            }}"#
        )
    };
    assert_eq!(groups(&text("tanh")), ["*tanh", "*contract"]);
    // A view costs nothing.
    assert_eq!(groups(&text("reverse")), ["reverse *contract"]);
}

#[test]
fn a_shared_view_of_a_computed_value_stores_the_value() {
    let found = groups(
        r#"func @f(%x: f32[batch, 4]) {
            %t = tanh %x : f32[batch, 4]
            %v = reshape %t {shape=[batch, 2, 2]} : f32[batch, 2, 2]
            %y = reduce %v {axes=[2], f=sum} : f32[batch, 2]
            %z = reduce %v {axes=[1], f=max} : f32[batch, 2]
            return %y "y", %z "z"
        }"#,
    );
    assert_eq!(found, ["*tanh", "reshape *reduce", "reshape *reduce"]);
}

#[test]
fn a_reshaped_state_is_written_in_place() {
    let plan = plan(
        r#"func @f(%a: f32[batch, seq_len, 6], %b: f32[batch, seq_len, 6]) {
            %h, %last = ssm.scan %a, %b : f32[batch, seq_len, 6], f32[batch, 6]
            %y = tanh %h : f32[batch, seq_len, 6]
            %s = reshape %last {shape=[batch, 2, 3]} : f32[batch, 2, 3]
            return %y "y", %s "state"
        }"#,
    );
    assert_eq!(plan.groups.iter().map(|g| shown(&plan, g)).collect::<Vec<_>>(), ["*ssm.scan +tanh"]);
    let scan = plan.graph.node(plan.groups[0].root);
    assert_eq!(plan.places[&scan.results[1]], Place::Output(1));
    assert_eq!(plan.places[&plan.graph.output("state").unwrap()], Place::Output(1));
    assert!(plan.slots.is_empty());
}

#[test]
fn an_epilogue_never_waits_for_what_its_own_kernel_stores() {
    let found = groups(
        r#"func @f(%a: f32[batch, seq_len, 6], %b: f32[batch, seq_len, 6]) {
            %h, %last = ssm.scan %a, %b : f32[batch, seq_len, 6], f32[batch, 6]
            %m = reduce %last {axes=[1], f=sum} : f32[batch]
            %c = broadcast %m {axes=[0], shape=[batch, seq_len, 6]} : f32[batch, seq_len, 6]
            %y = mul %h, %c : f32[batch, seq_len, 6]
            return %y "y", %last "state"
        }"#,
    );
    assert_eq!(found, ["*ssm.scan", "*reduce", "broadcast *mul"]);
}

#[test]
fn every_output_is_a_value_of_its_own() {
    let plan = plan(
        r#"func @f(%x: f32[batch, 4]) {
            %w = weight {name="w", shape=[5, 4]} : f32[5, 4]
            %t = tanh %x : f32[batch, 4]
            return %t "a", %t "b", %x "c", %w "d"
        }"#,
    );
    let outputs: BTreeSet<ValueId> = plan.graph.outputs().iter().map(|p| p.value).collect();
    assert_eq!(outputs.len(), 4);
    assert_eq!(plan.groups.len(), 4);
    for (i, port) in plan.graph.outputs().iter().enumerate() {
        assert_eq!(plan.places[&port.value], Place::Output(i));
    }
}

#[test]
fn branches_have_no_kernel() {
    let graph = model(
        r#"func @f(%c: bool[], %x: f32[1]) {
            %y = if %c, %x : f32[1] {
                func @yes(%h: f32[1]) { %n = neg %h : f32[1] return %n "n" }
                func @no(%h: f32[1]) { %n = exp %h : f32[1] return %n "n" }
            }
            return %y "y"
        }"#,
    )
    .graph;
    assert!(matches!(partition(&graph), Err(PartitionError::NoKernel { op: "if", .. })));
}

#[test]
fn bodies_of_loops_have_slots_of_their_own() {
    let plan = plan(
        r#"func @f(%x: f32[batch], %s: f32[seq_len, batch]) {
            %y, %all = loop %x, %s {n_carried=1, scan_axes=[0], scan_reverse=[false], stack_axes=[0],
                                    stack_reverse=[false], trip_count=seq_len} : f32[batch], f32[seq_len, batch] {
                func @body(%i: i64[], %h: f32[batch], %r: f32[batch]) {
                    %w = weight {name="w", shape=[3]} : f32[3]
                    %v = reduce %w {f=sum, axes=[0]} : f32[]
                    %b = broadcast %v {axes=[], shape=[batch]} : f32[batch]
                    %m = mul %h, %b : f32[batch]
                    %n = add %m, %r : f32[batch]
                    return %n "n", %h "h"
                }
            }
            return %y "y", %all "all"
        }"#,
    );
    let [group] = &plan.groups[..] else { panic!("{:?}", plan.groups) };
    let region = group.region.as_ref().unwrap();
    // The weight is an operand of the loop, and nothing reads the number of the iteration.
    assert!(region.plan.places.values().all(|place| *place != Place::Weight));
    let is_kept: Vec<bool> = region.inputs.iter().map(Option::is_some).collect();
    assert_eq!(is_kept, [false, true, true, false]);
    let inputs = region.inputs.iter().flatten();
    let slots: Vec<usize> = inputs.chain(&region.outputs).chain(&region.slots).copied().collect();
    let distinct: BTreeSet<usize> = slots.iter().copied().collect();
    assert_eq!(distinct.len(), slots.len());
    assert!(distinct.iter().all(|slot| *slot < plan.slots.len()));
}

const BATCH: i64 = 2;
const SEQ_LEN: i64 = 3;

fn bindings() -> Bindings {
    Bindings::from([(Symbol::new("batch"), BATCH), (Symbol::new("seq_len"), SEQ_LEN)])
}

fn tensor(seed: u64, ty: &TensorType) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().map(|d| d.eval(&bindings()).unwrap() as usize).collect();
    let data = noise(seed, shape.iter().product());
    Tensor::floats(ty.dtype, shape, data).unwrap()
}

/// Runs a plan as its consumers do: kernel by kernel, on memory that is found by place alone.
fn execute(plan: &Plan, model: &Model, inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let graph = &plan.graph;
    let mut memory: BTreeMap<Place, Tensor> = BTreeMap::new();
    for (i, port) in graph.inputs().iter().enumerate() {
        memory.insert(Place::Input(i), inputs[&port.name].clone());
    }
    let extents = |v: ValueId| -> Vec<usize> {
        graph.ty(v).shape.iter().map(|d| d.eval(&bindings()).unwrap() as usize).collect()
    };
    for group in &plan.groups {
        let mut b = GraphBuilder::with_locs("kernel", graph.locs().clone());
        let (mut map, mut read) = (BTreeMap::new(), BTreeMap::new());
        for id in &group.members {
            let node = graph.node(*id);
            for v in node.operands.iter().flatten() {
                if map.contains_key(v) {
                    continue;
                }
                let place = plan.places.get(v).unwrap_or_else(|| panic!("{v} lies nowhere"));
                let value = if *place == Place::Weight {
                    b.node(graph.def_op(*v).unwrap().clone(), &[], Vec::new()).unwrap()[0]
                } else {
                    let stored =
                        memory.get(place).unwrap_or_else(|| panic!("{v} is read before it is written"));
                    read.insert(v.to_string(), stored.clone().reshaped(extents(*v)).unwrap());
                    assert!(group.outputs.iter().all(|out| plan.places[out] != *place), "{v} is overwritten");
                    b.input(v.to_string(), graph.ty(*v).clone())
                };
                map.insert(*v, value);
            }
            let operands: Vec<_> = node.operands.iter().map(|v| v.map(|v| map[&v])).collect();
            let results = b.node(node.op.clone(), &operands, Vec::new()).unwrap();
            map.extend(node.results.iter().copied().zip(results));
        }
        for v in &group.outputs {
            b.output(v.to_string(), map[v]);
        }
        let kernel = b.finish();
        let mut interpreter = Interpreter::new(&kernel, &model.weights);
        for (symbol, value) in bindings() {
            interpreter = interpreter.bind(symbol, value);
        }
        let mut results = interpreter.run(&read).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
        for v in &group.outputs {
            let place = plan.places[v];
            let result = results.remove(&v.to_string()).unwrap();
            if let Place::Slot(slot) = place {
                let size = plan.slots[slot].eval(&bindings()).unwrap();
                assert!(4 * result.len() as i64 <= size, "{v} does not fit its slot");
            }
            memory.insert(place, result);
        }
    }
    let outputs = graph.outputs().iter().enumerate();
    let read = |(i, p): (usize, &ssmc_ir::Port)| {
        let tensor = memory[&Place::Output(i)].clone().reshaped(extents(p.value)).unwrap();
        (p.name.clone(), tensor)
    };
    outputs.map(read).collect()
}

/// A random graph over tensors [batch, seq_len, 4] with weights, recurrences and outputs of all kinds.
fn build(steps: &[(u8, usize, usize)], outputs: &[usize]) -> Model {
    let (batch, len) = (Dim::symbol("batch"), Dim::symbol("seq_len"));
    let ty = |dims: &[Dim]| TensorType::new(DType::F32, dims.to_vec());
    let mut model = Model::default();
    let mut b = GraphBuilder::new("f");
    let mut values = vec![
        b.input("x", ty(&[batch.clone(), len.clone(), 4.into()])),
        b.input("y", ty(&[batch.clone(), len.clone(), 4.into()])),
    ];
    let mut states = Vec::new();
    for (i, (kind, x, y)) in steps.iter().enumerate() {
        let (x, y) = (values[x % values.len()], values[y % values.len()]);
        let mut weight = |b: &mut GraphBuilder, dims: &[i64]| {
            let ty = TensorType::new(DType::F32, dims.iter().copied().map(Dim::from).collect::<Vec<_>>());
            let name = format!("w{i}");
            let bytes = tensor(i as u64, &ty).to_bytes();
            model.weights.insert(&name, ssmc_ir::Weight { ty: ty.clone(), bytes: bytes.into() });
            b.weight(name, &ty).unwrap()
        };
        let value = match kind % 10 {
            0 => b.unary(UnaryFn::Tanh, x).unwrap(),
            1 => b.binary(BinaryFn::Mul, x, y).unwrap(),
            2 => b.binary(BinaryFn::Add, x, y).unwrap(),
            3 => {
                let w = weight(&mut b, &[4, 4]);
                b.contract("abc,dc->abd", &[x, w]).unwrap()
            }
            4 => {
                let mean =
                    b.op(ssmc_ir::ops::Reduce { axes: vec![2], f: ssmc_ir::ops::ReduceFn::Mean }, &[x]);
                b.broadcast(mean.unwrap(), &[0, 1], [batch.clone(), len.clone(), 4.into()]).unwrap()
            }
            5 => {
                let decay = b.unary(UnaryFn::Sigmoid, x).unwrap();
                let op = ssmc_ir::ops::Scan { reverse: y == x };
                let results = b.node(op, &[Some(decay), Some(y), None, None], Vec::new()).unwrap();
                states.push(results[1]);
                results[0]
            }
            6 => b.op(Reverse { axis: 1 }, &[x]).unwrap(),
            7 => {
                let halves = [b.slice(x, 2, 0, 2).unwrap(), b.slice(y, 2, 1, 2).unwrap()];
                b.op(Concat { axis: 2 }, &halves).unwrap()
            }
            8 => {
                let split = b.reshape(x, [batch.clone(), len.clone(), 2.into(), 2.into()]).unwrap();
                let turned = b.transpose(split, &[0, 1, 3, 2]).unwrap();
                b.reshape(turned, [batch.clone(), len.clone(), 4.into()]).unwrap()
            }
            // What reads a state waits for the scan that stores it.
            _ => match states.last() {
                Some(state) => {
                    let wide = b.broadcast(*state, &[0, 2], [batch.clone(), len.clone(), 4.into()]).unwrap();
                    b.binary(BinaryFn::Add, x, wide).unwrap()
                }
                None => b.unary(UnaryFn::Neg, x).unwrap(),
            },
        };
        values.push(value);
    }
    for (i, state) in states.iter().enumerate() {
        let state =
            if i % 2 == 0 { b.reshape(*state, [batch.clone(), 2.into(), 2.into()]).unwrap() } else { *state };
        b.output(format!("state{i}"), state);
    }
    for (i, value) in outputs.iter().enumerate() {
        b.output(format!("out{i}"), values[value % values.len()]);
    }
    b.output("last", values[values.len() - 1]);
    model.graph = ssmc_ir::edit::dce(&b.finish()).unwrap();
    model
}

/// The graph of these steps is computed by its plan.
fn assert_plan_holds(steps: &[(u8, usize, usize)], outputs: &[usize]) {
    let model = build(steps, outputs);
    let plan = partition(&model.graph).unwrap();
    let ports = model.graph.inputs().iter().enumerate();
    let inputs: BTreeMap<String, Tensor> =
        ports.map(|(i, p)| (p.name.clone(), tensor(50 + i as u64, model.graph.ty(p.value)))).collect();
    let expected = Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap();
    assert_eq!(execute(&plan, &model, &inputs), expected);
}

/// A product's chain of consumers ends in a node behind a scan whose kernel computes that node inside itself.
#[test]
fn what_a_kernel_computes_inside_itself_is_no_epilogue_of_an_earlier_one() {
    let mut steps = [(0, 0, 0); 18];
    for (at, step) in [(3, (93, 0, 0)), (8, (135, 6, 6)), (9, (30, 16, 0)), (15, (131, 44, 28))] {
        steps[at] = step;
    }
    (steps[16], steps[17]) = ((0, 12, 0), (0, 36, 0));
    assert_plan_holds(&steps, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_computes_what_its_graph_says(
        steps in prop::collection::vec((any::<u8>(), 0..100usize, 0..100usize), 1..24),
        outputs in prop::collection::vec(0..100usize, 0..3),
    ) {
        assert_plan_holds(&steps, &outputs);
    }
}
