//! Which importer a path goes to.

use ssmc_frontend::safetensors::ImportOptions;
use ssmc_frontend::{ImportError, import};
use std::fs;

#[test]
fn files_of_other_formats_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["model.safetensors", "model.gguf"] {
        let path = folder.path().join(name);
        fs::write(&path, b"?").expect("a file");
        let error = import(&path, &ImportOptions::default()).expect_err("no ONNX file");
        assert!(matches!(error, ImportError::UnknownFormat { .. }), "{error}");
    }
}

#[test]
fn a_folder_goes_to_the_checkpoint_importer_and_a_file_to_onnx() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = import(folder.path(), &ImportOptions::default()).expect_err("an empty folder");
    assert!(error.to_string().contains("config.json"), "{error}");
    let file = folder.path().join("model.onnx");
    fs::write(&file, b"?").expect("a file");
    let error = import(&file, &ImportOptions::default()).expect_err("one byte");
    assert!(error.to_string().contains("ONNX"), "{error}");
}
