//! What can be done with a graph.

use ssmc_ir::{Graph, Model, Stage, TextError, parse};
use ssmc_passes::egraph::{self, RewriteOptions};
use ssmc_passes::manager::Manager;
use ssmc_passes::pipeline::CANONICAL;

/// Marks the line of a fault.
const ERROR: &str = ";; error: ";

fn valid(text: &str) -> Result<Graph, String> {
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

/// The graph after rewriting.
pub(super) fn rewritten(text: &str) -> Result<Vec<String>, String> {
    let rewritten =
        egraph::rewrite(&valid(text)?, &RewriteOptions::default()).map_err(|error| error.to_string())?;
    Ok(print(&rewritten.graph))
}
