//! One test: compile, run, compare.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ssmc_npz::Array;

use super::archive::{Set, Test};
use super::proto::{self, Given, Model, Port};
use crate::{Result, process};

/// The programs that a test needs.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) ssmc: PathBuf,
    pub(super) runner: PathBuf,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Passed with inputs that say how a node works given when compiling.
    PassGiven,
    Fail(String),
    Unsupported(String),
    /// Not for this compiler, and why.
    OutOfScope(&'static str),
}

/// Exit code of `ssmc` for what it does not support.
pub(super) const UNSUPPORTED: i32 = 3;
/// The tolerances of the package's own runner.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

/// What a model is that this compiler is not for.
pub(super) fn out_of_scope(test: &Test, model: &Model) -> Option<&'static str> {
    const RANDOM: &[&str] = &[
        "Bernoulli",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
    ];
    let any = |f: &dyn Fn(&str, &str) -> bool| model.nodes.iter().any(|(domain, op)| f(domain, op));
    if model.opset < 7 {
        Some("operator sets before version 7")
    } else if any(&|domain, _| domain.starts_with("ai.onnx.ml")) {
        Some("operators of ai.onnx.ml")
    } else if any(&|domain, _| domain.starts_with("ai.onnx.preview")) {
        Some("preview and training operators")
    } else if test.name.contains("training_dropout")
        || test.name.contains("dropout_random")
        || (test.name.starts_with("test_batchnorm") && test.name.contains("training_mode"))
    {
        Some("training")
    } else if model.has_strings() || any(&|_, op| op.starts_with("String") || op.starts_with("Regex")) {
        Some("strings")
    } else if any(&|_, op| op == "ImageDecoder") {
        Some("image files")
    } else if any(&|_, op| RANDOM.contains(&op)) {
        Some("random numbers")
    } else {
        None
    }
}

/// Runs a test.
pub(super) fn run(test: &Test, tools: &Tools) -> Verdict {
    attempt(test, tools).unwrap_or_else(|error| Verdict::Fail(error.to_string()))
}

fn attempt(test: &Test, tools: &Tools) -> Result<Verdict> {
    let model = Model::parse(test.model.clone())?;
    if let Some(reason) = out_of_scope(test, &model) {
        return Ok(Verdict::OutOfScope(reason));
    }
    over_sets(test, &model, is_about_values, |set, given| run_set(&model, set, tools, given))
}

/// Runs every set of inputs, once more with those given that say how a node works if a reason is `helped` by that.
pub(super) fn over_sets(
    test: &Test,
    model: &Model,
    helped: impl Fn(&str) -> bool,
    run: impl Fn(&Set, &[usize]) -> Result<Verdict>,
) -> Result<Verdict> {
    let mut verdict = Verdict::Pass;
    for set in &test.sets {
        match run(set, &[])? {
            Verdict::Pass if !model.has_structure() => {}
            // How many tensors a sequence has, and whether there is an optional value, is given in any case.
            Verdict::Pass => verdict = Verdict::PassGiven,
            Verdict::Unsupported(reason) | Verdict::Fail(reason) if helped(&reason) => {
                let given = parameters(model, set)?;
                match run(set, &given)? {
                    Verdict::Pass => verdict = Verdict::PassGiven,
                    other => return Ok(other),
                }
            }
            other => return Ok(other),
        }
    }
    Ok(verdict)
}

/// Whether the compiler misses the value of an input.
fn is_about_values(reason: &str) -> bool {
    reason.contains("must be known when compiling") || reason.contains("cannot prove that")
}

/// Inputs that may say how a node works, by position.
fn parameters(model: &Model, set: &Set) -> Result<Vec<usize>> {
    let mut given = Vec::new();
    for (i, input) in set.inputs.iter().enumerate() {
        let is_tensor = |port: &Port| port.elem.is_some() && !port.is_sequence && !port.is_optional;
        if model.inputs.get(i).is_some_and(is_tensor) && proto::is_parameter(input)? {
            given.push(i);
        }
    }
    Ok(given)
}

/// Compiles and runs with the inputs `given` as constants of the model.
fn run_set(model: &Model, set: &Set, tools: &Tools, given: &[usize]) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let (file, artefact) = (folder.path().join("model.onnx"), folder.path().join("model.ssmc"));
    write_model(&file, model, set, given)?;
    let mut command = Command::new(&tools.ssmc);
    command.arg("compile").arg(&file).arg("-o").arg(&artefact);
    command.args(["--no-golden", "--target-cpu", "x86-64-v3"]);
    let mut inputs: Vec<(String, Array)> = Vec::new();
    for (i, (port, bytes)) in model.inputs.iter().zip(&set.inputs).enumerate() {
        if given.contains(&i) {
            continue;
        }
        match port.given(bytes)? {
            Given::Tensors(tensors) => {
                if port.is_sequence && tensors.is_empty() {
                    command.args(["--input-shapes", &format!("{}:-", port.name)]);
                }
                // A tensor beside a sequence has the extents of its tensors in no provable way.
                if model.has_structure() {
                    for (name, array) in &tensors {
                        let shape: Vec<String> = array.shape.iter().map(usize::to_string).collect();
                        command.args(["--input-shapes", &format!("{name}:{}", shape.join(","))]);
                    }
                }
                inputs.extend(tensors);
            }
            Given::Absent => {
                command.args(["--input-shapes", &format!("{}:-", port.name)]);
            }
            Given::OtherElements => {
                let reason = format!("input {}: its element type is in no file of arrays", port.name);
                return Ok(Verdict::Unsupported(reason));
            }
        }
    }
    let done = process::run(&mut command)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    match done.status.code() {
        Some(0) => {}
        Some(UNSUPPORTED) => return Ok(Verdict::Unsupported(reason(&said))),
        Some(code) => return Ok(Verdict::Fail(format!("compile ends with {code}: {}", reason(&said)))),
        None => return Ok(Verdict::Fail(format!("compile: {}", done.status))),
    }
    execute(model, set, tools, folder.path(), &artefact, &inputs)
}

