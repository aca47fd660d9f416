//! Runs kernels as machine code and in the interpreter, and compares the bits.
#![expect(unsafe_code, reason = "tests call machine code")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;

use half::bf16;
use memmap2::{Mmap, MmapMut};

use crate::emulate::Emulator;
use crate::kernel::interp::{Arg, Interpreter};
use crate::kernel::{Elem, Kernel};
use crate::legalize::cpu::{CpuOptions, legalize};
use crate::llvm::image::CodeImage;
use crate::llvm::{IMAGE_ALIGN, compile};
use crate::target::{CpuLevel, CpuTarget};

/// The contents of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buffer {
    elem: Elem,
    bytes: Vec<u8>,
}

macro_rules! constructors {
    ($($name:ident: $ty:ty => $elem:ident),* $(,)?) => {
        impl Buffer {
            $(pub(crate) fn $name(values: impl IntoIterator<Item = $ty>) -> Buffer {
                let bytes = values.into_iter().flat_map(|value| value.to_le_bytes()).collect();
                Buffer { elem: Elem::$elem, bytes }
            })*
        }
    };
}

constructors! { i32: i32 => I32, bf16: bf16 => Bf16, f32: f32 => F32 }

impl Buffer {
    pub(crate) fn bool(values: impl IntoIterator<Item = bool>) -> Buffer {
        Buffer { elem: Elem::Bool, bytes: values.into_iter().map(u8::from).collect() }
    }

    /// Elements with the given bit patterns, of which the low bits count.
    pub(crate) fn from_bits(elem: Elem, bits: impl IntoIterator<Item = u64>) -> Buffer {
        let bytes =
            bits.into_iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(elem.size())).collect();
        Buffer { elem, bytes }
    }

    /// `len` elements with all bits zero.
    pub(crate) fn zeros(elem: Elem, len: usize) -> Buffer {
        Buffer { elem, bytes: vec![0; len * elem.size()] }
    }

    /// Bit patterns of the elements, zero-extended; all NaNs look the same.
    pub(crate) fn bits(&self) -> Vec<u64> {
        let bits = |chunk: &[u8]| chunk.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        self.bytes.chunks(self.elem.size()).map(|chunk| canonical(self.elem, bits(chunk))).collect()
    }
}

/// The payload and sign of a NaN are not part of a kernel's meaning.
fn canonical(elem: Elem, bits: u64) -> u64 {
    let infinity = match elem {
        Elem::F16 => 0x7c00,
        Elem::Bf16 => 0x7f80,
        Elem::F32 => 0x7f80_0000,
        Elem::F64 => 0x7ff0_0000_0000_0000,
        _ => return bits,
    };
    let magnitude = bits & (u64::MAX >> (65 - elem.bits()));
    if magnitude > infinity { infinity + 1 } else { bits }
}

/// One launch: a verified kernel, its number of blocks, its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) kernel: Kernel,
    pub(crate) grid: i64,
    pub(crate) dims: Vec<i64>,
    pub(crate) buffers: Vec<Buffer>,
}

/// Legalizes and compiles `kernel` for each level that the host has or emulates and runs it on `grid` blocks; the buffers
/// must end up with the bits that the interpreter computes from the legalized kernel, in one range of blocks
/// as in several.
///
/// # Panics
/// If a level disagrees, or the kernel does not compile or run.
pub(crate) fn check_kernel(kernel: &Kernel, grid: i64, dims: &[i64], buffers: &[Buffer]) {
    let (dims, buffers) = (dims.to_vec(), buffers.to_vec());
    check_cases(&[Case { kernel: kernel.clone(), grid, dims, buffers }]);
}

/// As [`check_kernel`] on these levels alone, where the kernel must have the same bits before it is legalized.
pub(crate) fn check_on(levels: &[CpuLevel], case: &Case) {
    for level in levels {
        let target = CpuTarget::of_level(*level);
        let legal = legalize(&case.kernel, CpuOptions::of(&target)).unwrap_or_else(|error| panic!("{error}"));
        let [before, after] = [&case.kernel, &legal].map(|kernel| interpret(kernel, case));
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.bits(), after.bits(), "{} on {}", case.kernel.name, level.name());
        }
        check_level(std::slice::from_ref(case), &target);
    }
}

