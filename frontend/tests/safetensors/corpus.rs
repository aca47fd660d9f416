//! The checkpoints of the corpus: imported, and evaluated against their reference outputs.

use ssmc_frontend::safetensors::{ImportOptions, import_dir};
use ssmc_ir::stage::Stage;
use ssmc_ir::verify::verify;
use ssmc_ir::{DType, Model};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A checkpoint: folder, family, layers, logits per position, stored element type, codes of its warnings.
pub(super) struct Case {
    pub(super) name: &'static str,
    family: &'static str,
    n_layers: usize,
    n_rows: i64,
    storage: DType,
    warnings: &'static [&'static str],
}

const fn case(
    name: &'static str,
    family: &'static str,
    n_layers: usize,
    n_rows: i64,
    storage: DType,
) -> Case {
    Case { name, family, n_layers, n_rows, storage, warnings: &[] }
}

pub(super) const CASES: [Case; 7] = [
    case("ckpt_mamba", "mamba", 3, 256, DType::F32),
    case("ckpt_mamba_tokenizer", "mamba", 3, 384, DType::F32),
    case("ckpt_mamba_bf16_sharded", "mamba", 3, 256, DType::BF16),
    case("ckpt_falcon_mamba", "falcon_mamba", 2, 256, DType::F32),
    case("ckpt_mamba2", "mamba2", 3, 256, DType::F32),
    case("ckpt_mamba2_f16", "mamba2", 3, 256, DType::F16),
    Case {
        warnings: &["ssmc::import::config_disagrees"],
        ..case("ckpt_mamba_ssm_original", "mamba_ssm", 3, 256, DType::F32)
    },
];

/// Folders that ssmc does not import yet; each is refused by its `model_type`.
const UNSUPPORTED: [&str; 9] = [
    "ckpt_bamba",
    "ckpt_falcon_h1_mup",
    "ckpt_jamba",
    "ckpt_lfm2",
    "ckpt_nemotron_h",
    "ckpt_olmo_hybrid",
    "ckpt_rwkv",
    "ckpt_xlstm",
    "ckpt_zamba2",
];

/// The folder of the corpus; without it the test is skipped, and says so.
pub(super) fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("SSMC_CORPUS").map(PathBuf::from);
    if folder.is_none() {
        // Not by a macro, whose output the test harness keeps to itself.
        io::stderr().write_all(b"SKIPPED: set SSMC_CORPUS to the folder of the corpus\n").unwrap();
    }
    folder
}

pub(super) fn import(dir: &Path) -> Model {
    import_dir(dir, &ImportOptions::default()).unwrap()
}

#[test]
fn checkpoints_import() {
    let Some(corpus) = corpus() else { return };
    for case in &CASES {
        let dir = corpus.join(case.name);
        let model = import(&dir);
        let name = case.name;
        assert_eq!(model.meta.family, case.family, "{name}");
        let codes: Vec<_> = model.warnings.iter().map(|d| d.code).collect();
        assert_eq!(codes, case.warnings, "{name}");
        let output = |output: &str| model.graph.ty(model.graph.output(output).unwrap()).to_string();
        assert_eq!(output("logits"), format!("f32[batch, seq_len, {}]", case.n_rows), "{name}");
        assert_eq!(output("logits_last"), format!("f32[batch, {}]", case.n_rows), "{name}");
        assert_eq!(model.graph.inputs().len(), 2 + 2 * case.n_layers, "{name}");
        let names = |ports: &[ssmc_ir::Port]| ports[2..].iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(model.graph.inputs()), names(model.graph.outputs()), "{name}");
        for (input, output) in model.graph.inputs()[2..].iter().zip(&model.graph.outputs()[2..]) {
            assert_eq!(model.graph.ty(input.value), model.graph.ty(output.value), "{name} {}", input.name);
        }
        let scans = model.graph.nodes().filter(|(_, n)| n.op.name() == "ssm.scan").count();
        assert_eq!(scans, case.n_layers, "{name}");
        assert_eq!(verify(&model.graph, Stage::Imported), [], "{name}");
        assert!(model.weights.iter().all(|(_, w)| w.ty.dtype == case.storage), "{name}");
        assert_eq!(model.meta.tokenizer.is_some(), name == "ckpt_mamba_tokenizer");
    }
}

#[test]
fn other_families_are_refused_by_name() {
    let Some(corpus) = corpus() else { return };
    for name in UNSUPPORTED {
        let error = import_dir(&corpus.join(name), &ImportOptions::default()).unwrap_err();
        let codes: Vec<_> = error.faults().iter().map(|d| d.code).collect();
        assert_eq!(codes, ["ssmc::import::unsupported_config"], "{name}: {error}");
        assert!(error.faults()[0].message.contains("model_type"), "{name}: {error}");
    }
}
