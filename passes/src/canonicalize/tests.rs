use crate::pipeline::CANONICAL;
use crate::testing::{ops, optimized};
use ssmc_ir::ops::Op;

fn canonical(text: &str) -> Vec<String> {
    ops(&optimized(text, &[CANONICAL]).0.graph)
}

#[test]
fn products_with_broadcasts_are_contractions() {
    let found = canonical(
        "func @f(%dt: f32[batch, seq_len, 4], %b: f32[batch, seq_len, 3], %x: f32[batch, seq_len, 4]) {
           %1 = reshape %dt {shape=[batch, seq_len, 4, 1]} : f32[batch, seq_len, 4, 1]
           %2 = broadcast %1 {axes=[0, 1, 2, 3], shape=[batch, seq_len, 4, 3]} : f32[batch, seq_len, 4, 3]
           %3 = broadcast %b {axes=[0, 1, 3], shape=[batch, seq_len, 4, 3]} : f32[batch, seq_len, 4, 3]
           %4 = mul %2, %3 : f32[batch, seq_len, 4, 3]
           %5 = broadcast %x {axes=[0, 1, 2], shape=[batch, seq_len, 4, 3]} : f32[batch, seq_len, 4, 3]
           %6 = mul %4, %5 : f32[batch, seq_len, 4, 3]
           return %6 \"y\"
         }",
    );
    assert_eq!(found, ["abc,abc,abd->abcd"]);
}

#[test]
fn a_sum_of_a_product_is_a_contraction() {
    let found = canonical(
        "func @f(%h: f32[batch, 4, 3], %c: f32[batch, 3]) {
           %1 = broadcast %c {axes=[0, 2], shape=[batch, 4, 3]} : f32[batch, 4, 3]
           %2 = mul %h, %1 : f32[batch, 4, 3]
           %3 = reduce %2 {axes=[2]} : f32[batch, 4]
           return %3 \"y\"
         }",
    );
    assert_eq!(found, ["abc,ac->ab"]);
}

#[test]
fn shared_products_are_not_merged() {
    let found = canonical(
        "func @f(%x: f32[batch, 4], %w: f32[4], %z: f32[batch, 4]) {
           %1 = broadcast %w {axes=[1], shape=[batch, 4]} : f32[batch, 4]
           %2 = mul %x, %1 : f32[batch, 4]
           %3 = mul %2, %z : f32[batch, 4]
           return %2 \"p\", %3 \"q\"
         }",
    );
    assert_eq!(found, ["ab,b->ab", "mul"]);
}

#[test]
fn a_product_with_a_weight_matrix_is_a_barrier() {
    let found = canonical(
        "func @f(%x: f32[batch, 4], %z: f32[batch, 4], %g: f32[batch, 5]) {
           %w = weight {name=\"w\", shape=[5, 4]} : f32[5, 4]
           %1 = mul %x, %z : f32[batch, 4]
           %2 = contract[bd,ed->be] %1, %w : f32[batch, 5]
           %3 = mul %2, %g : f32[batch, 5]
           return %3 \"y\"
         }",
    );
    assert_eq!(found, ["mul", "ab,cb->ac", "mul"]);
}

#[test]
fn a_silu_stays_recognizable() {
    let found = canonical(
        "func @f(%x: f32[batch, 4]) {
           %1 = sigmoid %x : f32[batch, 4]
           %2 = mul %x, %1 : f32[batch, 4]
           return %2 \"y\"
         }",
    );
    assert_eq!(found, ["sigmoid", "mul"]);
}

