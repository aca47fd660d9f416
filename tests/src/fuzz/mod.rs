//! What is fuzzed: bytes of a model file go in, and nothing may panic, hang or fill the memory.
//!
//! The targets of `fuzz/` (cargo-fuzz), the test that replays the seeds and the tool `ssmc-fuzz` all call these.

mod mutate;
mod seeds;

pub use mutate::Mutator;
pub use seeds::{FOLDER, seeds};

use ssmc_frontend::onnx::import;
use ssmc_ir::{Model, Stage, verify, verify_weights};
use ssmc_passes::egraph::{RewriteOptions, rewrite};
use ssmc_passes::manager::{Manager, ManagerError};
use ssmc_passes::pipeline::PHASES;
use std::fs;
use std::path::{Path, PathBuf};

/// A target by name.
pub type Target = (&'static str, fn(&Fuzzer, &[u8]));

/// All targets.
pub const TARGETS: &[Target] =
    &[("onnx", Fuzzer::onnx), ("external", Fuzzer::external), ("raise", Fuzzer::raise)];

/// The most nodes that are raised: compiling takes time that grows with them, which is no hang.
const MAX_NODES: usize = 4_000;

/// A folder with a model and what it may refer to.
pub struct Fuzzer {
    folder: PathBuf,
    _dir: tempfile::TempDir,
}

impl Fuzzer {
    /// Makes the folder: data beside the model, links that leave it, and files outside.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn new() -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().join("model");
        fs::create_dir_all(folder.join("sub"))?;
        let data: Vec<u8> = (0u8..64).collect();
        for file in ["model/w.bin", "model/sub/w.bin", "outside.bin", "model/twice.bin"] {
            fs::write(dir.path().join(file), &data)?;
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path().join("outside.bin"), folder.join("link.bin"))?;
            std::os::unix::fs::symlink(dir.path(), folder.join("link"))?;
            fs::hard_link(folder.join("twice.bin"), folder.join("hard.bin"))?;
        }
        Ok(Self { folder, _dir: dir })
    }

    /// Decoding and importing.
    pub fn onnx(&self, bytes: &[u8]) {
        self.model(bytes);
    }

    /// Data outside the model file: what lies outside its folder is in no weight.
    pub fn external(&self, bytes: &[u8]) {
        let Some(model) = self.model(bytes) else { return };
        for (name, weight) in model.weights.iter() {
            let size = weight.ty.shape.n_elems().as_const().and_then(|n| usize::try_from(n).ok());
            let expected = size.and_then(|n| n.checked_mul(weight.ty.dtype.bits()));
            let found = weight.bytes.as_slice().len();
            assert_eq!(
                expected.map(|bits| bits.div_ceil(8)),
                Some(found),
                "weight {name} has the bytes of its type"
            );
        }
    }

    /// Importing, the passes up to stage `raised`, and rewriting.
    pub fn raise(&self, bytes: &[u8]) {
        let Some(mut model) = self.model(bytes).filter(|m| m.graph.nodes().len() <= MAX_NODES) else {
            return;
        };
        match Manager::new().verify_each(true).run(&mut model, PHASES) {
            Ok(_) => {}
            Err(error @ ManagerError::Invalid { .. }) => panic!("{error}"),
            Err(_) => return,
        }
        let options = RewriteOptions { iteration_limit: 8, node_limit: 4_000, ..RewriteOptions::default() };
        if let Ok(rewritten) = rewrite(&model.graph, &options) {
            let faults = verify(&rewritten.graph, Stage::Rewritten);
            assert!(faults.is_empty(), "rewriting leaves a valid graph: {faults:?}");
        }
    }

    /// The model of these bytes, which the importer has found valid; `None` if it refuses them.
    fn model(&self, bytes: &[u8]) -> Option<Model> {
        let path = self.folder.join("model.onnx");
        fs::write(&path, bytes).expect("the folder can be written to");
        let model = import(&path).ok()?;
        let mut faults = verify(&model.graph, Stage::Imported);
        faults.extend(verify_weights(&model.graph, &model.weights));
        assert!(faults.is_empty(), "what is imported is valid: {faults:?}");
        Some(model)
    }

    /// The folder of the model.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

#[cfg(test)]
mod tests;
