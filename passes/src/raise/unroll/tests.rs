use crate::pass::RemarkKind;
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::optimized;
use ssmc_ir::Graph;
use ssmc_ir::ops::Op;
use std::fmt::Write;

/// Steps of the unrolled graphs.
const N: usize = 6;

/// A graph over decays, inputs and maps of `N` steps; `body` writes the nodes and gives the outputs.
fn unrolled(body: impl FnOnce(&mut String) -> Vec<(String, &'static str)>) -> String {
    let mut text = format!(
        "func @f(%a: f32[batch, {N}, 3, 2], %b: f32[batch, {N}, 3, 2], %c: f32[batch, {N}, 2], \
         %start: f32[batch, 3, 2]) {{\n\
         %0 = constant {{data=[0.0], shape=[]}} : f32[]\n\
         %zero = broadcast %0 {{shape=[batch, 3, 2]}} : f32[batch, 3, 2]\n"
    );
    let outputs = body(&mut text);
    let outputs: Vec<String> = outputs.iter().map(|(v, name)| format!("%{v} \"{name}\"")).collect();
    writeln!(text, "return {}\n}}", outputs.join(", ")).unwrap();
    text
}

/// Element `i` of `x` along axis 1, as `name`.
fn element(text: &mut String, name: &str, x: char, i: usize) {
    let dims = if x == 'c' { "2" } else { "3, 2" };
    writeln!(text, "%{name}_ = slice %{x} {{axis=1, len=1, start={i}}} : f32[batch, 1, {dims}]").unwrap();
    writeln!(text, "%{name} = reshape %{name}_ {{shape=[batch, {dims}]}} : f32[batch, {dims}]").unwrap();
}

/// h{t} = a[at] * h + b[at] from the state `before`; every other step has its operands the other way round.
fn step(text: &mut String, t: usize, at: usize, before: &str) {
    element(text, &format!("a{t}"), 'a', at);
    element(text, &format!("b{t}"), 'b', at);
    let swaps = t % 2 == 1;
    let ty = "f32[batch, 3, 2]";
    let (x, y) =
        if swaps { (before.to_owned(), format!("a{t}")) } else { (format!("a{t}"), before.to_owned()) };
    writeln!(text, "%p{t} = mul %{x}, %{y} : {ty}").unwrap();
    let (x, y) = if swaps { (format!("b{t}"), format!("p{t}")) } else { (format!("p{t}"), format!("b{t}")) };
    writeln!(text, "%h{t} = add %{x}, %{y} : {ty}").unwrap();
}

/// y{t} = sum over n of h{t} * c[at].
fn read(text: &mut String, t: usize, at: usize) {
    element(text, &format!("c{t}"), 'c', at);
    writeln!(text, "%y{t}_ = contract[bdn,bn->bd] %h{t}, %c{t} : f32[batch, 3]").unwrap();
    writeln!(text, "%y{t} = reshape %y{t}_ {{shape=[batch, 1, 3]}} : f32[batch, 1, 3]").unwrap();
}

fn concat(text: &mut String, name: &str, parts: impl Iterator<Item = usize>) {
    let parts: Vec<String> = parts.map(|t| format!("%y{t}")).collect();
    let n = parts.len();
    writeln!(text, "%{name} = concat {} {{axis=1}} : f32[batch, {n}, 3]", parts.join(", ")).unwrap();
}

/// A chain over all steps from `initial`, each of which takes the elements that `at` says.
fn chain(text: &mut String, initial: &str, at: impl Fn(usize) -> usize) {
    for t in 0..N {
        let before = if t == 0 { initial.to_owned() } else { format!("h{}", t - 1) };
        step(text, t, at(t), &before);
    }
}

struct Raised {
    graph: Graph,
    /// The scans: whether they run in reverse, whether they have an initial state, the number of steps.
    scans: Vec<(bool, bool, i64)>,
}

fn raised(text: &str) -> Raised {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    for remark in &report.remarks {
        assert!(matches!(remark.kind, RemarkKind::Raised { scans: 1, .. }), "{remark}");
    }
    let graph = model.graph;
    let scans = graph
        .nodes()
        .filter_map(|(_, n)| match &n.op {
            Op::Scan(op) => {
                let steps = graph.ty(n.operands[1].unwrap()).shape[1].as_const().unwrap();
                Some((op.reverse, n.operands[2].is_some(), steps))
            }
            _ => None,
        })
        .collect();
    Raised { graph, scans }
}

fn count(graph: &Graph, name: &str) -> usize {
    graph.nodes().filter(|(_, n)| n.op.name() == name).count()
}

fn read_out(initial: &'static str, reverse: bool) -> String {
    unrolled(|text| {
        let at = |t| if reverse { N - 1 - t } else { t };
        chain(text, initial, at);
        (0..N).for_each(|t| read(text, t, at(t)));
        if reverse {
            concat(text, "y", (0..N).rev());
        } else {
            concat(text, "y", 0..N);
        }
        vec![("y".into(), "y"), (format!("h{}", N - 1), "last")]
    })
}

#[test]
fn chains_of_both_directions_and_starts_are_one_scan_and_one_read_out() {
    for reverse in [false, true] {
        for (initial, starts) in [("zero", false), ("start", true)] {
            let Raised { graph, scans } = raised(&read_out(initial, reverse));
            assert_eq!(scans, [(reverse, starts, N as i64)], "{graph}");
            for op in ["concat", "slice", "reverse", "mul", "add"] {
                assert_eq!(count(&graph, op), 0, "{op}\n{graph}");
            }
            assert_eq!(count(&graph, "contract"), 1, "{graph}");
        }
    }
}

#[test]
fn states_that_are_stacked_before_they_are_read_are_those_of_the_scan() {
    let Raised { graph, scans } = raised(&unrolled(|text| {
        chain(text, "zero", |t| t);
        for t in 0..N {
            writeln!(text, "%y{t} = reshape %h{t} {{shape=[batch, 1, 3, 2]}} : f32[batch, 1, 3, 2]").unwrap();
        }
        let parts: Vec<String> = (0..N).map(|t| format!("%y{t}")).collect();
        writeln!(text, "%hs = concat {} {{axis=1}} : f32[batch, {N}, 3, 2]", parts.join(", ")).unwrap();
        writeln!(text, "%y = contract[bldn,bln->bld] %hs, %c : f32[batch, {N}, 3]").unwrap();
        vec![("y".into(), "y")]
    }));
    assert_eq!(scans, [(false, false, N as i64)]);
    assert_eq!((count(&graph, "concat"), count(&graph, "contract")), (0, 1), "{graph}");
}

/// Positions, casts to half precision and back, and discretization in every step.
#[test]
fn what_a_step_computes_is_computed_for_all_steps_at_once() {
    let ty = "f32[batch, 3, 2]";
    let Raised { graph, scans } = raised(&unrolled(|text| {
        for t in 0..N {
            let before = if t == 0 { "start".to_owned() } else { format!("h{}", t - 1) };
            element(text, &format!("a{t}"), 'a', t);
            element(text, &format!("b{t}"), 'b', t);
            writeln!(text, "%k{t} = constant {{data=[{}.5], shape=[]}} : f32[]", t + 1).unwrap();
            writeln!(text, "%kk{t} = broadcast %k{t} {{shape=[batch, 3, 2]}} : {ty}").unwrap();
            writeln!(text, "%s{t} = mul %b{t}, %kk{t} : {ty}").unwrap();
            writeln!(text, "%e{t} = exp %a{t} : {ty}").unwrap();
            writeln!(text, "%f{t} = cast %{before} {{to=f16}} : f16[batch, 3, 2]").unwrap();
            writeln!(text, "%g{t} = cast %f{t} : {ty}").unwrap();
            writeln!(text, "%p{t} = mul %e{t}, %g{t} : {ty}").unwrap();
            writeln!(text, "%h{t} = sub %p{t}, %s{t} : {ty}").unwrap();
            read(text, t, t);
        }
        concat(text, "y", 0..N);
        vec![("y".into(), "y")]
    }));
    assert_eq!(scans, [(false, true, N as i64)], "{graph}");
    assert_eq!((count(&graph, "concat"), count(&graph, "exp")), (0, 1), "{graph}");
}

#[test]
fn a_state_in_the_middle_may_have_other_readers() {
    let Raised { graph, scans } = raised(&unrolled(|text| {
        chain(text, "zero", |t| t);
        (0..N).for_each(|t| read(text, t, t));
        concat(text, "y", 0..N);
        writeln!(text, "%z = tanh %h2 : f32[batch, 3, 2]").unwrap();
        vec![("y".into(), "y"), ("z".into(), "z"), ("h3".into(), "h3")]
    }));
    assert_eq!(scans, [(false, false, N as i64)]);
    assert_eq!((count(&graph, "concat"), count(&graph, "tanh")), (0, 1), "{graph}");
}

#[test]
fn two_directions_over_one_sequence_are_two_scans() {
    let Raised { graph, scans } = raised(&unrolled(|text| {
        chain(text, "zero", |t| t);
        (0..N).for_each(|t| read(text, t, t));
        concat(text, "y", 0..N);
        let mut back = String::new();
        chain(&mut back, "zero", |t| N - 1 - t);
        (0..N).for_each(|t| read(&mut back, t, N - 1 - t));
        concat(&mut back, "w", (0..N).rev());
        for name in ["a", "b", "c", "h", "p", "y"] {
            for t in 0..N {
                back = back.replace(&format!("%{name}{t}"), &format!("%r{name}{t}"));
            }
        }
        text.push_str(&back);
        vec![("y".into(), "y"), ("w".into(), "w")]
    }));
    assert_eq!(scans, [(false, false, N as i64), (true, false, N as i64)], "{graph}");
    assert_eq!(count(&graph, "concat"), 0, "{graph}");
}

/// Steps whose elements come in another order are not those of a scan over the tensors as they stand.
#[test]
fn elements_in_another_order_are_put_in_order_first() {
    let order = [0, 2, 1, 3, 4, 5];
    let Raised { graph, .. } = raised(&unrolled(|text| {
        chain(text, "zero", |t| order[t]);
        (0..N).for_each(|t| read(text, t, t));
        concat(text, "y", 0..N);
        vec![("y".into(), "y")]
    }));
    assert_eq!(count(&graph, "ssm.scan"), 0, "no tensor is read step by step\n{graph}");
}

#[test]
fn a_step_that_differs_ends_the_chain() {
    let text = read_out("zero", false).replace("%h3 = add %b3, %p3", "%h3 = max %b3, %p3");
    let scans = raised(&text).scans;
    assert_eq!(scans, [(false, false, 3), (false, true, 2)]);
}

#[test]
fn a_step_that_skips_a_state_ends_the_chain() {
    let text = read_out("zero", false).replace("mul %h2, %a3", "mul %h1, %a3");
    let Raised { graph, scans } = raised(&text);
    assert!(scans.iter().all(|(.., steps)| *steps < N as i64), "{scans:?}\n{graph}");
}

#[test]
fn recurrences_that_are_not_linear_stay_as_they_are() {
    let mut text = unrolled(|text| {
        for t in 0..N {
            let before = if t == 0 { "start".to_owned() } else { format!("h{}", t - 1) };
            writeln!(text, "%t{t} = tanh %{before} : f32[batch, 3, 2]").unwrap();
            step(text, t, t, &format!("t{t}"));
        }
        vec![(format!("h{}", N - 1), "h")]
    });
    assert!(raised(&text).scans.is_empty());
    // The input of a step reads the state before it.
    text = unrolled(|text| {
        chain(text, "start", |t| t);
        vec![(format!("h{}", N - 1), "h")]
    });
    for t in 1..N {
        let reads = format!("%q{t} = sin %h{} : f32[batch, 3, 2]\n%p{t} = mul", t - 1);
        text = text.replace(&format!("%p{t} = mul"), &reads);
        text = text.replace(&format!("add %b{t}, %p{t}"), &format!("add %q{t}, %p{t}"));
        text = text.replace(&format!("add %p{t}, %b{t}"), &format!("add %p{t}, %q{t}"));
    }
    assert!(raised(&text).scans.is_empty());
}

/// Sums of products that do not walk along a tensor are no recurrences over a sequence.
#[test]
fn polynomials_stay_as_they_are() {
    let text = unrolled(|text| {
        writeln!(text, "%u0 = add %zero, %start : f32[batch, 3, 2]").unwrap();
        for t in 1..N {
            writeln!(text, "%k{t} = constant {{data=[{t}.0], shape=[]}} : f32[]").unwrap();
            writeln!(text, "%kk{t} = broadcast %k{t} {{shape=[batch, 3, 2]}} : f32[batch, 3, 2]").unwrap();
            writeln!(text, "%m{t} = mul %u{}, %start : f32[batch, 3, 2]", t - 1).unwrap();
            writeln!(text, "%u{t} = add %m{t}, %kk{t} : f32[batch, 3, 2]").unwrap();
        }
        vec![(format!("u{}", N - 1), "y")]
    });
    assert!(raised(&text).scans.is_empty());
}

/// Steps of complex numbers as pairs, h' = w*h + u, from zeros that were folded into the first step: `turned` joins the
/// parts of w*h; `n` sequences, each with its own steps.
fn pairs(n: usize, turned: &str) -> String {
    let mut text = format!(
        "func @f(%u: f32[{n}, {N}, 3, 2]) {{\n\
         %re = weight {{name=\"re\", shape=[3, 1]}} : f32[3, 1]\n%im = weight {{name=\"im\", shape=[3, 1]}} : f32[3, 1]\n"
    );
    let mut rows = Vec::new();
    for s in 0..n {
        for t in 0..N {
            let at = format!("{s}_{t}");
            writeln!(text, "%s{at} = slice %u {{axis=0, len=1, start={s}}} : f32[1, {N}, 3, 2]").unwrap();
            writeln!(text, "%t{at} = slice %s{at} {{axis=1, len=1, start={t}}} : f32[1, 1, 3, 2]").unwrap();
            writeln!(text, "%u{at} = reshape %t{at} {{shape=[3, 2]}} : f32[3, 2]").unwrap();
            if t == 0 {
                writeln!(
                    text,
                    "%z{at} = constant {{data=[0.0, -0.0, 0.0, 0.0, -0.0, 0.0], shape=[3, 2]}} : f32[3, 2]"
                )
                .unwrap();
            } else {
                let before = format!("{s}_{}", t - 1);
                writeln!(text, "%x{at} = slice %h{before} {{axis=1, len=1}} : f32[3, 1]").unwrap();
                writeln!(text, "%y{at} = slice %h{before} {{axis=1, len=1, start=1}} : f32[3, 1]").unwrap();
                for (name, w, part) in
                    [("p", "re", "x"), ("q", "im", "y"), ("r", "re", "y"), ("s_", "im", "x")]
                {
                    writeln!(text, "%{name}{at} = mul %{w}, %{part}{at} : f32[3, 1]").unwrap();
                }
                writeln!(text, "%v{at} = {turned} %p{at}, %q{at} : f32[3, 1]").unwrap();
                writeln!(text, "%w{at} = add %r{at}, %s_{at} : f32[3, 1]").unwrap();
                writeln!(text, "%z{at} = concat %v{at}, %w{at} {{axis=1}} : f32[3, 2]").unwrap();
            }
            let (x, y) = if t % 2 == 0 { ("z", "u") } else { ("u", "z") };
            writeln!(text, "%h{at} = add %{x}{at}, %{y}{at} : f32[3, 2]").unwrap();
            writeln!(text, "%o{at} = tanh %h{at} : f32[3, 2]").unwrap();
            writeln!(text, "%row{at} = reshape %o{at} {{shape=[1, 1, 3, 2]}} : f32[1, 1, 3, 2]").unwrap();
        }
        let parts: Vec<String> = (0..N).map(|t| format!("%row{s}_{t}")).collect();
        writeln!(text, "%all{s} = concat {} {{axis=1}} : f32[1, {N}, 3, 2]", parts.join(", ")).unwrap();
        rows.push(format!("%all{s}"));
    }
    writeln!(text, "%y = concat {} {{axis=0}} : f32[{n}, {N}, 3, 2]", rows.join(", ")).unwrap();
    writeln!(text, "return %y \"y\"\n}}").unwrap();
    text
}

#[test]
fn pairs_that_turn_are_one_complex_scan_over_all_steps_and_sequences() {
    let (model, _) = optimized(&pairs(2, "sub"), &[CANONICAL, RAISED]);
    let graph = &model.graph;
    assert_eq!((count(graph, "ssm.complex_scan"), count(graph, "tanh")), (1, 2), "{graph}");
    let scan = graph.nodes().find(|(_, n)| n.op.name() == "ssm.complex_scan").unwrap().1;
    let inputs = &graph.ty(scan.operands[2].unwrap()).shape;
    assert!(inputs[0].is(2) && inputs[1].is(N as i64), "{graph}");
    assert!(scan.operands[4..].iter().all(Option::is_none), "the states start from zeros\n{graph}");
}

#[test]
fn pairs_that_do_not_turn_stay() {
    let (model, _) = optimized(&pairs(1, "add"), &[CANONICAL, RAISED]);
    assert_eq!(count(&model.graph, "ssm.complex_scan"), 0, "{}", model.graph);
}

/// Each step adds what it takes and what the step before took, beside a state with one more axis.
fn two_taps(first: &str) -> String {
    unrolled(|text| {
        for t in 0..N {
            element(text, &format!("b{t}"), 'b', t);
            writeln!(text, "%a{t} = slice %a {{axis=1, len=1, start={t}}} : f32[batch, 1, 3, 2]").unwrap();
            let before = if t == 0 { "zero".to_owned() } else { format!("h{}", t - 1) };
            let tap = if t == 0 { first.to_owned() } else { format!("b{}", t - 1) };
            writeln!(text, "%g{t} = reshape %{before} {{shape=[batch, 1, 3, 2]}} : f32[batch, 1, 3, 2]")
                .unwrap();
            writeln!(text, "%q{t} = mul %a{t}, %g{t} : f32[batch, 1, 3, 2]").unwrap();
            writeln!(text, "%p{t} = reshape %q{t} {{shape=[batch, 3, 2]}} : f32[batch, 3, 2]").unwrap();
            writeln!(text, "%s{t} = add %b{t}, %{tap} : f32[batch, 3, 2]").unwrap();
            writeln!(text, "%h{t} = add %p{t}, %s{t} : f32[batch, 3, 2]").unwrap();
            read(text, t, t);
        }
        concat(text, "y", 0..N);
        vec![("y".into(), "y"), (format!("h{}", N - 1), "last")]
    })
}

#[test]
fn what_the_step_before_took_is_delayed() {
    for first in ["zero", "start"] {
        let Raised { graph, scans } = raised(&two_taps(first));
        assert_eq!(scans, [(false, false, N as i64)], "{graph}");
        assert_eq!(count(&graph, "contract"), 1, "{graph}");
    }
}
