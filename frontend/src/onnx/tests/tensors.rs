use super::*;
use crate::onnx::external::ExternalFiles;
use crate::onnx::tensor::literal;

/// The bytes of a tensor, or its fault.
fn bytes(tensor: &TensorProto) -> Result<Vec<u8>, String> {
    let files = ExternalFiles::beside(Path::new("no-folder/model.onnx"));
    literal(tensor, &files).map(|l| l.bytes.as_slice().to_vec()).map_err(|e| e.to_string())
}

fn tensor_proto(data_type: i32, dims: &[i64]) -> TensorProto {
    TensorProto { data_type: Some(data_type), dims: dims.into(), ..TensorProto::default() }
}

#[test]
fn typed_fields_of_every_width() {
    let small =
        |ty, dims: &[i64], data: &[i32]| TensorProto { int32_data: data.into(), ..tensor_proto(ty, dims) };
    assert_eq!(bytes(&small(2, &[2], &[7, 255])), Ok(vec![7, 255]));
    assert_eq!(bytes(&small(3, &[1], &[-1])), Ok(vec![255]));
    assert_eq!(bytes(&small(10, &[1], &[0x3c00])), Ok(vec![0, 0x3c]));
    assert_eq!(bytes(&small(9, &[2], &[1, 0])), Ok(vec![1, 0]));
    assert_eq!(bytes(&small(22, &[3], &[0x21, 0x0f])), Ok(vec![1, 2, 0xff]), "one to a byte");
    assert_eq!(bytes(&small(6, &[1], &[-2])), Ok((-2i32).to_le_bytes().into()));
    let wide = TensorProto { uint64_data: vec![5], ..tensor_proto(12, &[1]) };
    assert_eq!(bytes(&wide), Ok(5u32.to_le_bytes().into()));
    let out_of_range = bytes(&small(2, &[1], &[256])).unwrap_err();
    assert_eq!(out_of_range, "int32_data: expected values of u8, found 256");
}

#[test]
fn data_must_be_exactly_the_elements() {
    let raw = |n: usize| TensorProto { raw_data: Some(vec![2; n].into()), ..tensor_proto(9, &[2, 2]) };
    assert_eq!(bytes(&raw(4)), Ok(vec![1; 4]), "any byte but 0 is true");
    assert_eq!(bytes(&raw(3)).unwrap_err(), "raw data: expected 4 bytes, found 3 bytes");
    let none = bytes(&tensor_proto(1, &[2])).unwrap_err();
    assert_eq!(none, "float_data: expected 2 elements, found 0");
    assert_eq!(bytes(&tensor_proto(1, &[0, 5])), Ok(vec![]));
}

#[test]
fn sizes_and_types_are_checked() {
    assert!(bytes(&tensor_proto(1, &[-1])).unwrap_err().contains("no negative dim"));
    assert!(bytes(&tensor_proto(1, &[i64::MAX, i64::MAX])).unwrap_err().contains("limit"));
    assert!(bytes(&tensor_proto(1, &[i64::MAX, 0, i64::MAX])).unwrap_err().contains("limit"));
    assert!(bytes(&tensor_proto(77, &[1])).unwrap_err().contains("number 77"));
    assert!(bytes(&tensor_proto(8, &[1])).unwrap_err().contains("STRING is not supported"));
}