#[test]
fn transposes_around_elementwise_ops_vanish() {
    let found = canonical(
        "func @f(%x: f32[batch, seq_len, 4]) {
           %w = weight {name=\"w\", shape=[4, 4]} : f32[4, 4]
           %bias = weight {name=\"bias\", shape=[4]} : f32[4]
           %1 = contract[bld,ed->ble] %x, %w : f32[batch, seq_len, 4]
           %2 = transpose %1 {perm=[0, 2, 1]} : f32[batch, 4, seq_len]
           %3 = broadcast %bias {axes=[1], shape=[batch, 4, seq_len]} : f32[batch, 4, seq_len]
           %4 = add %2, %3 : f32[batch, 4, seq_len]
           %5 = softplus %4 : f32[batch, 4, seq_len]
           %6 = slice %2 {axis=1, len=2, start=1} : f32[batch, 2, seq_len]
           %7 = transpose %5 {perm=[0, 2, 1]} : f32[batch, seq_len, 4]
           %8 = transpose %6 {perm=[0, 2, 1]} : f32[batch, seq_len, 2]
           return %7 \"y\", %8 \"z\"
         }",
    );
    assert!(!found.iter().any(|op| op == "transpose"), "{found:?}");
}

#[test]
fn channel_major_elementwise_ops_follow_the_matmul_behind_them() {
    let found = canonical(
        "func @f(%x: f32[batch, seq_len, 4], %z: f32[batch, seq_len, 4]) {
           %w = weight {name=\"w\", shape=[5, 4]} : f32[5, 4]
           %1 = transpose %x {perm=[0, 2, 1]} : f32[batch, 4, seq_len]
           %2 = transpose %z {perm=[0, 2, 1]} : f32[batch, 4, seq_len]
           %3 = add %1, %2 : f32[batch, 4, seq_len]
           %4 = contract[bdl,ed->ble] %3, %w : f32[batch, seq_len, 5]
           return %4 \"y\"
         }",
    );
    assert_eq!(found, ["add", "abc,dc->abd"]);
}

#[test]
fn a_transpose_that_nothing_absorbs_stays() {
    let found = canonical(
        "func @f(%x: f32[batch, 4]) {
           %1 = exp %x : f32[batch, 4]
           %2 = transpose %1 {perm=[1, 0]} : f32[4, batch]
           return %1 \"y\", %2 \"z\"
         }",
    );
    assert_eq!(found, ["exp", "transpose"]);
}

#[test]
fn constants_fold_and_round_once() {
    let (model, _) = optimized(
        "func @f(%x: f32[batch, 80]) {
           %a_log = weight {name=\"a_log\", shape=[80]} : f32[80]
           %1 = exp %a_log : f32[80]
           %2 = neg %1 : f32[80]
           %3 = broadcast %2 {axes=[1], shape=[batch, 80]} : f32[batch, 80]
           %4 = add %x, %3 : f32[batch, 80]
           return %4 \"y\"
         }",
        &[CANONICAL],
    );
    assert_eq!(ops(&model.graph), ["broadcast", "add"]);
    assert_eq!(model.weights.len(), 1, "the weight that was folded is gone");
}

#[test]
fn large_matrices_keep_their_storage_type() {
    let (model, _) = optimized(
        "func @f(%x: f32[batch, 80]) {
           %w = weight {dtype=bf16, name=\"w\", shape=[80, 80]} : bf16[80, 80]
           %v = weight {dtype=bf16, name=\"v\", shape=[80]} : bf16[80]
           %1 = cast %w {to=f32} : f32[80, 80]
           %2 = contract[bd,ed->be] %x, %1 : f32[batch, 80]
           %3 = cast %v {to=f32} : f32[80]
           %4 = broadcast %3 {axes=[1], shape=[batch, 80]} : f32[batch, 80]
           %5 = add %2, %4 : f32[batch, 80]
           return %5 \"y\"
         }",
        &[CANONICAL],
    );
    let casts = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Cast(_))).count();
    assert_eq!(casts, 1, "{}", model.graph);
    let kept = model.graph.nodes().any(|(_, n)| matches!(&n.op, Op::WeightRef(w) if w.name == "w"));
    assert!(kept, "{}", model.graph);
}

#[test]
fn arithmetic_on_dims_is_done() {
    let found = canonical(
        "func @f(%x: f32[batch, seq_len]) {
           %1 = dim {value=seq_len} : i64[]
           %2 = constant {data=[3], dtype=i64, shape=[]} : i64[]
           %3 = mul %1, %2 : i64[]
           return %3 \"n\"
         }",
    );
    assert_eq!(found, ["dim"]);
}

#[test]
fn one_number_everywhere_is_a_broadcast_literal() {
    let (model, _) = optimized(
        "func @f(%x: f32[batch, 80]) {
           %0 = constant {data=[0.0], shape=[]} : f32[]
           %1 = broadcast %0 {shape=[4, 20]} : f32[4, 20]
           %2 = transpose %1 {perm=[1, 0]} : f32[20, 4]
           %3 = reshape %2 {shape=[1, 80]} : f32[1, 80]
           %4 = concat %3, %x {axis=0} : f32[batch + 1, 80]
           return %4 \"y\"
         }",
        &[CANONICAL],
    );
    assert_eq!(ops(&model.graph), ["broadcast", "concat"]);
    assert!(model.weights.is_empty(), "{}", model.graph);
}

