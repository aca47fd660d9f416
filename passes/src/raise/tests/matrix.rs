//! Loops that carry a matrix: every rule of linear attention, with the layouts around it.

use super::{kept, raised};
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::optimized;
use ssmc_ir::ops::{LinearAttention, Op};
use ssmc_ir::{Graph, Node};

#[derive(Clone, Copy)]
struct Body {
    /// `1` or the number of keys; nothing without decay.
    decay: Option<usize>,
    delta: bool,
    /// Queries per head.
    group: usize,
    h0: bool,
    reverse: bool,
}

const GATED_DELTA: Body = Body { decay: Some(3), delta: true, group: 1, h0: true, reverse: false };

impl Body {
    /// Two heads, three keys, five values; the loop runs over the first axis. `step` takes %decayed, %k, %v and gives
    /// %written, `end` the outputs.
    fn text(self, step: &str, read: &str) -> String {
        let Body { decay, group, h0, reverse, .. } = self;
        let heads = 2 * group;
        let keys = decay.unwrap_or(1);
        let decayed = match decay {
            Some(_) => format!(
                "%e = exp %g : f32[batch, 2, {keys}]
                 %eb = broadcast %e {{axes=[0, 1, 2], shape=[batch, 2, 3, 5]}} : f32[batch, 2, 3, 5]
                 %decayed = mul %s, %eb : f32[batch, 2, 3, 5]"
            ),
            None => "%decayed = reshape %s {shape=[batch, 2, 3, 5]} : f32[batch, 2, 3, 5]".into(),
        };
        let zero = "%zero = constant {data=[0.0], shape=[]} : f32[]
             %start = broadcast %zero {shape=[batch, 2, 3, 5]} : f32[batch, 2, 3, 5]";
        let start = if h0 { "%start = neg %h0 : f32[batch, 2, 3, 5]" } else { zero };
        format!(
            "func @f(%q: f32[batch, seq_len, {heads}, 3], %k: f32[batch, seq_len, 2, 3], \
                     %v: f32[batch, seq_len, 2, 5], %g: f32[batch, seq_len, 2, {keys}], \
                     %beta: f32[batch, seq_len, 2], %h0: f32[batch, 2, 3, 5]) {{
             {start}
             %half = constant {{data=[0.5], shape=[]}} : f32[]
             %tq = transpose %q {{perm=[1, 0, 2, 3]}} : f32[seq_len, batch, {heads}, 3]
             %tk = transpose %k {{perm=[1, 0, 2, 3]}} : f32[seq_len, batch, 2, 3]
             %tv = transpose %v {{perm=[1, 0, 2, 3]}} : f32[seq_len, batch, 2, 5]
             %tg = transpose %g {{perm=[1, 0, 2, 3]}} : f32[seq_len, batch, 2, {keys}]
             %tbeta = transpose %beta {{perm=[1, 0, 2]}} : f32[seq_len, batch, 2]
             %last, %out = loop %start, %tq, %tk, %tv, %tg, %tbeta, %half {{n_carried=1, \
                 scan_axes=[0, 0, 0, 0, 0], scan_reverse=[{reverse}, {reverse}, {reverse}, {reverse}, {reverse}], \
                 stack_axes=[0], stack_reverse=[{reverse}], trip_count=seq_len}} \
                 : f32[batch, 2, 3, 5], f32[seq_len, batch, {heads}, 5] {{
               func @body(%i: i64[], %s: f32[batch, 2, 3, 5], %q: f32[batch, {heads}, 3], %k: f32[batch, 2, 3], \
                          %v: f32[batch, 2, 5], %g: f32[batch, 2, {keys}], %beta: f32[batch, 2], %half: f32[]) {{
                 {decayed}
                 {step}
                 %next = add %decayed, %written : f32[batch, 2, 3, 5]
                 {read}
                 return %next \"next\", %y \"y\"
               }}
             }}
             %y = transpose %out {{perm=[1, 0, 2, 3]}} : f32[batch, seq_len, {heads}, 5]
             return %y \"y\", %last \"last\"
           }}"
        )
    }

    fn graph(self) -> Graph {
        let plain = "%col = reshape %k {shape=[batch, 2, 3, 1]} : f32[batch, 2, 3, 1]
             %row = reshape %v {shape=[batch, 2, 1, 5]} : f32[batch, 2, 1, 5]
             %written = contract[abcd,abde->abce] %col, %row : f32[batch, 2, 3, 5]";
        // The retrieved value comes of a transposed state, as a product of matrices.
        let delta = "%col = reshape %k {shape=[batch, 2, 3, 1]} : f32[batch, 2, 3, 1]
             %st = transpose %decayed {perm=[0, 1, 3, 2]} : f32[batch, 2, 5, 3]
             %known = contract[abcd,abde->abce] %st, %col : f32[batch, 2, 5, 1]
             %known1 = reshape %known {shape=[batch, 2, 5]} : f32[batch, 2, 5]
             %missing = sub %v, %known1 : f32[batch, 2, 5]
             %bb = broadcast %beta {axes=[0, 1], shape=[batch, 2, 5]} : f32[batch, 2, 5]
             %u = mul %bb, %missing : f32[batch, 2, 5]
             %row = reshape %u {shape=[batch, 2, 1, 5]} : f32[batch, 2, 1, 5]
             %written = contract[abcd,abde->abce] %col, %row : f32[batch, 2, 3, 5]";
        let (group, heads) = (self.group, 2 * self.group);
        let read = format!(
            "%wide = broadcast %next {{axes=[0, 1, 3, 4], shape=[batch, 2, {group}, 3, 5]}} : f32[batch, 2, {group}, 3, 5]
             %all = reshape %wide {{shape=[batch, {heads}, 3, 5]}} : f32[batch, {heads}, 3, 5]
             %qr = reshape %q {{shape=[batch, {heads}, 1, 3]}} : f32[batch, {heads}, 1, 3]
             %yr = contract[abcd,abde->abce] %qr, %all : f32[batch, {heads}, 1, 5]
             %y1 = reshape %yr {{shape=[batch, {heads}, 5]}} : f32[batch, {heads}, 5]
             %hb = broadcast %half {{shape=[batch, {heads}, 5]}} : f32[batch, {heads}, 5]
             %y = mul %hb, %y1 : f32[batch, {heads}, 5]"
        );
        raised(&self.text(if self.delta { delta } else { plain }, &read), 1)
    }
}

