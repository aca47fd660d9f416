use crate::pipeline::PHASES;
use crate::testing::optimized;
use std::fmt::Write;

/// RWKV-4 written out over `n` steps, with a bonus or without one.
fn unrolled(n: usize, is_bonus: bool) -> String {
    let mut text = format!(
        r#"func @f(%k: f32[2, {n}, 3], %v: f32[2, {n}, 3]) {{
    %wc = weight {{name="w", shape=[3]}} : f32[3]
    %w = broadcast %wc {{axes=[1], shape=[2, 3]}} : f32[2, 3]
    %uc = weight {{name="u", shape=[3]}} : f32[3]
    %u = broadcast %uc {{axes=[1], shape=[2, 3]}} : f32[2, 3]
    %0 = constant {{data=[0.0], shape=[]}} : f32[]
    %n_0 = broadcast %0 {{shape=[2, 3]}} : f32[2, 3]
    %low = constant {{data=[-1e38], shape=[]}} : f32[]
    %m_0 = broadcast %low {{shape=[2, 3]}} : f32[2, 3]
"#
    );
    let ty = "f32[2, 3]";
    let mut outputs = Vec::new();
    for t in 0..n {
        let d = if t == 0 { "n_0".to_owned() } else { format!("d_{t}") };
        let next = t + 1;
        for x in ["k", "v"] {
            writeln!(text, "    %{x}s_{t} = slice %{x} {{axis=1, len=1, start={t}}} : f32[2, 1, 3]").unwrap();
            writeln!(text, "    %{x}_{t} = reshape %{x}s_{t} {{shape=[2, 3]}} : {ty}").unwrap();
        }
        let step = format!(
            "    %mw_{t} = add %m_{t}, %w : {ty}
    %m_{next} = max %mw_{t}, %k_{t} : {ty}
    %ea_{t} = sub %mw_{t}, %m_{next} : {ty}
    %a_{t} = exp %ea_{t} : {ty}
    %eb_{t} = sub %k_{t}, %m_{next} : {ty}
    %b_{t} = exp %eb_{t} : {ty}
    %an_{t} = mul %a_{t}, %n_{t} : {ty}
    %bv_{t} = mul %b_{t}, %v_{t} : {ty}
    %n_{next} = add %an_{t}, %bv_{t} : {ty}
    %ad_{t} = mul %a_{t}, %{d} : {ty}
    %d_{next} = add %ad_{t}, %b_{t} : {ty}\n"
        );
        let bonus = format!(
            "    %uk_{t} = add %k_{t}, %u : {ty}
    %q_{t} = max %m_{t}, %uk_{t} : {ty}
    %ec_{t} = sub %m_{t}, %q_{t} : {ty}
    %c_{t} = exp %ec_{t} : {ty}
    %ee_{t} = sub %uk_{t}, %q_{t} : {ty}
    %e_{t} = exp %ee_{t} : {ty}
    %cn_{t} = mul %c_{t}, %n_{t} : {ty}
    %ev_{t} = mul %e_{t}, %v_{t} : {ty}
    %num_{t} = add %cn_{t}, %ev_{t} : {ty}
    %cd_{t} = mul %c_{t}, %{d} : {ty}
    %den_{t} = add %cd_{t}, %e_{t} : {ty}
    %y_{t} = div %num_{t}, %den_{t} : {ty}\n"
        );
        text.push_str(&step);
        if is_bonus {
            text.push_str(&bonus);
        } else {
            writeln!(text, "    %y_{t} = div %n_{next}, %d_{next} : {ty}").unwrap();
        }
        writeln!(text, "    %p_{t} = reshape %y_{t} {{shape=[2, 1, 3]}} : f32[2, 1, 3]").unwrap();
        outputs.push(format!("%p_{t}"));
    }
    writeln!(text, "    %y = concat {} {{axis=1}} : f32[2, {n}, 3]", outputs.join(", ")).unwrap();
    text.push_str("    return %y \"y\"\n}");
    text
}

fn ops(text: &str) -> Vec<&'static str> {
    let (model, _) = optimized(text, PHASES);
    model.graph.nodes().map(|(_, node)| node.op.name()).collect()
}

#[test]
fn means_are_one_scan() {
    for is_bonus in [false, true] {
        let ops = ops(&unrolled(5, is_bonus));
        assert_eq!(ops.iter().filter(|op| **op == "ssm.wkv").count(), 1, "{ops:?}");
        assert!(!ops.contains(&"exp") && !ops.contains(&"concat"), "{ops:?}");
    }
}

#[test]
fn what_differs_in_a_step_stays() {
    let text = unrolled(5, true);
    let spoiled = [
        ("%uk_3 = add %k_3, %u", "%uk_3 = add %k_3, %w"),
        ("%mw_2 = add %m_2, %w", "%mw_2 = add %m_2, %u"),
        ("%bv_2 = mul %b_2, %v_2", "%bv_2 = mul %b_2, %v_1"),
        ("%cd_3 = mul %c_3, %d_3", "%cd_3 = mul %c_3, %n_3"),
        ("%p_1, %p_2", "%p_2, %p_1"),
    ];
    for (from, to) in spoiled {
        assert!(text.contains(from), "{from}");
        assert!(!ops(&text.replace(from, to)).contains(&"ssm.wkv"), "{to}");
    }
}
