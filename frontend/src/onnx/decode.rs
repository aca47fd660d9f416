//! Model files as ONNX messages.

use super::limits::count_messages;
use super::proto::ModelProto;
use crate::error::ImportError;
use crate::map::map;
use prost::Message;
use prost::bytes::Bytes;
use ssmc_ir::Diagnostic;
use std::path::Path;

/// The largest model file: the limit of the protobuf wire format. Larger models keep their weights in other files.
const MAX_FILE_BYTES: u64 = (1 << 31) - 1;

/// The most messages in a model file.
const MAX_MESSAGES: u64 = 1 << 22;

/// Decodes a model file. Tensor data stays in the mapping.
///
/// # Errors
/// The file cannot be read, is larger than [`MAX_FILE_BYTES`], holds more than [`MAX_MESSAGES`], or is not an ONNX message (nesting deeper than
/// protobuf's customary hundred messages included).
pub(crate) fn decode(path: &Path) -> Result<ModelProto, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let limit = |what, limit, found| ImportError::Limit { path: path.to_owned(), what, limit, found };
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(ImportError::UnknownFormat {
            path: path.to_owned(),
            expected: "an ONNX file",
            found: "no regular file".into(),
        });
    }
    let len = meta.len();
    if len > MAX_FILE_BYTES {
        return Err(limit("bytes in a model file", MAX_FILE_BYTES, len));
    }
    let bytes = map(path).map_err(io)?;
    let n_messages = count_messages(&bytes);
    if n_messages > MAX_MESSAGES {
        return Err(limit("messages in a model file", MAX_MESSAGES, n_messages));
    }
    ModelProto::decode(Bytes::from_owner(bytes)).map_err(|e| ImportError::Invalid {
        path: path.to_owned(),
        faults: vec![Diagnostic::error(
            "ssmc::import::decode",
            "",
            format!("expected an ONNX model, found {e}"),
        )],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file of these bytes is refused with.
    fn refused(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        crate::onnx::import(file.path()).expect_err("no model").to_string()
    }

    #[test]
    fn files_that_are_no_models() {
        assert!(refused(b"").contains("expected a graph, found none"));
        assert!(refused(b"not a model").contains("expected an ONNX model"));
        let missing = decode(Path::new("no/such/file.onnx"));
        assert!(matches!(missing, Err(ImportError::Io { .. })));
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(decode(folder.path()), Err(ImportError::UnknownFormat { .. })));
    }

    #[test]
    fn many_tiny_messages_are_refused_before_they_are_decoded() {
        let n = MAX_MESSAGES as usize + 1;
        // ModelProto.opset_import, each empty.
        let found = refused(&b"\x42\x00".repeat(n));
        assert!(found.contains("messages in a model file"), "{found}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        // Attributes with graphs with nodes with attributes, wrapped from the inside.
        let wrap = |field: u8, inner: Vec<u8>| {
            let mut len = inner.len();
            let mut out = vec![field << 3 | 2];
            while len > 127 {
                out.push(len as u8 & 127 | 128);
                len >>= 7;
            }
            out.push(len as u8);
            [out, inner].concat()
        };
        let bytes = (0..2000).fold(Vec::new(), |inner, _| wrap(1, wrap(5, wrap(6, inner))));
        let found = refused(&wrap(7, bytes));
        assert!(found.contains("recursion limit"), "{found}");
    }
}
