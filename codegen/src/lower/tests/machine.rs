//! The launches of a plan as machine code.
#![expect(unsafe_code, reason = "tests call machine code")]

use super::super::Arg;
use super::memory::Memory;
use super::problem::Launch;
use crate::kernel::Kernel;
use crate::kernel::interp::Arg as Place;
use crate::llvm::compile;
use crate::llvm::tests::harness;
use crate::target::CpuTarget;
use std::collections::BTreeMap;

pub(super) struct Code(harness::Code);

type Entry = extern "C" fn(*const *mut u8, *const i64, i64, i64);

impl Code {
    /// The code for this level, or `None`, said on stdout, if nothing here runs it.
    pub(super) fn compile(launches: &[Launch], target: &CpuTarget) -> Option<Code> {
        let place = harness::Place::of(target.level)?;
        let kernels: Vec<Kernel> = launches.iter().map(|l| l.legal.clone()).collect();
        let image = compile(&kernels, target).unwrap_or_else(|error| panic!("{error}"));
        Some(Code(place.load(&image)))
    }

    /// Runs all blocks of a launch, the first third apart from the rest. Buffers start one element after an aligned
    /// address, so that code that assumes more than the element's alignment faults.
    pub(super) fn run(&self, launch: &Launch, memory: &mut Memory<'_>) {
        let (dims, grid) = (memory.dims(&launch.lowered), memory.grid(&launch.lowered));
        let name = &launch.legal.name;
        let params = memory.params(&launch.lowered);
        let mut sizes: BTreeMap<&Arg, usize> = BTreeMap::new();
        for (arg, param) in params.iter().zip(&launch.legal.params) {
            let size = sizes.entry(arg).or_default();
            *size = param.elem.size().max(*size);
        }
        let mut storage: BTreeMap<&Arg, Vec<u64>> = sizes
            .iter()
            .map(|(arg, size)| {
                let bytes = &memory.buffers[*arg];
                let mut words = vec![0u64; (size + bytes.len()).div_ceil(8)];
                as_bytes(&mut words)[*size..size + bytes.len()].copy_from_slice(bytes);
                (*arg, words)
            })
            .collect();
        let ranges = [0..grid / 3, grid / 3..grid];
        match &self.0 {
            harness::Code::Host(image) => {
                // SAFETY: entries of an image have this signature, and the image stays mapped during the call.
                let entry: Entry = unsafe { std::mem::transmute(image.entry(name)) };
                let bases: Vec<*mut u8> = params
                    .iter()
                    .map(|arg| as_bytes(storage.get_mut(arg).unwrap())[sizes[arg]..].as_mut_ptr())
                    .collect();
                ranges.into_iter().for_each(|blocks| {
                    entry(bases.as_ptr(), dims.as_ptr(), blocks.start, blocks.end);
                });
            }
            harness::Code::Emulated(emulator, entries) => {
                let mut buffers: Vec<Vec<u8>> =
                    storage.values_mut().map(|words| as_bytes(words).to_vec()).collect();
                let place = |arg: &Arg| Place {
                    buffer: sizes.keys().position(|known| *known == arg).unwrap(),
                    byte_offset: sizes[arg],
                };
                let args: Vec<Place> = params.iter().map(place).collect();
                for blocks in ranges {
                    let run = emulator.borrow_mut().run(entries[name], &mut buffers, &args, &dims, blocks);
                    run.unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                for (words, bytes) in storage.values_mut().zip(buffers) {
                    as_bytes(words).copy_from_slice(&bytes);
                }
            }
        }
        for (arg, param) in params.iter().zip(&launch.legal.params) {
            let found = &as_bytes(storage.get_mut(arg).unwrap())[sizes[arg]..];
            let bytes = memory.buffers.get_mut(arg).unwrap();
            let found = &found[..bytes.len()];
            assert!(param.access.writes() || found == bytes.as_slice(), "{} is written", param.name);
            bytes.copy_from_slice(found);
        }
    }
}

fn as_bytes(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: any bytes are valid `u64`s and the other way round; the length is that of the same memory.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8) }
}