/// As [`check_kernel`] for several kernels in one image; their names must differ. Levels that neither the host nor an
/// emulator runs are reported on stdout.
pub(crate) fn check_cases(cases: &[Case]) {
    let mut seen: Vec<Vec<Kernel>> = Vec::new();
    for level in CpuLevel::ALL {
        let target = CpuTarget::of_level(level);
        // What a level of an emulated machine adds to the one below may not concern these kernels.
        if !level.runs_on_host() {
            let legal = |case: &Case| legalize(&case.kernel, CpuOptions::of(&target));
            if let Ok(legal) = cases.iter().map(legal).collect::<Result<Vec<_>, _>>() {
                if seen.contains(&legal) {
                    continue;
                }
                seen.push(legal);
            }
        }
        check_level(cases, &target);
    }
}

fn check_level(cases: &[Case], target: &CpuTarget) {
    let Some(place) = Place::of(target.level) else { return };
    let options = CpuOptions::of(target);
    let legal = |case: &Case| legalize(&case.kernel, options).unwrap_or_else(|error| panic!("{error}"));
    let kernels: Vec<Kernel> = cases.iter().map(legal).collect();
    let image = compile(&kernels, target).unwrap_or_else(|error| panic!("{error}: {:?}", error.source()));
    let code = place.load(&image);
    for (case, kernel) in cases.iter().zip(&kernels) {
        let expected = interpret(kernel, case);
        for ranges in [vec![0, case.grid], vec![0, case.grid / 3, case.grid / 2, case.grid]] {
            let mut found = case.buffers.clone();
            for range in ranges.windows(2) {
                code.run(&kernel.name, &mut found, &case.dims, range[0], range[1]);
            }
            for ((found, expected), param) in found.iter().zip(&expected).zip(&kernel.params) {
                let place = format!("{} on {}: {}", kernel.name, target.level.name(), param.name);
                assert_same_bits(&place, found, expected);
            }
        }
    }
}

/// The buffers of `case` after the interpreter ran all blocks of `kernel`.
fn interpret(kernel: &Kernel, case: &Case) -> Vec<Buffer> {
    let mut result = case.buffers.clone();
    let args: Vec<Arg> = (0..result.len()).map(Arg::start).collect();
    let mut bytes: Vec<&mut [u8]> = result.iter_mut().map(|buffer| buffer.bytes.as_mut_slice()).collect();
    Interpreter::new(kernel)
        .and_then(|interpreter| interpreter.run(0..case.grid, &case.dims, &args, &mut bytes))
        .unwrap_or_else(|error| panic!("{error}"));
    result
}

fn assert_same_bits(place: &str, found: &Buffer, expected: &Buffer) {
    let (found, expected) = (found.bits(), expected.bits());
    let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    if let Some(index) = differs {
        panic!("{place}[{index}] is {:#x}, the interpreter has {:#x}", found[index], expected[index]);
    }
}

/// What runs the code of a level.
pub(crate) enum Place {
    Host,
    Emulator(Emulator),
}

impl Place {
    /// `None`, said on stdout, if nothing here runs the level.
    pub(crate) fn of(level: CpuLevel) -> Option<Place> {
        if level.runs_on_host() {
            return Some(Place::Host);
        }
        emulator(level).map(Place::Emulator)
    }

    pub(crate) fn load(self, image: &CodeImage) -> Code {
        match self {
            Place::Host => Code::Host(ExecutableImage::map(image)),
            Place::Emulator(mut emulator) => {
                emulator.load(&image.bytes).unwrap_or_else(|error| panic!("{error}"));
                Code::Emulated(RefCell::new(emulator), image.entries.clone())
            }
        }
    }
}

/// An emulator of the level; `None`, said on stdout, if there is none.
///
/// # Panics
/// If there is one and it is broken.
pub(crate) fn emulator(level: CpuLevel) -> Option<Emulator> {
    match Emulator::start(level) {
        Ok(emulator) => Some(emulator),
        Err(error) if error.is_missing() => {
            println!("skipped: this machine does not run {}: {error}", level.name());
            None
        }
        Err(error) => panic!("{}: {error}", level.name()),
    }
}