#[test]
fn equal_folded_weights_are_one() {
    let (model, _) = optimized(
        "func @f(%x: f32[batch, 80], %y: f32[batch, 80]) {
           %w = weight {name=\"w\", shape=[80]} : f32[80]
           %1 = neg %w : f32[80]
           %2 = reshape %1 {shape=[1, 80]} : f32[1, 80]
           %3 = broadcast %2 {axes=[0, 1], shape=[batch, 80]} : f32[batch, 80]
           %4 = add %x, %3 : f32[batch, 80]
           %5 = broadcast %1 {axes=[1], shape=[batch, 80]} : f32[batch, 80]
           %6 = sub %y, %5 : f32[batch, 80]
           return %4 \"p\", %6 \"q\"
         }",
        &[CANONICAL],
    );
    assert_eq!(model.weights.len(), 1, "{}", model.graph);
}

#[test]
fn rows_that_follow_each_other_are_a_slice() {
    let found = canonical(
        "func @f(%x: f32[5, 4]) {
           %i = constant {data=[1, 2, 3], dtype=i64, shape=[3]} : i64[3]
           %j = constant {data=[3, 2], dtype=i64, shape=[2]} : i64[2]
           %k = constant {data=[-2, -1], dtype=i64, shape=[2]} : i64[2]
           %1 = gather %x, %i : f32[3, 4]
           %2 = gather %x, %j : f32[2, 4]
           %3 = gather %x, %k : f32[2, 4]
           return %1 \"p\", %2 \"q\", %3 \"r\"
         }",
    );
    assert_eq!(found, ["slice", "gather", "slice"]);
}

#[test]
fn slices_of_joined_tensors_are_slices_of_the_parts() {
    let found = canonical(
        "func @f(%x: f32[batch, 3], %y: f32[batch, 4]) {
           %1 = concat %x, %y {axis=1} : f32[batch, 7]
           %2 = reshape %1 {shape=[batch, 1, 7]} : f32[batch, 1, 7]
           %3 = slice %2 {axis=2, len=3} : f32[batch, 1, 3]
           %4 = slice %2 {axis=2, len=2, start=4} : f32[batch, 1, 2]
           %5 = slice %2 {axis=2, len=2, start=2} : f32[batch, 1, 2]
           return %3 \"p\", %4 \"q\", %5 \"r\"
         }",
    );
    assert_eq!(found, ["concat", "reshape", "slice", "reshape", "slice", "reshape"]);
}

#[test]
fn views_on_both_sides_of_a_cast_meet() {
    let found = canonical(
        "func @f(%x: f16[2, 4]) {
           %1 = reshape %x {shape=[2, 4, 1]} : f16[2, 4, 1]
           %2 = cast %1 : f32[2, 4, 1]
           %3 = reshape %2 {shape=[2, 4]} : f32[2, 4]
           return %3 \"y\"
         }",
    );
    assert_eq!(found, ["cast"]);
}

#[test]
fn equal_nodes_merge() {
    let found = canonical(
        "func @f(%x: f32[batch]) {
           %1 = exp %x : f32[batch]
           %2 = exp %x : f32[batch]
           %3 = add %1, %2 : f32[batch]
           return %3 \"y\"
         }",
    );
    assert_eq!(found, ["exp", "add"]);
}

/// Queries repeated to channels, times `states`.
fn read_out(states: &str) -> Vec<String> {
    let found = canonical(&format!(
        "func @f(%x: f32[5, 6, 4], %a: f32[5, 6, 4], %h0: f32[6, 4], %c: f32[2, 4, 5]) {{
           {states}
           %1 = broadcast %c {{axes=[0, 2, 3], shape=[2, 3, 4, 5]}} : f32[2, 3, 4, 5]
           %2 = reshape %1 {{shape=[6, 4, 5]}} : f32[6, 4, 5]
           %3 = contract[ten,ent->et] %h, %2 : f32[6, 5]
           return %3 \"y\"
         }}"
    ));
    found.into_iter().filter(|op| op.contains("->")).collect()
}

