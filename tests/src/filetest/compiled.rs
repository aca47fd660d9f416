//! Graphs of run lines as machine code: every stage, an artefact, a session.

use super::header::Header;
use ssmc_codegen::assemble::{ArtifactInput, Kernels, ProgramInput, write};
use ssmc_codegen::target::{CpuLevel, CpuTarget, Target};
use ssmc_ir::{DType, Graph, Model, Tensor};
use ssmc_passes::egraph::{RewriteOptions, rewrite};
use ssmc_passes::manager::Manager;
use ssmc_passes::partition::partition;
use ssmc_passes::pipeline::PHASES;
use ssmc_runtime::{Artifact, Session, SessionOptions, Tensor as Buffer};
use std::collections::BTreeMap;

/// What compiled code may differ by, as part of the largest magnitude: f32 arithmetic in another order.
const TOLERANCE: f64 = 1e-5;

/// A session of the compiled graph; none where the header says why not.
pub(super) struct Compiled(Option<Session>);

impl Compiled {
    pub(super) fn new(graph: &Graph, header: &Header) -> Result<Self, String> {
        if !header.not_compiled.is_empty() {
            return Ok(Self(None));
        }
        let text = |error: &dyn std::fmt::Display| format!("compiling: {error}");
        let mut model = Model { graph: graph.clone(), ..Model::default() };
        // What is fused already has been rewritten: the passes before are for primitive ops.
        if ssmc_ir::verify(graph, ssmc_ir::Stage::Imported).is_empty() {
            Manager::new().run(&mut model, PHASES).map_err(|e| text(&e))?;
            let options = RewriteOptions::default();
            model.graph = rewrite(&model.graph, &options).map_err(|e| text(&e))?.graph;
        }
        let plan = partition(&model.graph).map_err(|e| text(&e))?;
        let program =
            ProgramInput { name: "f", plan: &plan, gpu_plan: None, weights: &model.weights, states: &[] };
        let level = CpuLevel::host().ok_or("compiling: the machine has no known level")?;
        let kernels =
            Kernels::lower(&[program], &[Target::Cpu(CpuTarget::of_level(level))]).map_err(|e| text(&e))?;
        let dir = tempfile::tempdir().map_err(|e| text(&e))?;
        let path = dir.path().join("f.ssmc");
        write(&path, &kernels, ArtifactInput::default(), &mut |_, _, _| {}).map_err(|e| text(&e))?;
        let artifact = Artifact::open(&path).map_err(|e| text(&e))?;
        let session = Session::new(&artifact, &SessionOptions { threads: 1, ..SessionOptions::default() });
        Ok(Self(Some(session.map_err(|e| text(&e))?)))
    }

    /// Runs the code and compares its outputs with the interpreter's.
    pub(super) fn check(
        &mut self,
        inputs: &BTreeMap<String, Tensor>,
        expected: &BTreeMap<String, Tensor>,
    ) -> Result<(), String> {
        let Some(session) = &mut self.0 else { return Ok(()) };
        let known: Vec<String> = session
            .program("f")
            .map_err(|error| error.to_string())?
            .inputs
            .iter()
            .map(|info| info.name.clone())
            .collect();
        let mut buffers = Vec::new();
        // An input that nothing reads is none of the program's.
        for (name, tensor) in inputs.iter().filter(|(name, _)| known.contains(name)) {
            let dtype = (1..=21)
                .filter_map(|number| ssmc_runtime::DType::try_from(number).ok())
                .find(|dtype| dtype.name() == tensor.dtype().name())
                .ok_or_else(|| format!("{name}: no such element type"))?;
            let buffer = Buffer::from_bytes(dtype, tensor.shape(), &tensor.to_bytes());
            buffers.push((name, buffer.map_err(|error| error.to_string())?));
        }
        let views: Vec<_> = buffers.iter().map(|(name, buffer)| (name.as_str(), buffer.view())).collect();
        let outputs = session.run("f", &views).map_err(|error| error.to_string())?;
        for (name, buffer) in outputs.iter() {
            let expected = expected.get(name).ok_or_else(|| format!("{name}: not expected"))?;
            let dtype = DType::parse(buffer.dtype().name()).ok_or("an unknown element type")?;
            let found =
                Tensor::from_bytes(dtype, buffer.dims(), buffer.bytes()).map_err(|e| e.to_string())?;
            compare(&expected.to_f64(), &found.to_f64()).map_err(|fault| format!("{name}: {fault}"))?;
        }
        Ok(())
    }
}

fn compare(expected: &[f64], found: &[f64]) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("expected {} elements, found {}", expected.len(), found.len()));
    }
    let peak = expected.iter().filter(|x| x.is_finite()).fold(0f64, |peak, x| peak.max(x.abs()));
    for (i, (x, y)) in expected.iter().zip(found).enumerate() {
        let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= TOLERANCE * peak;
        if !same {
            return Err(format!("element {i}: expected {x}, found {y}"));
        }
    }
    Ok(())
}
