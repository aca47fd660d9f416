//! The bytes of a model's weights, beside the graph.

use crate::types::TensorType;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Little-endian row-major elements: a range of a shared buffer, which may be a mapped file.
#[derive(Clone)]
pub struct Bytes {
    buffer: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// A range of a shared buffer, or `None` if the buffer is shorter.
    pub fn slice_of(buffer: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        (*buffer).as_ref().get(range.clone())?;
        Some(Self { buffer, range })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.buffer).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { buffer: Arc::new(bytes), range }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

/// One weight. Its shape has no symbols and `bytes` holds exactly its elements.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Weight {
    pub ty: TensorType,
    pub bytes: Bytes,
}

/// Weights by the name that the `weight` op gives.
#[derive(Clone, Debug, Default)]
pub struct Weights(BTreeMap<String, Weight>);

impl Weights {
    /// No weights.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a weight; the one that had the name before is returned.
    pub fn insert(&mut self, name: impl Into<String>, weight: Weight) -> Option<Weight> {
        self.0.insert(name.into(), weight)
    }

    /// The weight of this name.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.0.get(name)
    }

    /// All weights by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.0.iter().map(|(n, w)| (n.as_str(), w))
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
