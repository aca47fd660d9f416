//! What a model must contain, compared with what its files contain.

use super::checkpoint::Checkpoint;
use super::config::{Config, MAX_SIZE};
use super::fault::{Fault, Faults};
use ssmc_ir::DType;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The files of a model folder, and the faults found in them so far.
pub(super) struct Source<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) config: &'a Config,
    pub(super) faults: &'a mut Faults,
}

impl Source<'_> {
    /// The number of layers: what the config says, which the tensors must then have; else what the tensors have.
    ///
    /// Names are `{prefix}{layer}.` and more. A config that asks for more layers than there are tensors is refused here,
    /// so that no list of missing tensors is longer than the file justifies.
    pub(super) fn n_layers(&mut self, key: &str, prefix: &str) -> Option<usize> {
        let tensors = &self.checkpoint.tensors;
        let layers: BTreeSet<usize> = tensors
            .keys()
            .filter_map(|name| name.strip_prefix(prefix)?.split_once('.')?.0.parse().ok())
            .collect();
        let configured = self.config.size(key, self.faults);
        let n_layers = configured.unwrap_or(layers.len());
        if n_layers == 0 {
            self.missing_key(key);
            return None;
        }
        if n_layers > tensors.len() {
            let expected = format!("the number of layers in the tensors, {}", layers.len());
            let (key, found) = (key.to_owned(), n_layers.to_string());
            self.faults.push(self.config.file(), Fault::BadKey { key, expected, found });
            return None;
        }
        Some(n_layers)
    }

    /// The size that the witnesses vote for: the tensors decide, the config comes second.
    ///
    /// A witness is a tensor name, in which `{}` stands for any layer below `n_layers`, and one of its axes. The size
    /// that most tensors have wins, the configured one among equals. A configured size that loses is reported as a
    /// warning; tensors that lose are reported when their shapes are checked.
    pub(super) fn size(
        &mut self,
        key: &str,
        configured: Option<usize>,
        n_layers: usize,
        witnesses: &[(&str, usize)],
    ) -> Option<usize> {
        let mut votes: BTreeMap<usize, usize> = BTreeMap::new();
        for (pattern, axis) in witnesses {
            let layers = if pattern.contains("{}") { n_layers } else { 1 };
            for layer in 0..layers {
                let tensor = self.checkpoint.tensors.get(&pattern.replace("{}", &layer.to_string()));
                let extent = tensor.and_then(|t| t.shape.get(*axis)).and_then(|d| usize::try_from(*d).ok());
                if let Some(extent) = extent.filter(|d| (1..=MAX_SIZE as usize).contains(d)) {
                    *votes.entry(extent).or_default() += 1;
                }
            }
        }
        let winner =
            votes.into_iter().max_by_key(|(size, n)| (*n, configured == Some(*size), Reverse(*size)));
        let size = winner.map(|(size, _)| size).or(configured);
        if size.is_none() {
            self.missing_key(key);
        }
        if let (Some(config), Some(tensors)) = (configured, size) {
            self.compare(key, config, tensors);
        }
        size
    }

    /// Warns if the configured value is not the one that the tensors have.
    pub(super) fn compare<T: PartialEq + ToString>(&mut self, key: &str, config: T, tensors: T) {
        if config != tensors {
            let (config, tensors) = (config.to_string(), tensors.to_string());
            self.faults
                .push(self.config.file(), Fault::ConfigDisagrees { key: key.to_owned(), config, tensors });
        }
    }

    /// Whether the checkpoint has this tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.checkpoint.tensors.contains_key(tensor)
    }

    /// Reports a config value that contradicts the tensors or other values.
    pub(super) fn bad_key(&mut self, key: &str, expected: String, found: impl ToString) {
        let (key, found) = (key.to_owned(), found.to_string());
        self.faults.push(self.config.file(), Fault::BadKey { key, expected, found });
    }

    fn missing_key(&mut self, key: &str) {
        let key = key.to_owned();
        self.faults
            .push(self.config.file(), Fault::MissingKey { key, expected: "an integer from 1 to 2^28" });
    }
}

/// Checks tensors by name and, at the end, that no others are there.
pub(super) struct Schema<'a> {
    checkpoint: &'a Checkpoint,
    faults: &'a mut Faults,
    known: BTreeSet<String>,
}

impl<'a> Schema<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, faults: &'a mut Faults) -> Self {
        Self { checkpoint, faults, known: BTreeSet::new() }
    }

    /// The tensor must be there with this shape and a float element type.
    pub(super) fn require(&mut self, name: impl Into<String>, shape: &[usize]) {
        let name = name.into();
        if !self.optional(name.clone(), shape) {
            let fault = Fault::MissingTensor { tensor: name, expected: extents(shape) };
            self.faults.push(&self.checkpoint.file, fault);
        }
    }

    /// The tensor may be there, then with this shape and a float element type. Returns whether it is there.
    pub(super) fn optional(&mut self, name: impl Into<String>, shape: &[usize]) -> bool {
        let name = name.into();
        let Some(tensor) = self.checkpoint.tensors.get(&name) else {
            return false;
        };
        let expected = extents(shape);
        if tensor.shape != expected {
            let fault = Fault::TensorShape { tensor: name.clone(), expected, found: tensor.shape.clone() };
            self.faults.push(&self.checkpoint.file, fault);
        }
        if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            let fault = Fault::WeightDtype { tensor: name.clone(), found: tensor.dtype.to_string() };
            self.faults.push(&self.checkpoint.file, fault);
        }
        self.known.insert(name);
        true
    }

    /// Reports every tensor that was not asked for: as a warning if `ignore`.
    pub(super) fn finish(self, ignore: bool) {
        for (name, tensor) in &self.checkpoint.tensors {
            if !self.known.contains(name) {
                let (tensor, found) = (name.clone(), tensor.shape.clone());
                let fault = if ignore {
                    Fault::IgnoredTensor { tensor, found }
                } else {
                    Fault::UnexpectedTensor { tensor, found }
                };
                self.faults.push(&self.checkpoint.file, fault);
            }
        }
    }
}

fn extents(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|d| *d as u64).collect()
}