#[test]
fn merged_axes_of_products_are_taken_apart() {
    assert_eq!(read_out("%h = mul %x, %a : f32[5, 6, 4]"), ["abc,cadb,cadb->adc"]);
}

/// The scan that the loop becomes has the merged axis; a read-out with another one could not join it.
#[test]
fn merged_axes_of_states_stay() {
    let found = read_out(
        "%last, %h = loop %h0, %a, %x {n_carried=1, scan_axes=[0, 0], scan_reverse=[false, false], \
             stack_axes=[0], stack_reverse=[false], trip_count=5} : f32[6, 4], f32[5, 6, 4] {
           func @body(%i: i64[], %h: f32[6, 4], %a: f32[6, 4], %x: f32[6, 4]) {
             %1 = mul %a, %h : f32[6, 4]
             %2 = add %1, %x : f32[6, 4]
             return %2 \"h\", %2 \"all\"
           }
         }",
    );
    assert_eq!(found, ["abc,cab->ac"]);
}

#[test]
fn canonical_graphs_stay_as_they_are() {
    let text = "func @f(%x: f32[batch, seq_len, 4], %z: f32[batch, 4, seq_len], %c: f32[batch, 4]) {
           %1 = broadcast %c {axes=[0, 2], shape=[batch, seq_len, 4]} : f32[batch, seq_len, 4]
           %2 = mul %x, %1 : f32[batch, seq_len, 4]
           %3 = transpose %z {perm=[0, 2, 1]} : f32[batch, seq_len, 4]
           %4 = mul %2, %3 : f32[batch, seq_len, 4]
           %5 = mul %4, %x : f32[batch, seq_len, 4]
           %6 = reduce %5 {axes=[1]} : f32[batch, 4]
           return %5 \"y\", %6 \"s\"
         }";
    let (once, _) = optimized(text, &[CANONICAL]);
    let (twice, _) = optimized(text, &[CANONICAL, CANONICAL]);
    assert_eq!(once.graph.to_string(), twice.graph.to_string());
}

#[test]
fn a_buffer_that_is_written_slice_by_slice_is_one_concatenation() {
    let found = canonical(
        "func @f(%x: f32[batch, 1, 3], %y: f32[batch, 1, 3], %z: f32[batch, 1, 3], %buf: f32[batch, 3, 3]) {
           %1 = slice %buf {axis=1, start=1, len=2} : f32[batch, 2, 3]
           %2 = concat %x, %1 {axis=1} : f32[batch, 3, 3]
           %3 = slice %2 {axis=1, start=0, len=1} : f32[batch, 1, 3]
           %4 = slice %2 {axis=1, start=2, len=1} : f32[batch, 1, 3]
           %5 = concat %3, %y, %4 {axis=1} : f32[batch, 3, 3]
           %6 = slice %5 {axis=1, start=0, len=2} : f32[batch, 2, 3]
           %7 = concat %6, %z {axis=1} : f32[batch, 3, 3]
           return %7 \"y\"
         }",
    );
    assert_eq!(found, ["concat"]);
}

#[test]
fn concatenations_that_are_read_themselves_stay() {
    let found = canonical(
        "func @f(%x: f32[batch, 2, 3], %y: f32[batch, 1, 3]) {
           %1 = concat %x, %y {axis=1} : f32[batch, 3, 3]
           %2 = slice %1 {axis=1, start=1, len=2} : f32[batch, 2, 3]
           return %1 \"all\", %2 \"last\"
         }",
    );
    assert_eq!(found, ["concat", "slice"]);
}

#[test]
fn rows_scattered_in_order_are_stacked() {
    let text = |second: &str| {
        format!(
            "func @f(%x: f32[2, 3], %y: f32[2, 3], %buf: f32[4, 3]) {{
               %1 = constant {{data=[0, 2], dtype=i64, shape=[2]}} : i64[2]
               %2 = constant {{data=[{second}], dtype=i64, shape=[2]}} : i64[2]
               %3 = scatter %buf, %1, %x : f32[4, 3]
               %4 = scatter %3, %2, %y : f32[4, 3]
               return %4 \"y\"
             }}"
        )
    };
    assert!(!canonical(&text("1, -1")).contains(&"scatter".to_string()));
    assert!(canonical(&text("1, 2")).contains(&"scatter".to_string()));
}
