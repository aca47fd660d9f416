//! The header of a safetensors file: an 8-byte little-endian length, then that many bytes of JSON.

use super::fault::Fault;
use super::json::Pairs;
use serde_json::Value;
use ssmc_ir::DType;
use std::ops::Range;

/// The longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    /// Where its elements lie, from the start of the file.
    pub(super) range: Range<usize>,
}

/// Reads the header of a whole file.
///
/// Returns the tensors in the order of the header, or every fault. The data of the tensors is disjoint, covers all
/// bytes after the header, and each tensor has exactly the bytes of its shape and element type.
pub(super) fn parse(file: &[u8]) -> Result<Vec<Entry>, Vec<Fault>> {
    let (header, data_start) = split(file).map_err(|fault| vec![fault])?;
    let pairs: Pairs = serde_json::from_slice(header).map_err(|e| {
        vec![Fault::HeaderNotJson { found: format!("bytes that fail with {e:?}", e = e.to_string()) }]
    })?;
    let n_data_bytes = file.len() as u64 - data_start as u64;

    let mut faults = Vec::new();
    let mut raws = Vec::new();
    let n_pairs = pairs.0.len();
    for (name, value) in pairs.0 {
        if name == "__metadata__" {
            continue;
        }
        match RawEntry::read(name, &value) {
            Ok(raw) => raws.push(raw),
            Err(fault) => faults.push(fault),
        }
    }
    faults.extend(duplicates(&raws));

    let mut entries = Vec::with_capacity(n_pairs);
    for raw in &raws {
        match raw.check(n_data_bytes, data_start) {
            Ok(entry) => entries.push(entry),
            Err(fault) => faults.push(fault),
        }
    }
    let complete = faults.is_empty();
    faults.extend(cover(&raws, n_data_bytes, complete));
    if faults.is_empty() { Ok(entries) } else { Err(faults) }
}

fn split(file: &[u8]) -> Result<(&[u8], usize), Fault> {
    let found = file.len() as u64;
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Fault::HeaderTruncated { expected: 8, found });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(Fault::HeaderTooLarge { limit: MAX_HEADER, found: length });
    }
    let expected = length + 8;
    match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
        Some(header) => Ok((header, header.len() + 8)),
        None => Err(Fault::HeaderTruncated { expected, found }),
    }
}

/// A tensor as the header spells it, types checked, values not.
struct RawEntry {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

impl RawEntry {
    fn read(name: String, value: &Value) -> Result<Self, Fault> {
        let bad = |expected: &'static str, found: Option<&Value>| Fault::BadEntry {
            tensor: name.clone(),
            expected,
            found: found.map_or_else(|| "nothing".to_owned(), super::json::brief),
        };
        let Value::Object(fields) = value else {
            return Err(bad("an object with dtype, shape and data_offsets", Some(value)));
        };
        let dtype = fields.get("dtype");
        let Some(dtype) = dtype.and_then(Value::as_str) else {
            return Err(bad("dtype to be a string", dtype));
        };
        let shape = fields.get("shape");
        let Some(shape) = shape.and_then(unsigned_list) else {
            return Err(bad("shape to be a list of unsigned integers", shape));
        };
        let offsets = fields.get("data_offsets");
        let Some(&[begin, end]) = offsets.and_then(unsigned_list).as_deref() else {
            return Err(bad("data_offsets to be two unsigned integers", offsets));
        };
        if let Some(key) = fields.keys().find(|k| !["dtype", "shape", "data_offsets"].contains(&k.as_str())) {
            return Err(bad(
                "no fields but dtype, shape and data_offsets",
                Some(&Value::String(key.clone())),
            ));
        }
        Ok(Self { dtype: dtype.to_owned(), shape, begin, end, name })
    }

    fn check(&self, n_data_bytes: u64, data_start: usize) -> Result<Entry, Fault> {
        let tensor = self.name.clone();
        let dtype = dtype(&self.dtype).map_err(|known| {
            let (tensor, found) = (tensor.clone(), self.dtype.clone());
            if known {
                Fault::UnsupportedDtype { tensor, found }
            } else {
                Fault::UnknownDtype { tensor, found }
            }
        })?;
        let (begin, end) = (self.begin, self.end);
        if end < begin {
            return Err(Fault::OffsetsReversed { tensor, begin, end });
        }
        let expected = self.shape.iter().try_fold(dtype.bits() as u64 / 8, |n, d| n.checked_mul(*d));
        let Some(expected) = expected else {
            return Err(Fault::SizeOverflow { tensor, shape: self.shape.clone() });
        };
        if expected != end - begin {
            let (dtype, shape) = (dtype.to_string(), self.shape.clone());
            return Err(Fault::ByteLength { tensor, dtype, shape, expected, found: end - begin });
        }
        if end > n_data_bytes {
            return Err(Fault::OutOfRange { tensor, expected: end, found: n_data_bytes });
        }
        let at = |offset: u64| data_start + usize::try_from(offset).expect("an offset inside a mapped file");
        Ok(Entry { name: tensor, dtype, shape: self.shape.clone(), range: at(begin)..at(end) })
    }
}

fn unsigned_list(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(Value::as_u64).collect()
}

/// The element type of this spelling. `Err` tells whether the format knows it.
fn dtype(name: &str) -> Result<DType, bool> {
    Ok(match name {
        "F64" => DType::F64,
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F8_E4M3" => DType::F8E4M3,
        "F8_E5M2" => DType::F8E5M2,
        "C64" => DType::C64,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "I16" => DType::I16,
        "I8" => DType::I8,
        "U64" => DType::U64,
        "U32" => DType::U32,
        "U16" => DType::U16,
        "U8" => DType::U8,
        "BOOL" => DType::Bool,
        "F4" | "F6_E2M3" | "F6_E3M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => return Err(true),
        _ => return Err(false),
    })
}

fn duplicates(raws: &[RawEntry]) -> Vec<Fault> {
    let mut names: Vec<&str> = raws.iter().map(|r| r.name.as_str()).collect();
    names.sort_unstable();
    let mut faults: Vec<Fault> = names
        .windows(2)
        .filter(|w| w[0] == w[1])
        .map(|w| Fault::DuplicateTensor { tensor: w[0].to_owned(), other: "the same header".to_owned() })
        .collect();
    faults.dedup();
    faults
}

/// Checks that the tensors do not overlap and, if all could be read, that they leave no gap.
fn cover(raws: &[RawEntry], n_data_bytes: u64, complete: bool) -> Vec<Fault> {
    let mut by_place: Vec<&RawEntry> = raws.iter().filter(|r| r.begin < r.end).collect();
    by_place.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let mut faults = Vec::new();
    let mut covered = 0;
    let mut last: Option<&RawEntry> = None;
    for raw in by_place {
        let &RawEntry { begin, end, .. } = raw;
        if let Some(other) = last.filter(|o| begin < o.end && o.name != raw.name) {
            let (tensor, other_end) = (raw.name.clone(), other.end);
            faults.push(Fault::Overlap { tensor, other: other.name.clone(), begin, end, other_end });
        } else if complete && begin > covered {
            faults.push(Fault::Gap { begin: covered, end: begin });
        }
        if end > covered {
            covered = end;
            last = Some(raw);
        }
    }
    if complete && covered < n_data_bytes {
        faults.push(Fault::Gap { begin: covered, end: n_data_bytes });
    }
    faults
}
