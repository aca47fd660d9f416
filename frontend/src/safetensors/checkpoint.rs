//! The tensors of a model folder: one `model.safetensors`, or shards with an index.

use super::fault::{Fault, Faults};
use super::header::{self, Entry};
use super::json;
use super::{io_error, regular_file};
use crate::error::ImportError;
use crate::map::map;
use memmap2::Mmap;
use serde_json::Value;
use ssmc_ir::{Bytes, DType, TensorType, Weight};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// One tensor of a checkpoint, its elements still in the mapped file.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    file: Arc<Mmap>,
    range: Range<usize>,
}

impl StoredTensor {
    /// The elements, little-endian and row-major.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }

    /// The tensor as a weight that shares the mapped file.
    pub(super) fn weight(&self) -> Weight {
        let shape =
            self.shape.iter().map(|d| i64::try_from(*d).expect("an extent of a tensor inside a mapped file"));
        let bytes = Bytes::slice_of(self.file.clone(), self.range.clone()).expect("the header was checked");
        Weight { ty: TensorType { dtype: self.dtype, shape: shape.collect() }, bytes }
    }
}

/// The tensors of a model folder by name.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The file to name in faults about missing and unexpected tensors: the single file, or the index.
    pub(super) file: PathBuf,
    pub(super) tensors: BTreeMap<String, StoredTensor>,
}

impl Checkpoint {
    /// Reads the headers of all files of the folder. Faults of the files go to `faults`; what could be read is returned.
    pub(super) fn open(dir: &Path, faults: &mut Faults) -> Result<Option<Self>, ImportError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.exists() {
            let mut checkpoint = Self { file: single.clone(), tensors: BTreeMap::new() };
            let file = map_shard(&single).map_err(io_error(&single))?;
            for (name, tensor) in read_file(&single, file, faults) {
                checkpoint.tensors.insert(name, tensor);
            }
            return Ok(Some(checkpoint));
        }
        if index.exists() {
            return open_sharded(dir, index, faults);
        }
        faults.push(dir, Fault::NoWeights { found: weight_files(dir)? });
        Ok(None)
    }
}

/// Maps a file that is neither a folder nor a device.
fn map_shard(path: &Path) -> io::Result<Mmap> {
    regular_file(path)?;
    map(path)
}

fn read_file(path: &Path, file: Mmap, faults: &mut Faults) -> Vec<(String, StoredTensor)> {
    let file = Arc::new(file);
    match header::parse(&file) {
        Ok(entries) => entries
            .into_iter()
            .map(|Entry { name, dtype, shape, range }| {
                (name, StoredTensor { dtype, shape, file: file.clone(), range })
            })
            .collect(),
        Err(found) => {
            for fault in found {
                faults.push(path, fault);
            }
            Vec::new()
        }
    }
}

fn open_sharded(dir: &Path, index: PathBuf, faults: &mut Faults) -> Result<Option<Checkpoint>, ImportError> {
    let Some(value) = json::read(&index, MAX_INDEX_BYTES, faults)? else {
        return Ok(None);
    };
    let Some(weight_map) = value.get("weight_map").and_then(Value::as_object) else {
        let found = value.get("weight_map").map_or_else(|| "nothing".to_owned(), json::brief);
        let expected = "an object from tensor names to file names".to_owned();
        faults.push(&index, Fault::BadKey { key: "weight_map".to_owned(), expected, found });
        return Ok(None);
    };

    let mut listed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        match shard.as_str() {
            Some(shard) => listed.entry(shard).or_default().push(tensor),
            None => faults
                .push(&index, Fault::BadIndexEntry { tensor: tensor.clone(), found: json::brief(shard) }),
        }
    }

    let mut found_in: BTreeMap<String, &str> = BTreeMap::new();
    let mut unread: Vec<&str> = Vec::new();
    let mut tensors = BTreeMap::new();
    for (shard, wanted) in &listed {
        if !stays_inside(shard) {
            faults.push(&index, Fault::ShardOutside { shard: (*shard).to_owned() });
            unread.push(shard);
            continue;
        }
        let path = dir.join(shard);
        let file = match map_shard(&path) {
            Ok(file) => file,
            Err(e) => {
                unread.push(shard);
                let (shard, tensor, tensors) = ((*shard).to_owned(), wanted[0].to_owned(), wanted.len());
                faults.push(&index, Fault::MissingShard { shard, tensor, tensors, found: e.to_string() });
                continue;
            }
        };
        let entries = read_file(&path, file, faults);
        if entries.is_empty() {
            unread.push(shard);
        }
        for (tensor, stored) in entries {
            if let Some(other) = found_in.insert(tensor.clone(), shard) {
                faults.push(
                    &path,
                    Fault::DuplicateTensor { tensor: tensor.clone(), other: format!("shard {other:?}") },
                );
            }
            tensors.insert(tensor, stored);
        }
    }
    compare_with_index(&index, &listed, &found_in, &unread, faults);
    Ok(Some(Checkpoint { file: index, tensors }))
}

/// Reports tensors that are not where the index puts them. Shards that could not be read are reported already.
fn compare_with_index(
    index: &Path,
    listed: &BTreeMap<&str, Vec<&str>>,
    found_in: &BTreeMap<String, &str>,
    unread: &[&str],
    faults: &mut Faults,
) {
    let mut unlisted: BTreeMap<&str, &str> = found_in.iter().map(|(t, s)| (t.as_str(), *s)).collect();
    for (shard, wanted) in listed {
        for tensor in wanted {
            let expected = (*shard).to_owned();
            match unlisted.remove(tensor) {
                Some(found) if found == *shard => {}
                _ if unread.contains(shard) => {}
                Some(found) => {
                    let (tensor, found) = ((*tensor).to_owned(), found.to_owned());
                    faults.push(index, Fault::TensorElsewhere { tensor, expected, found });
                }
                None => {
                    faults.push(index, Fault::TensorNotInShard { tensor: (*tensor).to_owned(), expected })
                }
            }
        }
    }
    for (tensor, shard) in unlisted {
        faults.push(index, Fault::TensorUnlisted { tensor: tensor.to_owned(), shard: shard.to_owned() });
    }
}

/// Whether a path stays in the folder that it is joined to. Links inside the folder are the user's own (model caches
/// consist of them); what is refused is a file that names a path elsewhere.
pub(super) fn stays_inside(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty() && !path.contains('\\') && components.all(|c| matches!(c, Component::Normal(_)))
}

fn weight_files(dir: &Path) -> Result<String, ImportError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let name = entry.map_err(io_error(dir))?.file_name().to_string_lossy().into_owned();
        if [".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf"].iter().any(|ext| name.ends_with(ext)) {
            names.push(name);
        }
    }
    names.sort();
    Ok(if names.is_empty() { "no file of weights".to_owned() } else { names.join(", ") })
}
