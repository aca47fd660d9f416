//! Arrays of `.npz` files: NumPy's zip archives of row-major little-endian arrays.

mod header;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Element type of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Dtype {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    /// Spelled as the package `ml_dtypes` does.
    Bf16,
    F32,
    F64,
}

impl Dtype {
    const TABLE: &'static [(Dtype, &'static str, usize)] = &[
        (Dtype::Bool, "|b1", 1),
        (Dtype::I8, "|i1", 1),
        (Dtype::U8, "|u1", 1),
        (Dtype::I16, "<i2", 2),
        (Dtype::U16, "<u2", 2),
        (Dtype::I32, "<i4", 4),
        (Dtype::U32, "<u4", 4),
        (Dtype::I64, "<i8", 8),
        (Dtype::U64, "<u8", 8),
        (Dtype::F16, "<f2", 2),
        (Dtype::Bf16, "<V2", 2),
        (Dtype::F32, "<f4", 4),
        (Dtype::F64, "<f8", 8),
    ];

    fn row(self) -> &'static (Dtype, &'static str, usize) {
        Self::TABLE.iter().find(|row| row.0 == self).expect("the table has every type")
    }

    /// NumPy's spelling, such as `<f4`.
    pub fn descr(self) -> &'static str {
        self.row().1
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        self.row().2
    }

    /// The type that NumPy spells `descr`.
    pub fn from_descr(descr: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == descr).map(|row| row.0)
    }
}

/// An array: type, shape and row-major little-endian elements.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Array {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Why a file is not read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum NpzError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Zip(#[from] ZipError),
    #[error("array {array}: {fault}")]
    Array { array: String, fault: String },
}

impl Array {
    /// An array of `f32`.
    pub fn f32s(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// An array of `i64`.
    pub fn i64s(shape: &[usize], values: &[i64]) -> Self {
        Self {
            dtype: Dtype::I64,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// The elements as `f64`; integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        macro_rules! read {
            ($ty:ty) => {{
                let chunks = self.bytes.chunks_exact(size_of::<$ty>());
                chunks.map(|x| <$ty>::from_le_bytes(x.try_into().expect("exact chunks")) as f64).collect()
            }};
        }
        match self.dtype {
            Dtype::Bool | Dtype::U8 => self.bytes.iter().map(|x| f64::from(*x)).collect(),
            Dtype::I8 => read!(i8),
            Dtype::I16 => read!(i16),
            Dtype::U16 => read!(u16),
            Dtype::I32 => read!(i32),
            Dtype::U32 => read!(u32),
            Dtype::I64 => read!(i64),
            Dtype::U64 => read!(u64),
            Dtype::F32 => read!(f32),
            Dtype::F64 => read!(f64),
            Dtype::Bf16 => {
                let chunks = self.bytes.chunks_exact(2);
                chunks.map(|x| f64::from(f32::from_le_bytes([0, 0, x[0], x[1]]))).collect()
            }
            Dtype::F16 => {
                let chunks = self.bytes.chunks_exact(2);
                chunks.map(|x| f16_to_f64(u16::from_le_bytes([x[0], x[1]]))).collect()
            }
        }
    }
}

fn f16_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let mantissa = f64::from(bits & 0x3ff);
    match bits >> 10 & 0x1f {
        0 => sign * mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        exponent => sign * (1024.0 + mantissa) * 2f64.powi(i32::from(exponent) - 25),
    }
}

/// All arrays of a file by name.
///
/// # Errors
/// The file cannot be read, is no zip archive, or an array is not row-major of a type of [`Dtype`].
pub fn read(path: &Path) -> Result<BTreeMap<String, Array>, NpzError> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?))?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        let file = member.name()?.into_owned();
        let name = file.strip_suffix(".npy").unwrap_or(&file).to_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes)?;
        let array = header::parse(&bytes).map_err(|fault| NpzError::Array { array: name.clone(), fault })?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

/// Writes the arrays, uncompressed, in order.
///
/// # Errors
/// The file cannot be written.
pub fn write<'a>(
    path: &Path,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
) -> Result<(), NpzError> {
    let mut archive = ZipWriter::new(BufWriter::new(File::create(path)?));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, array) in arrays {
        archive.start_file(format!("{name}.npy"), options)?;
        archive.write_all(&header::print(array))?;
        archive.write_all(&array.bytes)?;
    }
    archive.finish()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let x = Array::f32s(&[2, 3], &[1.0, -2.5, 3.0, 4.0, f32::MAX, 0.0]);
        let ids = Array::i64s(&[], &[-7]);
        let empty = Array { dtype: Dtype::Bool, shape: vec![0, 4], bytes: Vec::new() };
        write(&path, [("a/x", &x), ("ids", &ids), ("empty", &empty)]).unwrap();
        let arrays = read(&path).unwrap();
        assert_eq!(arrays.len(), 3);
        assert_eq!((&arrays["a/x"], &arrays["ids"], &arrays["empty"]), (&x, &ids, &empty));
        assert_eq!(ids.to_f64(), [-7.0]);
    }

    #[test]
    fn halves_are_exact() {
        let expected = [(0x3c00, 1.0), (0xc100, -2.5), (0x0001, 2f64.powi(-24)), (0x7bff, 65504.0)];
        for (bits, value) in expected {
            assert_eq!(f16_to_f64(bits), value);
        }
        let half = Array { dtype: Dtype::Bf16, shape: vec![1], bytes: 0xc020u16.to_le_bytes().to_vec() };
        assert_eq!(half.to_f64(), [-2.5]);
        assert!(f16_to_f64(0x7c01).is_nan());
        assert_eq!(f16_to_f64(0xfc00), f64::NEG_INFINITY);
    }
}
