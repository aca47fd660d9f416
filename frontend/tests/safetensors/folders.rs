//! Model folders that tests take apart.

use serde_json::{Map, Value};
use ssmc_frontend::safetensors::synthetic::{Mixer, Storage, SyntheticModel};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A model of two layers with sizes that are all different.
pub(super) fn tiny(mixer: Mixer) -> SyntheticModel {
    SyntheticModel {
        mixer,
        d_model: 6,
        d_inner: 12,
        d_state: 5,
        d_conv: 4,
        n_layers: 2,
        vocab_size: 17,
        tied: false,
        storage: Storage::F32,
        seed: 1,
    }
}

pub(super) const MAMBA: Mixer = Mixer::Mamba { dt_rank: 3 };
pub(super) const FALCON_MAMBA: Mixer = Mixer::FalconMamba { dt_rank: 3 };
pub(super) const MAMBA2: Mixer = Mixer::Mamba2 { head_dim: 3, n_groups: 2, chunk_size: 8 };

/// The folder of a model, in a temporary place.
pub(super) fn folder(model: &SyntheticModel) -> TempDir {
    let dir = TempDir::new().unwrap();
    model.write(dir.path()).unwrap();
    dir
}

/// A safetensors file in parts.
pub(super) struct Raw {
    pub(super) header: Map<String, Value>,
    pub(super) data: Vec<u8>,
}

impl Raw {
    pub(super) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        Self { header: serde_json::from_slice(header).unwrap(), data: data.to_vec() }
    }

    pub(super) fn write(&self, path: &Path) {
        write_parts(path, &serde_json::to_vec(&self.header).unwrap(), &self.data);
    }

    /// Takes tensors out, closing the gap in the data.
    pub(super) fn remove(&mut self, name: &str) -> (Value, Vec<u8>) {
        let entry = self.header.shift_remove(name).unwrap();
        let (begin, end) = offsets(&entry);
        let bytes = self.data.drain(begin..end).collect();
        for other in self.header.values_mut().filter(|e| e.get("data_offsets").is_some()) {
            let (b, e) = offsets(other);
            if b >= end {
                other["data_offsets"] = serde_json::json!([b - (end - begin), e - (end - begin)]);
            }
        }
        (entry, bytes)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let entry = self.header.shift_remove(from).unwrap();
        self.header.insert(to.to_owned(), entry);
    }

    /// Adds a tensor at the end of the data.
    pub(super) fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let begin = self.data.len();
        self.data.extend_from_slice(bytes);
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, self.data.len()] });
        self.header.insert(name.to_owned(), entry);
    }
}

pub(super) fn write_parts(path: &Path, header: &[u8], data: &[u8]) {
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header, data].concat()).unwrap();
}

fn offsets(entry: &Value) -> (usize, usize) {
    let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
    (at(0), at(1))
}

/// Changes a JSON file.
pub(super) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}