/// Writes the model with the inputs `given` as constants.
pub(super) fn write_model(file: &Path, model: &Model, set: &Set, given: &[usize]) -> Result<()> {
    let constants: Vec<(&str, &[u8])> =
        given.iter().map(|i| (model.inputs[*i].name.as_str(), set.inputs[*i].as_slice())).collect();
    let bytes = if constants.is_empty() { model.bytes.clone() } else { model.with_constants(&constants) };
    Ok(fs::write(file, bytes)?)
}

fn execute(
    model: &Model,
    set: &Set,
    tools: &Tools,
    folder: &Path,
    artefact: &Path,
    inputs: &[(String, Array)],
) -> Result<Verdict> {
    let (from, to) = (folder.join("in.npz"), folder.join("out.npz"));
    ssmc_npz::write(&from, inputs.iter().map(|(name, array)| (name.as_str(), array)))?;
    let done = process::run(Command::new(&tools.runner).arg(artefact).arg("run").arg(&from).arg(&to))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Ok(Verdict::Fail(format!("run: {}: {}", done.status, reason(&said))));
    }
    against(model, set, &ssmc_npz::read(&to)?)
}

/// Whether the outputs are those of the test.
pub(super) fn against(model: &Model, set: &Set, found: &BTreeMap<String, Array>) -> Result<Verdict> {
    for (port, bytes) in model.outputs.iter().zip(&set.outputs) {
        let expected = match port.given(bytes)? {
            Given::Tensors(expected) => expected,
            Given::Absent => Vec::new(),
            Given::OtherElements => {
                let reason = format!("output {}: its element type is in no file of arrays", port.name);
                return Ok(Verdict::Unsupported(reason));
            }
        };
        let next = format!("{}.{}", port.name, expected.len());
        if port.is_sequence && found.contains_key(&next) {
            return Ok(Verdict::Fail(format!("output {next}: expected none, found one")));
        }
        for (name, array) in &expected {
            if let Some(fault) = difference(found, name, array) {
                return Ok(Verdict::Fail(fault));
            }
        }
    }
    Ok(Verdict::Pass)
}

/// How an output differs from what was expected.
fn difference(found: &BTreeMap<String, Array>, name: &str, expected: &Array) -> Option<String> {
    let Some(found) = found.get(name) else { return Some(format!("output {name} is missing")) };
    if (found.dtype, &found.shape) != (expected.dtype, &expected.shape) {
        let ty = |array: &Array| format!("{}{:?}", array.dtype.descr(), array.shape);
        return Some(format!("output {name}: expected {}, found {}", ty(expected), ty(found)));
    }
    let (found, expected) = (found.to_f64(), expected.to_f64());
    let close =
        |x: f64, y: f64| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= ATOL + RTOL * y.abs();
    let bad = found.iter().zip(&expected).position(|(x, y)| !close(*x, *y))?;
    Some(format!("output {name}: expected {}, found {} at element {bad}", expected[bad], found[bad]))
}

/// The first line of a message that says what is wrong, without the file's place.
pub(super) fn reason(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let fault = lines
        .iter()
        .find(|line| line.contains("node \"") || line.contains("input \"") || line.contains("output \""));
    let line = fault.or(lines.first()).copied().unwrap_or("no message");
    let place = line.find(" model.onnx: ").map(|at| at + " model.onnx: ".len());
    line[place.unwrap_or(0)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(values: &[f32]) -> BTreeMap<String, Array> {
        BTreeMap::from([("y".to_owned(), Array::f32s(&[values.len()], values))])
    }

    #[test]
    fn outputs_are_compared_as_the_package_does() {
        let expected = Array::f32s(&[2], &[1.0, f32::NAN]);
        assert_eq!(difference(&outputs(&[1.0009, f32::NAN]), "y", &expected), None);
        assert!(difference(&outputs(&[1.002, f32::NAN]), "y", &expected).unwrap().contains("element 0"));
        assert!(difference(&outputs(&[1.0, 1.0]), "y", &expected).unwrap().contains("element 1"));
        assert!(difference(&outputs(&[1.0]), "y", &expected).unwrap().contains("found <f4[1]"));
        assert!(difference(&outputs(&[1.0]), "z", &expected).unwrap().contains("missing"));
    }
}
