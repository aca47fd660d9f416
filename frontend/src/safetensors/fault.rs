//! What can be wrong with a checkpoint folder.

use super::shape_text;
use ssmc_ir::{Diagnostic, Severity};
use std::path::Path;
use thiserror::Error;

macro_rules! faults {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $ty:ty),* } = $severity:ident $code:literal;)*) => {
        /// One fault of a checkpoint folder. The file it belongs to is known to the [`Faults`] that holds it.
        #[derive(Clone, Debug, PartialEq, Error)]
        pub(super) enum Fault {
            $($(#[$meta])* $name { $($field: $ty),* }),*
        }

        impl Fault {
            /// The stable code.
            pub(super) fn code(&self) -> &'static str {
                match self { $(Self::$name { .. } => concat!("ssmc::import::", $code)),* }
            }

            fn severity(&self) -> Severity {
                match self { $(Self::$name { .. } => Severity::$severity),* }
            }
        }
    };
}

faults! {
    #[error("header: expected {expected} bytes, found {found}")]
    HeaderTruncated { expected: u64, found: u64 } = Error "truncated_header";
    #[error("header: expected at most {limit} bytes, found {found}")]
    HeaderTooLarge { limit: u64, found: u64 } = Error "header_too_large";
    #[error("header: expected a JSON object, found {found}")]
    HeaderNotJson { found: String } = Error "header_not_json";
    #[error("tensor {tensor:?}: expected {expected}, found {found}")]
    BadEntry { tensor: String, expected: &'static str, found: String } = Error "bad_tensor_entry";
    #[error("tensor {tensor:?}: unknown element type {found:?}")]
    UnknownDtype { tensor: String, found: String } = Error "unknown_dtype";
    #[error("tensor {tensor:?}: element type {found} is not supported")]
    UnsupportedDtype { tensor: String, found: String } = Error "unsupported_dtype";
    #[error("tensor {tensor:?}: the size of shape {} overflows", shape_text(shape))]
    SizeOverflow { tensor: String, shape: Vec<u64> } = Error "size_overflow";
    #[error("tensor {tensor:?}: expected {expected} bytes for {dtype}{}, found {found}", shape_text(shape))]
    ByteLength { tensor: String, dtype: String, shape: Vec<u64>, expected: u64, found: u64 } = Error "byte_length";
    #[error("tensor {tensor:?}: data starts at {begin} and ends before that, at {end}")]
    OffsetsReversed { tensor: String, begin: u64, end: u64 } = Error "offsets_reversed";
    #[error("tensor {tensor:?}: data ends at {expected}, but the file's data is {found} bytes long")]
    OutOfRange { tensor: String, expected: u64, found: u64 } = Error "offsets_out_of_range";
    #[error("tensor {tensor:?}: data {begin}..{end} overlaps the data of tensor {other:?}, which ends at {other_end}")]
    Overlap { tensor: String, other: String, begin: u64, end: u64, other_end: u64 } = Error "overlapping_tensors";
    #[error("bytes {begin}..{end} of the data belong to no tensor")]
    Gap { begin: u64, end: u64 } = Error "gap_in_data";
    #[error("tensor {tensor:?}: also in {other}")]
    DuplicateTensor { tensor: String, other: String } = Error "duplicate_tensor";

    #[error("expected JSON, found {found}")]
    NotJson { found: String } = Error "not_json";
    #[error("expected at most {limit} bytes, found {found}")]
    FileTooLarge { limit: u64, found: u64 } = Error "file_too_large";
    #[error("tensor {tensor:?}: expected the name of a shard, found {found}")]
    BadIndexEntry { tensor: String, found: String } = Error "bad_index_entry";
    #[error("shard {shard:?}: expected the name of a file in the model's folder")]
    ShardOutside { shard: String } = Error "shard_outside_folder";
    #[error("shard {shard:?} is listed for {tensors} tensors, such as {tensor:?}, but cannot be read: {found}")]
    MissingShard { shard: String, tensor: String, tensors: usize, found: String } = Error "missing_shard";
    #[error("tensor {tensor:?}: expected in shard {expected:?}, found in no shard")]
    TensorNotInShard { tensor: String, expected: String } = Error "tensor_not_in_shard";
    #[error("tensor {tensor:?}: expected in shard {expected:?}, found in shard {found:?}")]
    TensorElsewhere { tensor: String, expected: String, found: String } = Error "tensor_in_other_shard";
    #[error("tensor {tensor:?}: in shard {shard:?}, but not listed in the index")]
    TensorUnlisted { tensor: String, shard: String } = Warning "tensor_not_in_index";
    #[error("expected model.safetensors or model.safetensors.index.json, found {found}")]
    NoWeights { found: String } = Error "no_weights";

    #[error("key {key:?}: expected {expected}, found nothing")]
    MissingKey { key: String, expected: &'static str } = Error "missing_config_key";
    #[error("key {key:?}: expected {expected}, found {found}")]
    BadKey { key: String, expected: String, found: String } = Error "bad_config_key";
    #[error("key {key:?}: expected {expected}, found {found}")]
    UnsupportedConfig { key: String, expected: String, found: String } = Error "unsupported_config";
    #[error("key {key:?}: expected {tensors}, which the tensors say and which is used, found {config}")]
    ConfigDisagrees { key: String, config: String, tensors: String } = Warning "config_disagrees";

    #[error("tensor {tensor:?}: expected shape {}, found no such tensor", shape_text(expected))]
    MissingTensor { tensor: String, expected: Vec<u64> } = Error "missing_tensor";
    #[error("tensor {tensor:?}: expected shape {}, found {}", shape_text(expected), shape_text(found))]
    TensorShape { tensor: String, expected: Vec<u64>, found: Vec<u64> } = Error "tensor_shape";
    #[error("tensor {tensor:?}: expected element type f32, f16, bf16 or f64, found {found}")]
    WeightDtype { tensor: String, found: String } = Error "unsupported_weight_dtype";
    #[error("tensor {tensor:?}: expected no such tensor in this model, found shape {}", shape_text(found))]
    UnexpectedTensor { tensor: String, found: Vec<u64> } = Error "unexpected_tensor";
    #[error("tensor {tensor:?}: expected no such tensor in this model, ignored; its shape is {}", shape_text(found))]
    IgnoredTensor { tensor: String, found: Vec<u64> } = Warning "ignored_tensor";
    #[error("tensor {tensor:?}: differs from {used:?}, to which it is tied and which is used")]
    TiedTensorDiffers { tensor: String, used: String } = Warning "tied_tensor_differs";
}

/// The faults of a checkpoint folder, in the order found.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Diagnostic>);

impl Faults {
    /// Adds a fault of the given file.
    pub(super) fn push(&mut self, file: &Path, fault: Fault) {
        self.0.push(Diagnostic {
            severity: fault.severity(),
            code: fault.code(),
            place: file.display().to_string(),
            message: fault.to_string(),
        });
    }

    /// Whether one of them makes the checkpoint unusable.
    pub(super) fn has_error(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    pub(super) fn into_vec(self) -> Vec<Diagnostic> {
        self.0
    }
}
