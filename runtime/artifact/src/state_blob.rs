//! The file form of a recurrent state.
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | magic `89 53 53 4d 53 0d 0a 1a` |
//! | 8..12 | version, 1 |
//! | 12..16 | zero |
//! | 16..24 | length of the message |
//! | 24..56 | sha256 of bytes 0..24 followed by the message |
//! | 56.. | the [`StateBlob`] message |

use prost::Message;

use crate::error::ArtifactError;
use crate::format::{check_magic, check_sha256, sha256, u32_at, u64_at};
use crate::proto::StateBlob;

const STATE_MAGIC: [u8; 8] = *b"\x89SSMS\r\n\x1a";
const STATE_VERSION: u32 = 1;
const FIELDS: usize = 24;
const HEADER: usize = 56;
const WHAT: &str = "state";

/// Encodes a saved state; the bytes are the same on every machine.
pub fn encode_state(blob: &StateBlob) -> Vec<u8> {
    let length = blob.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(&STATE_MAGIC);
    bytes.extend_from_slice(&STATE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; HEADER - FIELDS]);
    blob.encode(&mut bytes).expect("a vector has room for any message");
    let checksum = sha256(&[&bytes[..FIELDS], &bytes[HEADER..]]);
    bytes[FIELDS..HEADER].copy_from_slice(&checksum);
    bytes
}

/// Decodes a saved state.
///
/// # Errors
/// If the bytes are truncated, corrupt, of another version or no state at all. Whether the state fits a
/// model is for the runtime to say.
pub fn decode_state(bytes: &[u8]) -> Result<StateBlob, ArtifactError> {
    check_magic(WHAT, &STATE_MAGIC, bytes)?;
    let found = bytes.len() as u64;
    let truncated = |expected| ArtifactError::Truncated { what: WHAT, expected, found };
    let header = bytes.first_chunk::<HEADER>().ok_or_else(|| truncated(HEADER as u64))?;
    let version = u32_at(header, 8);
    if version != STATE_VERSION {
        return Err(ArtifactError::Version { what: WHAT, expected: STATE_VERSION, found: version });
    }
    let length = u64_at(header, 16);
    if length != found - HEADER as u64 {
        return Err(truncated(length.saturating_add(HEADER as u64)));
    }
    check_sha256(WHAT, &header[FIELDS..], &[&bytes[..FIELDS], &bytes[HEADER..]])?;
    StateBlob::decode(&bytes[HEADER..]).map_err(|source| ArtifactError::Decode { what: WHAT.into(), source })
}
