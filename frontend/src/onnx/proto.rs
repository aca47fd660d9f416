//! The ONNX messages, generated from `proto/onnx.proto`.
//!
//! `bytes` fields are [`prost::bytes::Bytes`]: decoding from a mapped file borrows tensor data from the mapping.

#![allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
