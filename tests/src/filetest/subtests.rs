//! What can be done with a graph.

use super::header::Header;
use ssmc_ir::edit::substitute;
use ssmc_ir::{Dim, Graph, Model, Stage, Symbol, TextError, parse};
use ssmc_passes::egraph::{self, RewriteOptions};
use ssmc_passes::manager::Manager;
use ssmc_passes::pipeline::{CANONICAL, RAISED};
use ssmc_passes::rules;
use std::collections::BTreeMap;

/// Marks the line of a fault.
const ERROR: &str = ";; error: ";

pub(super) fn valid(text: &str) -> Result<Graph, String> {
    let list = |faults: Vec<TextError>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let graph = parse(text).map_err(list)?;
    let faults: Vec<String> =
        ssmc_ir::verify(&graph, Stage::Rewritten).iter().map(ToString::to_string).collect();
    if faults.is_empty() { Ok(graph) } else { Err(faults.join("\n")) }
}

fn print(graph: &Graph) -> Vec<String> {
    graph.to_string().lines().map(str::to_owned).collect()
}

/// The graph as it is printed; printing and parsing it again changes nothing.
pub(super) fn cat(text: &str) -> Result<Vec<String>, String> {
    let graph = valid(text)?;
    if valid(&graph.to_string())? != graph {
        return Err(format!("printing and parsing changes\n{graph}"));
    }
    Ok(print(&graph))
}

/// Every fault stands in its line, and no other is there. Faults of a whole graph against the rules of a stage have
/// no line of their own: their codes are those that remain.
pub(super) fn verify(text: &str, stage: Stage) -> Result<(), String> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let mut expected: Vec<(usize, &str)> =
        lines.filter_map(|(i, line)| Some((i, line.split_once(ERROR)?.1.trim()))).collect();
    let mut surplus = Vec::new();
    let mut settle = |line: Option<usize>, code: &str, fault: String| {
        let same = |place: &&(usize, &str)| place.1 == code && line.is_none_or(|line| line == place.0);
        match expected.iter().position(|place| same(&place)) {
            Some(i) => drop(expected.remove(i)),
            None => surplus.push(format!("{code}: {fault}")),
        }
    };
    match parse(text) {
        Err(faults) => {
            faults.iter().for_each(|fault| settle(Some(fault.line as usize), fault.code, fault.to_string()));
        }
        Ok(graph) => {
            ssmc_ir::verify(&graph, stage)
                .iter()
                .for_each(|fault| settle(None, fault.code, fault.to_string()));
        }
    }
    if expected.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = expected.iter().map(|(line, code)| format!("line {line}: {code}")).collect();
    Err(format!("not found:\n{}\nnot expected:\n{}", missing.join("\n"), surplus.join("\n")))
}

/// The graph after the passes up to stage `canonical`.
pub(super) fn canonical(text: &str) -> Result<Vec<String>, String> {
    let mut model = Model { graph: valid(text)?, ..Model::default() };
    Manager::new().verify_each(true).run(&mut model, &[CANONICAL]).map_err(|error| error.to_string())?;
    Ok(print(&model.graph))
}

/// The graph after the passes up to stage `raised`, and what they say about it.
pub(super) fn raised(text: &str) -> Result<Vec<String>, String> {
    let mut model = Model { graph: valid(text)?, ..Model::default() };
    let report = Manager::new()
        .verify_each(true)
        .run(&mut model, &[CANONICAL, RAISED])
        .map_err(|error| error.to_string())?;
    let mut lines = print(&model.graph);
    lines.extend(report.remarks.iter().map(|remark| format!("remark: {remark}")));
    Ok(lines)
}

/// The graph after rewriting with all rules, or with the one that the header names, which must fire or not as it says.
pub(super) fn rewritten(text: &str, header: &Header) -> Result<Vec<String>, String> {
    let mut options = RewriteOptions::default();
    if !header.rule.is_empty() {
        let others = rules::all().filter(|rule| rule.name != header.rule);
        let exactly = |rule: &rules::Rule| regex::Regex::new(&format!("^{}$", regex::escape(rule.name)));
        options.disabled_rules = others.map(exactly).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        if rules::named(&header.rule).is_none() {
            return Err(format!("header: rule: there is no {:?}", header.rule));
        }
    }
    let rewritten = egraph::rewrite(&valid(text)?, &options).map_err(|error| error.to_string())?;
    let fired = rewritten.report.fired.contains_key(header.rule.as_str());
    if !header.rule.is_empty() && fired != header.fires {
        let (rule, not) = (&header.rule, if fired { "" } else { " not" });
        return Err(format!("rule {rule}: expected fires = {}, but it has{not} fired", header.fires));
    }
    Ok(print(&rewritten.graph))
}

/// Why the fused ops of a graph equal what they replace. Every step is replayed.
pub(super) fn explained(text: &str) -> Result<Vec<String>, String> {
    const SEED: u64 = 1;
    let explanations = egraph::explain(&valid(text)?, &RewriteOptions::default());
    let mut lines = Vec::new();
    for explanation in explanations.map_err(|error| error.to_string())? {
        lines.push(explanation.fused.join(", "));
        for step in &explanation.steps {
            let arrow = if step.is_backward { "<-" } else { "->" };
            lines.push(format!("  {arrow} {}: {}", step.rule, step.term));
        }
        egraph::check(&explanation, SEED).map_err(|error| error.to_string())?;
    }
    if lines.is_empty() { Err("nothing was fused".into()) } else { Ok(lines) }
}

/// Lines `infer: SYMBOL=SIZE ..`, each with the types of all results for these sizes, or with the fault.
pub(super) fn inferred(text: &str, expected: &[&str]) -> Result<Vec<String>, String> {
    let graph = valid(text)?;
    let mut lines = Vec::new();
    for line in expected.iter().filter(|line| line.starts_with("infer:")) {
        let mut sizes = BTreeMap::new();
        for part in line["infer:".len()..].split_whitespace() {
            let (name, size) = part.split_once('=').ok_or_else(|| format!("{line}: expected SYMBOL=SIZE"))?;
            let dim = size.parse::<i64>().map_or_else(|_| Dim::symbol(size), Dim::from);
            sizes.insert(Symbol::new(name), dim);
        }
        lines.push((*line).to_owned());
        match substitute(&graph, &sizes) {
            Err(fault) => lines.push(format!("=> fault: {fault}")),
            Ok(sized) => {
                let results =
                    sized.nodes().flat_map(|(_, node)| node.results.iter().map(|v| (node.op.name(), *v)));
                lines.extend(results.map(|(op, v)| format!("=> {v}: {} ({op})", sized.ty(v))));
            }
        }
    }
    if lines.is_empty() { Err("expected a line \";; infer: SYMBOL=SIZE\"".into()) } else { Ok(lines) }
}
