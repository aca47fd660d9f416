use half::{bf16, f16};

use super::*;
use crate::kernel::builder::KernelBuilder;

mod block;
mod lanes;

fn bytes_f32(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Runs `grid` blocks with each parameter at the start of the buffer of its position.
fn run(kernel: &Kernel, grid: i64, dims: &[i64], buffers: &mut [Vec<u8>]) -> Result<(), InterpError> {
    let args: Vec<Arg> = (0..buffers.len()).map(Arg::start).collect();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    Interpreter::new(kernel)?.run(0..grid, dims, &args, &mut slices)
}

/// The fault a kernel runs into, with its path.
fn fault(kernel: &Kernel, grid: i64, buffers: &mut [Vec<u8>]) -> (String, RunFault) {
    match run(kernel, grid, &[], buffers) {
        Err(InterpError::Fault { path, fault, .. }) => (path.to_string(), fault),
        other => panic!("expected a fault, found {other:?}"),
    }
}

#[test]
fn erf_reference_values() {
    // To 16 digits, from a multiple-precision library.
    for (x, y) in [
        (0.0, 0.0),
        (0.5, 0.520_499_877_813_046_5),
        (1.0, 0.842_700_792_949_714_9),
        (1.355_31, 0.944_723_662_938_469_8),
        (2.0, 0.995_322_265_018_952_7),
        (2.999, 0.999_977_769_831_400_2),
        (3.5, 0.999_999_256_901_627_7),
    ] {
        assert!((erf(x) - y).abs() <= 2.3e-16, "erf({x}) = {} expected {y}", erf(x));
        assert_eq!(erf(-x), -erf(x));
    }
    assert!(erf(f64::NAN).is_nan());
}

#[test]
fn aliased_params_see_each_other() {
    let mut b = KernelBuilder::cpu("alias");
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let v = b.load(x, 0, 1);
    let v = b.add(v, 1.0);
    b.store(y, 0, v);
    let w = b.load(x, 0, 1);
    b.store(y, 1, w);
    let kernel = b.finish();
    let mut buffer = bytes_f32(&[1.0, 0.0]);
    let interp = Interpreter::new(&kernel).unwrap();
    interp.run(0..1, &[], &[Arg::start(0), Arg::start(0)], &mut [&mut buffer]).unwrap();
    assert_eq!(f32s(&buffer), [2.0, 2.0]);
}

#[test]
fn bad_launches_are_errors() {
    let mut b = KernelBuilder::cpu("k");
    let x = b.param("x", Elem::F32, Access::Write);
    let n = b.dim("n");
    let n = b.cast(n, Elem::F32);
    b.store(x, 0, n);
    let kernel = b.finish();
    let interp = Interpreter::new(&kernel).unwrap();
    let mut buffer = vec![0; 8];
    let mut go = |dims: &[i64], args: &[Arg]| interp.run(0..1, dims, args, &mut [&mut buffer]);
    assert!(matches!(go(&[], &[Arg::start(0)]), Err(InterpError::Count { what: "dims", .. })));
    assert!(matches!(go(&[1], &[]), Err(InterpError::Count { what: "params", .. })));
    assert!(matches!(go(&[1], &[Arg::start(1)]), Err(InterpError::BadArg { .. })));
    assert!(matches!(go(&[1], &[Arg { buffer: 0, byte_offset: 2 }]), Err(InterpError::BadArg { .. })));
    assert_eq!(go(&[1], &[Arg { buffer: 0, byte_offset: 4 }]), Ok(()));
    let kernel = Kernel { block: [0, 1, 1], ..kernel };
    assert!(matches!(Interpreter::new(&kernel), Err(InterpError::Invalid { .. })));
}

#[test]
fn half_types_round_after_each_operation() {
    let mut b = KernelBuilder::cpu("half");
    let x = b.param("x", Elem::F16, Access::ReadWrite);
    let y = b.param("y", Elem::Bf16, Access::ReadWrite);
    for mem in [x, y] {
        let v = b.load(mem, 0, 2);
        let v = b.mul(v, v);
        b.store(mem, 0, v);
    }
    let kernel = b.finish();
    let (a, c) = ([f16::from_f32(1.001), f16::from_f32(300.0)], [bf16::from_f32(1.01), bf16::from_f32(-3.0)]);
    let mut buffers = [
        a.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        c.iter().flat_map(|v| v.to_le_bytes()).collect(),
    ];
    run(&kernel, 1, &[], &mut buffers).unwrap();
    let square16 = a.map(|v| f16::from_f32(v.to_f32() * v.to_f32()).to_le_bytes()).concat();
    let square_b = c.map(|v| bf16::from_f32(v.to_f32() * v.to_f32()).to_le_bytes()).concat();
    assert_eq!(buffers, [square16, square_b]);
}