/// A code image where it is run.
pub(crate) enum Code {
    Host(ExecutableImage),
    Emulated(RefCell<Emulator>, BTreeMap<String, u64>),
}

impl Code {
    /// Runs the blocks `begin..end` of a kernel, see [`ExecutableImage::run`].
    fn run(&self, name: &str, buffers: &mut [Buffer], dims: &[i64], begin: i64, end: i64) {
        match self {
            Code::Host(image) => image.run(name, buffers, dims, begin, end),
            Code::Emulated(emulator, entries) => {
                let (mut storage, args): (Vec<Vec<u8>>, Vec<Arg>) = (buffers.iter().enumerate())
                    .map(|(index, buffer)| {
                        let size = buffer.elem.size();
                        let bytes = [vec![0; size], buffer.bytes.clone()].concat();
                        (bytes, Arg { buffer: index, byte_offset: size })
                    })
                    .unzip();
                let run = emulator.borrow_mut().run(entries[name], &mut storage, &args, dims, begin..end);
                run.unwrap_or_else(|error| panic!("{name}: {error}"));
                for ((buffer, bytes), arg) in buffers.iter_mut().zip(storage).zip(args) {
                    buffer.bytes.copy_from_slice(&bytes[arg.byte_offset..]);
                }
            }
        }
    }
}

/// A code image mapped read + execute.
pub(crate) struct ExecutableImage {
    map: Mmap,
    entries: BTreeMap<String, u64>,
}

impl ExecutableImage {
    pub(crate) fn map(image: &CodeImage) -> ExecutableImage {
        let mut map = MmapMut::map_anon(image.bytes.len().max(1)).unwrap();
        assert!((map.as_ptr() as u64).is_multiple_of(IMAGE_ALIGN));
        map[..image.bytes.len()].copy_from_slice(&image.bytes);
        ExecutableImage { map: map.make_exec().unwrap(), entries: image.entries.clone() }
    }

    /// The address of a kernel's first instruction.
    pub(crate) fn entry(&self, name: &str) -> *const u8 {
        let offset = usize::try_from(self.entries[name]).unwrap();
        self.map[offset..].as_ptr()
    }

    /// Runs the blocks `begin..end` of a kernel. The buffers start at odd multiples of their element size, so
    /// code that assumes more alignment faults.
    pub(crate) fn run(&self, name: &str, buffers: &mut [Buffer], dims: &[i64], begin: i64, end: i64) {
        type Entry = extern "C" fn(*const *mut u8, *const i64, i64, i64);
        // SAFETY: entries of an image have this signature, and the image stays mapped during the call.
        let entry: Entry = unsafe { std::mem::transmute(self.entry(name)) };
        let mut storage: Vec<Vec<u64>> = buffers.iter().map(misaligned).collect();
        let bases: Vec<*mut u8> = storage
            .iter_mut()
            .zip(buffers.iter())
            .map(|(words, buffer)| bytemuck_bytes(words)[buffer.elem.size()..].as_mut_ptr())
            .collect();
        entry(bases.as_ptr(), dims.as_ptr(), begin, end);
        for (words, buffer) in storage.iter_mut().zip(buffers) {
            let (size, len) = (buffer.elem.size(), buffer.bytes.len());
            buffer.bytes.copy_from_slice(&bytemuck_bytes(words)[size..size + len]);
        }
    }
}

/// The buffer's bytes, one element after the start of an 8-byte aligned allocation.
fn misaligned(buffer: &Buffer) -> Vec<u64> {
    let size = buffer.elem.size();
    let mut words = vec![0u64; (size + buffer.bytes.len()).div_ceil(8)];
    bytemuck_bytes(&mut words)[size..size + buffer.bytes.len()].copy_from_slice(&buffer.bytes);
    words
}

fn bytemuck_bytes(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: any bytes are valid `u64`s and the other way round; the length is that of the same memory.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8) }
}