fn attention(graph: &Graph) -> (&LinearAttention, &Node) {
    let mut found = graph.nodes().filter_map(|(_, n)| match &n.op {
        Op::LinearAttention(op) => Some((op, n)),
        _ => None,
    });
    let first = found.next().unwrap_or_else(|| panic!("{graph}"));
    assert!(found.next().is_none() && !graph.nodes().any(|(_, n)| matches!(n.op, Op::Scan(_))), "{graph}");
    first
}

#[test]
fn every_rule_becomes_one_op() {
    for decay in [None, Some(1), Some(3)] {
        for delta in [false, true] {
            for group in [1, 3] {
                let body = Body { decay, delta, group, h0: group == 1, reverse: group == 3 };
                let graph = body.graph();
                let (op, node) = attention(&graph);
                assert_eq!((op.reverse, op.scale.get()), (group == 3, 0.5), "{graph}");
                let present: Vec<bool> = node.operands.iter().map(Option::is_some).collect();
                let expected =
                    [true, true, true, decay.is_some(), delta, false, false, group == 1, false, false];
                assert_eq!(present, expected, "{graph}");
                if let (Some(n), Some(decay)) = (decay, node.operands[3]) {
                    assert!(graph.ty(decay).shape[3].is(n as i64), "{graph}");
                }
                // No transpose is left: the op takes the layout of the model.
                assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::Transpose(_))), "{graph}");
            }
        }
    }
}

/// The twin that never was a loop.
#[test]
fn a_loop_and_its_op_are_the_same_graph() {
    let graph = GATED_DELTA.graph();
    let op = "func @f(%q: f32[batch, seq_len, 2, 3], %k: f32[batch, seq_len, 2, 3], \
                      %v: f32[batch, seq_len, 2, 5], %g: f32[batch, seq_len, 2, 3], \
                      %beta: f32[batch, seq_len, 2], %h0: f32[batch, 2, 3, 5]) {
         %start = neg %h0 : f32[batch, 2, 3, 5]
         %q5 = reshape %q {shape=[batch, seq_len, 2, 1, 3]} : f32[batch, seq_len, 2, 1, 3]
         %y, %last = ssm.linear_attention %q5, %k, %v, %g, %beta, _, _, %start {scale=0.5} \
             : f32[batch, seq_len, 2, 1, 5], f32[batch, 2, 3, 5]
         %y4 = reshape %y {shape=[batch, seq_len, 2, 5]} : f32[batch, seq_len, 2, 5]
         return %y4 \"y\", %last \"last\"
       }";
    let (twin, _) = optimized(op, &[CANONICAL, RAISED]);
    assert_eq!(crate::testing::ops(&graph), crate::testing::ops(&twin.graph), "{graph}\n{}", twin.graph);
}

/// The correction must read along the key that is written, and the state that has decayed.
#[test]
fn other_corrections_stay_loops() {
    let step = |key: &str, state: &str| {
        format!(
            "%known = contract[abk,abkv->abv] %{key}, %{state} : f32[batch, 2, 5]
             %missing = sub %v, %known : f32[batch, 2, 5]
             %written = contract[abk,abv->abkv] %k, %missing : f32[batch, 2, 3, 5]"
        )
    };
    let read = "%y = contract[abk,abkv->abv] %q, %next : f32[batch, 2, 5]";
    let right = raised(&GATED_DELTA.text(&step("k", "decayed"), read), 1);
    assert!(attention(&right).1.operands[4].is_some());
    for (key, state) in [("q", "decayed"), ("k", "s")] {
        let reason = kept(&GATED_DELTA.text(&step(key, state), read));
        assert!(reason.contains("no first-order recurrence"), "{reason}");
    }
}

/// A state that is read in another way as well keeps its diagonal scan.
#[test]
fn a_state_that_is_read_twice_stays_a_scan() {
    let body = Body { delta: false, ..GATED_DELTA };
    let step = "%written = contract[abk,abv->abkv] %k, %v : f32[batch, 2, 3, 5]";
    let read = "%y0 = contract[abk,abkv->abv] %q, %next : f32[batch, 2, 5]
         %sum = reduce %next {axes=[2]} : f32[batch, 2, 5]
         %y = add %y0, %sum : f32[batch, 2, 5]";
    let graph = raised(&body.text(step, read), 1);
    assert!(graph.nodes().any(|(_, n)| matches!(n.op, Op::Scan(_))), "{graph}");
}
