//! The launches of a plan as machine code.
#![expect(unsafe_code, reason = "tests call machine code")]

use super::super::Arg;
use super::memory::Memory;
use super::problem::Launch;
use crate::kernel::Kernel;
use crate::llvm::compile;
use crate::target::CpuTarget;
use memmap2::{Mmap, MmapMut};
use std::collections::BTreeMap;

pub(super) struct Code {
    map: Mmap,
    entries: BTreeMap<String, u64>,
}

type Entry = extern "C" fn(*const *mut u8, *const i64, i64, i64);

impl Code {
    /// The code for this level, or `None`, said on stdout, if this machine does not run it.
    pub(super) fn compile(launches: &[Launch], target: &CpuTarget) -> Option<Code> {
        if !target.level.runs_on_host() {
            println!("skipped: this machine does not run {}", target.level.name());
            return None;
        }
        let kernels: Vec<Kernel> = launches.iter().map(|l| l.legal.clone()).collect();
        let image = compile(&kernels, target).unwrap_or_else(|error| panic!("{error}"));
        let mut map = MmapMut::map_anon(image.bytes.len().max(1)).unwrap();
        map[..image.bytes.len()].copy_from_slice(&image.bytes);
        Some(Code { map: map.make_exec().unwrap(), entries: image.entries.clone() })
    }

    /// Runs all blocks of a launch, the first third apart from the rest. Buffers start one element after an aligned
    /// address, so that code that assumes more than the element's alignment faults.
    pub(super) fn run(&self, launch: &Launch, memory: &mut Memory<'_>) {
        let (dims, grid) = (memory.dims(&launch.lowered), memory.grid(&launch.lowered));
        let offset = usize::try_from(self.entries[&launch.legal.name]).unwrap();
        // SAFETY: entries of an image have this signature, and the image stays mapped during the call.
        let entry: Entry = unsafe { std::mem::transmute(self.map[offset..].as_ptr()) };
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
        let bases: Vec<*mut u8> = params
            .iter()
            .map(|arg| as_bytes(storage.get_mut(arg).unwrap())[sizes[arg]..].as_mut_ptr())
            .collect();
        for (begin, end) in [(0, grid / 3), (grid / 3, grid)] {
            entry(bases.as_ptr(), dims.as_ptr(), begin, end);
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
