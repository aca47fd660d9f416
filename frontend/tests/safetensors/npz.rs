//! Arrays of `.npz` files.

use ssmc_ir::DType;
use ssmc_ir::tensor::Tensor;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// All arrays of a file by name.
pub(super) fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let mut archive = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    let mut arrays = BTreeMap::new();
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).unwrap();
        let name = member.name().unwrap().trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        arrays.insert(name, npy(&bytes));
    }
    arrays
}

fn npy(bytes: &[u8]) -> Tensor {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (header, data) = bytes[10..].split_at(length);
    let header = std::str::from_utf8(header).unwrap();
    assert!(header.contains("'fortran_order': False"));
    let field = |key: &str, open: char, close: char| {
        let rest = header.split_once(&format!("'{key}': {open}")).unwrap().1;
        rest.split_once(close).unwrap().0.to_owned()
    };
    let shape: Vec<usize> = field("shape", '(', ')')
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse().unwrap())
        .collect();
    let dtype = match field("descr", '\'', '\'').as_str() {
        "<i8" => DType::I64,
        "<f4" => DType::F32,
        "<f8" => DType::F64,
        other => panic!("element type {other}"),
    };
    Tensor::from_bytes(dtype, shape, data).unwrap()
}
