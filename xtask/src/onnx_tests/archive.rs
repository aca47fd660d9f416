//! The tests in a wheel of the `onnx` package.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use regex::Regex;
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::{Result, process};

/// Where `scripts/onnx-node-tests.sh` puts the wheel.
const CACHE: &str = "target/onnx-node-tests";
/// The digest of the wheel whose tests the list of the repository is about.
const SHA256: &str = "1d0a2bdb15eb2b3cb65c438f3423d9620d14fdce32f92380e6bb1b2e09568ef5";

/// One test: a model and sets of inputs and outputs in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) model: Vec<u8>,
    pub(super) sets: Vec<Set>,
}

/// Messages of the inputs and outputs of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    pub(super) inputs: Vec<Vec<u8>>,
    pub(super) outputs: Vec<Vec<u8>>,
}

/// The wheel that was asked for, or the one that the script has fetched.
pub(super) fn wheel(asked: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.into());
    }
    let folder = process::root().join(CACHE);
    let wheels = fs::read_dir(&folder)
        .map_err(|_| "no wheel: run scripts/onnx-node-tests.sh, or name one by --wheel")?;
    for entry in wheels {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            let digest = Sha256::digest(fs::read(&path)?);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            if hex != SHA256 {
                return Err(format!("{}: expected sha256 {SHA256}, found {hex}", path.display()).into());
            }
            return Ok(path);
        }
    }
    Err(format!("no wheel in {}", folder.display()).into())
}

/// The tests whose names match, by name.
pub(super) fn tests(wheel: &Path, filter: &Regex) -> Result<Vec<Test>> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(wheel)?))?;
    let place = Regex::new(
        r"^onnx/backend/test/data/(?:node|simple|pytorch-converted|pytorch-operator)/(test_\w+)/(?:model\.onnx|test_data_set_(\d+)/(input|output)_(\d+)\.pb)$",
    )?;
    let mut tests: BTreeMap<String, (Vec<u8>, BTreeMap<(usize, bool, usize), Vec<u8>>)> = BTreeMap::new();
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        let file = member.name()?.into_owned();
        let Some(groups) = place.captures(&file).filter(|groups| filter.is_match(&groups[1])) else {
            continue;
        };
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes)?;
        let test = tests.entry(groups[1].to_owned()).or_default();
        match (groups.get(2), groups.get(3), groups.get(4)) {
            (Some(set), Some(side), Some(number)) => {
                let key = (set.as_str().parse()?, side.as_str() == "output", number.as_str().parse()?);
                test.1.insert(key, bytes);
            }
            _ => test.0 = bytes,
        }
    }
    Ok(tests
        .into_iter()
        .map(|(name, (model, files))| {
            let mut sets: BTreeMap<usize, Set> = BTreeMap::new();
            for ((set, is_output, _), bytes) in files {
                let set = sets.entry(set).or_default();
                if is_output { set.outputs.push(bytes) } else { set.inputs.push(bytes) }
            }
            Test { name, model, sets: sets.into_values().collect() }
        })
        .collect())
}
