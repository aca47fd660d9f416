use super::*;

#[test]
fn bytes_round_trip_in_every_type() {
    for dtype in DType::ALL.iter().copied() {
        let n = 6usize;
        let size = (n * dtype.bits()).div_ceil(8);
        // Small exponents: no pattern is a NaN, whose payload need not survive.
        let bytes: Vec<u8> = (0..size)
            .map(|i| if dtype == DType::Bool { (i % 2) as u8 } else { (i * 7 % 50) as u8 })
            .collect();
        let bytes = if size * 8 > n * dtype.bits() { [&bytes[..size - 1], &[0]].concat() } else { bytes };
        let t = Tensor::from_bytes(dtype, [2, 3], &bytes).unwrap();
        assert_eq!(t.to_bytes(), bytes, "{dtype}");
        let zeros = Tensor::zeros(dtype, [0, 5]).unwrap();
        assert_eq!(Tensor::from_bytes(dtype, [0, 5], &[]).unwrap(), zeros, "{dtype}");
    }
}

#[test]
fn integers_keep_all_bits() {
    let t = Tensor::from_bytes(DType::I64, [1], &(i64::MAX - 1).to_le_bytes()).unwrap();
    assert_eq!(t.as_ints().unwrap(), [i64::MAX - 1]);
    let t = Tensor::from_bytes(DType::U64, [1], &u64::MAX.to_le_bytes()).unwrap();
    assert_eq!(t.to_f64(), [u64::MAX as f64]);
    let t = Tensor::from_bytes(DType::I4, [3], &[0x8f, 0x07]).unwrap();
    assert_eq!(t.as_ints().unwrap(), [-1, -8, 7]);
    assert_eq!(Tensor::ints(DType::U8, [2], vec![256, -1]).unwrap().as_ints().unwrap(), [0, 255]);
}

#[test]
fn faults_are_errors() {
    assert!(matches!(Tensor::floats(DType::F32, [3], vec![0.0; 2]), Err(TensorError::Elements { .. })));
    assert!(matches!(Tensor::floats(DType::I32, [1], vec![0.0]), Err(TensorError::Kind { .. })));
    assert!(matches!(Tensor::from_bytes(DType::F32, [2], &[0; 7]), Err(TensorError::Bytes { .. })));
    assert!(matches!(Tensor::zeros(DType::F32, [usize::MAX, 2]), Err(TensorError::TooLarge(_))));
    assert!(matches!(Tensor::int_scalar(1).as_floats(), Err(TensorError::Kind { .. })));
}

#[test]
fn rounding_follows_the_type() {
    let round = |dtype, x| Tensor::floats(dtype, [1], vec![x]).unwrap().rounded().as_floats().unwrap()[0];
    assert_eq!(round(DType::F64, 0.1), 0.1);
    assert_eq!(round(DType::F32, 0.1), f64::from(0.1f32));
    assert_eq!(round(DType::F16, 70000.0), f64::INFINITY);
    assert_eq!(round(DType::F8E4M3, 1000.0), 448.0);
    // Just above the middle between two neighbors: up, although the nearest f32 is the middle.
    assert_eq!(round(DType::BF16, 1.0 + 2f64.powi(-8) + 2f64.powi(-40)), 1.0 + 2f64.powi(-7));
    assert_eq!(round(DType::BF16, 1.0 + 2f64.powi(-8)), 1.0);
    assert_eq!(round(DType::F16, 1.0 + 2f64.powi(-11) + 2f64.powi(-50)), 1.0 + 2f64.powi(-10));
}
