//! A launch of machine code, repeated in the kernel interpreter and compared bit for bit.

use super::interp::{Arg, InterpError, Interpreter};
use super::{Elem, Kernel};
use std::fmt;

/// Why machine code and kernel are not the same.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum Fault {
    #[error("kernel {kernel}: {source}")]
    Interpreter { kernel: String, source: Box<InterpError> },
    #[error(
        "kernel {kernel}, parameter {param}, element {index}: interpreter {interpreter}, machine {machine}"
    )]
    Different { kernel: String, param: String, index: usize, interpreter: Hex, machine: Hex },
}

/// The bytes of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hex(Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().rev().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Copies of the memory that a launch's arguments reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    buffers: Vec<Vec<u8>>,
    args: Vec<Arg>,
}

impl Memory {
    /// Copies the memory of the arguments. Each reaches from its address to the end of its buffer, so arguments
    /// that end at the same address share a buffer.
    pub fn copy(args: &[&[u8]]) -> Self {
        let ends: Vec<usize> = args.iter().map(|arg| arg.as_ptr() as usize + arg.len()).collect();
        let mut distinct = ends.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let longest = |end: &usize| {
            let sharing = args.iter().zip(&ends).filter(|(_, other)| *other == end);
            sharing.map(|(arg, _)| *arg).max_by_key(|arg| arg.len()).unwrap_or_default()
        };
        let buffers: Vec<Vec<u8>> = distinct.iter().map(|end| longest(end).to_vec()).collect();
        let place = |(arg, end): (&&[u8], &usize)| {
            let buffer = distinct.partition_point(|other| other < end);
            Arg { buffer, byte_offset: buffers[buffer].len() - arg.len() }
        };
        Self { args: args.iter().zip(&ends).map(place).collect(), buffers }
    }

    /// What a launch leaves that something else runs: it gets the buffers, and where in them each argument begins.
    ///
    /// # Errors
    /// Those of `launch`.
    pub fn after<E>(&self, launch: impl FnOnce(&mut [Vec<u8>], &[Arg]) -> Result<(), E>) -> Result<Self, E> {
        let mut after = self.clone();
        launch(&mut after.buffers, &self.args)?;
        Ok(after)
    }

    /// The bytes from an argument's address to the end of its buffer.
    pub fn arg(&self, index: usize) -> Option<&[u8]> {
        let arg = self.args.get(index)?;
        self.buffers[arg.buffer].get(arg.byte_offset..)
    }
}

/// What the kernel leaves when it runs on `before`.
///
/// # Errors
/// The kernel faults in the interpreter.
pub fn run(kernel: &Kernel, grid: i64, dims: &[i64], before: &Memory) -> Result<Memory, Fault> {
    let fault = |source| Fault::Interpreter { kernel: kernel.name.clone(), source: Box::new(source) };
    let mut after = before.clone();
    let mut views: Vec<&mut [u8]> = after.buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let interpreter = Interpreter::new(kernel).map_err(fault)?;
    interpreter.run(0..grid, dims, &before.args, &mut views).map_err(fault)?;
    Ok(after)
}

/// Runs the kernel on `before` and compares what it leaves with `after`, both copied from the same arguments. NaN
/// equals NaN.
///
/// # Errors
/// The kernel faults in the interpreter, or an element differs.
pub fn check(kernel: &Kernel, grid: i64, dims: &[i64], before: &Memory, after: &Memory) -> Result<(), Fault> {
    let found = run(kernel, grid, dims, before)?.buffers;
    for (param, arg) in kernel.params.iter().zip(&before.args).filter(|(param, _)| param.access.writes()) {
        let size = param.elem.size();
        let elements = |buffers: &[Vec<u8>]| -> Vec<Vec<u8>> {
            buffers[arg.buffer][arg.byte_offset..].chunks_exact(size).map(<[u8]>::to_vec).collect()
        };
        let pairs = elements(&found).into_iter().zip(elements(&after.buffers)).enumerate();
        for (index, (interpreter, machine)) in pairs {
            if interpreter != machine && !(is_nan(param.elem, &interpreter) && is_nan(param.elem, &machine)) {
                return Err(Fault::Different {
                    kernel: kernel.name.clone(),
                    param: param.name.clone(),
                    index,
                    interpreter: Hex(interpreter),
                    machine: Hex(machine),
                });
            }
        }
    }
    Ok(())
}

/// Whether the little-endian bytes of an element are a NaN.
fn is_nan(elem: Elem, bytes: &[u8]) -> bool {
    let bits = bytes.iter().rev().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let (mantissa, exponent) = match elem {
        Elem::F16 => (10, 5),
        Elem::Bf16 => (7, 8),
        Elem::F32 => (23, 8),
        Elem::F64 => (52, 11),
        _ => return false,
    };
    let infinity = ((1u64 << exponent) - 1) << mantissa;
    let magnitude = bits & ((1u64 << (mantissa + exponent)) - 1);
    magnitude > infinity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::text::parse;

    const TWICE: &str = "kernel twice {
        block 1 1 1
        param x: f32 read
        param y: f32 write
        dim n
        %0: i64 = dim n
        %1: i64 = const 0
        %2: f32 = const 2
        for %3 in %1..%0 step 1 {
            %4: f32 = load x[%3]
            %5: f32 = mul %4, %2
            store y[%3], %5
        }
    }";

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn check_twice(y: &[f32]) -> Result<(), Fault> {
        let kernel = parse(TWICE).unwrap();
        let x = bytes(&[1.0, f32::NAN, -3.0]);
        let (before, after) = (bytes(&[0.0; 3]), bytes(y));
        let before = Memory::copy(&[&x, &before]);
        let mut after = Memory::copy(&[&x, &after]);
        // Both are copies of the same memory in a real run.
        if after.args != before.args {
            after.buffers.swap(0, 1);
        }
        check(&kernel, 1, &[3], &before, &after)
    }

    #[test]
    fn equal_bits_pass() {
        check_twice(&[2.0, f32::NAN, -6.0]).unwrap();
    }

    #[test]
    fn one_bit_is_a_difference() {
        let wrong = f32::from_bits((-6.0f32).to_bits() + 1);
        assert!(matches!(check_twice(&[2.0, f32::NAN, wrong]), Err(Fault::Different { index: 2, .. })));
        assert!(matches!(check_twice(&[2.0, 0.0, -6.0]), Err(Fault::Different { index: 1, .. })));
    }

    #[test]
    fn arguments_in_one_buffer_stay_together() {
        let memory = [0u8, 1, 2, 3, 4, 5, 6, 7];
        let other = [9u8; 4];
        let copy = Memory::copy(&[&memory[4..], &other, &memory]);
        assert_eq!(copy.buffers.len(), 2);
        let [tail, apart, whole] = copy.args[..] else { panic!("three arguments") };
        assert_eq!((tail.buffer, tail.byte_offset, whole.byte_offset), (whole.buffer, 4, 0));
        assert_ne!(apart.buffer, whole.buffer);
        assert_eq!(copy.buffers[whole.buffer], memory);
    }

    #[test]
    fn nans_of_every_type() {
        assert!(is_nan(Elem::F16, &0x7e00u16.to_le_bytes()) && !is_nan(Elem::F16, &0x7c00u16.to_le_bytes()));
        assert!(
            is_nan(Elem::F32, &f32::NAN.to_le_bytes()) && !is_nan(Elem::F32, &f32::INFINITY.to_le_bytes())
        );
        assert!(is_nan(Elem::F64, &f64::NAN.to_le_bytes()) && !is_nan(Elem::I32, &(-1i32).to_le_bytes()));
    }
}
