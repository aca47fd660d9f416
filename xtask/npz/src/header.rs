//! The header of an array inside an archive.

use crate::{Array, Dtype};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Elements start at a multiple of this.
const ALIGN: usize = 64;

/// The array in the bytes of a `.npy` file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Array, String> {
    let (header, data) = split(bytes).ok_or("no .npy header")?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    if !header.contains("'fortran_order': False") {
        return Err("expected row-major order".into());
    }
    let field = |key: &str, open: char, close: char| {
        let rest = header.split_once(&format!("'{key}': {open}")).map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split_once(close)).map(|(value, _)| value)
    };
    let descr = field("descr", '\'', '\'').ok_or("no element type")?;
    let dtype = Dtype::from_descr(descr).ok_or_else(|| format!("unsupported element type {descr}"))?;
    let dims = field("shape", '(', ')').ok_or("no shape")?;
    let shape = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Vec<usize> =
        shape.map(|dim| dim.parse().map_err(|_| format!("bad extent {dim:?}"))).collect::<Result<_, _>>()?;
    let expected = shape.iter().try_fold(dtype.size(), |n, dim| n.checked_mul(*dim));
    if expected != Some(data.len()) {
        return Err(format!("expected {descr}{shape:?}, found {} bytes", data.len()));
    }
    Ok(Array { dtype, shape, bytes: data.to_vec() })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The header of `array`, padded.
pub(crate) fn print(array: &Array) -> Vec<u8> {
    let dims: Vec<String> = array.shape.iter().map(usize::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let dict = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        array.dtype.descr(),
        dims.join(", ")
    );
    let fixed = MAGIC.len() + 4;
    let total = (fixed + dict.len() + 1).next_multiple_of(ALIGN);
    let length = u16::try_from(total - fixed).expect("headers of a few dimensions are short");
    let mut bytes = [MAGIC, &[1, 0], &length.to_le_bytes(), dict.as_bytes()].concat();
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let good = Array::f32s(&[2], &[1.0, 2.0]);
        let bytes = [print(&good), good.bytes.clone()].concat();
        assert_eq!(parse(&bytes).as_ref(), Ok(&good));
        let text = |from: &str, to: &str| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut changed = bytes.clone();
            changed[at..at + to.len()].copy_from_slice(to.as_bytes());
            parse(&changed).unwrap_err()
        };
        assert!(text("<f4", "<c8").contains("<c8"));
        assert!(text("False", "True ").contains("row-major"));
        assert!(text("(2,)", "(3,)").contains("8 bytes"));
        assert!(parse(&bytes[..9]).unwrap_err().contains("header"));
        assert!(parse(&bytes[..bytes.len() - 1]).unwrap_err().contains("7 bytes"));
    }
}
