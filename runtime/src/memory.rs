//! Aligned memory and the limits on it.

use std::fs;

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

use crate::error::RuntimeError;

/// Buffers and arena slots start at multiples of this many bytes.
pub(crate) const ALIGN: usize = 64;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Chunk([u8; ALIGN]);

/// Memory from this size on is mapped by itself: the system's pages are zeros when they are touched first, by the thread
/// that touches them. It is the size of a huge page, which such memory is asked to consist of: rows of activations lie a
/// page or more apart, so that small pages would have to be looked up for every step of a sequence.
const MAPPED: usize = 2 << 20;

/// Bytes that start at a multiple of [`ALIGN`].
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<Chunk>),
    Mapped(MmapMut),
}

impl AlignedBytes {
    /// `len` zeros; `None` if the allocator refuses.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let memory = if len >= MAPPED {
            Memory::Mapped(map(len)?)
        } else {
            let n_chunks = len.div_ceil(ALIGN);
            let mut chunks = Vec::new();
            chunks.try_reserve_exact(n_chunks).ok()?;
            chunks.resize(n_chunks, Chunk::zeroed());
            Memory::Heap(chunks)
        };
        Some(Self { memory, len })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(chunks) => &bytemuck::cast_slice(chunks)[..self.len],
            Memory::Mapped(map) => &map[..self.len],
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(chunks) => &mut bytemuck::cast_slice_mut(chunks)[..self.len],
            Memory::Mapped(map) => &mut map[..self.len],
        }
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        Self { memory: Memory::Heap(Vec::new()), len: 0 }
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> Self {
        let copy = |map: &MmapMut| -> Option<Memory> {
            let mut copied = self::map(map.len())?;
            copied.copy_from_slice(map);
            Some(Memory::Mapped(copied))
        };
        let memory = match &self.memory {
            Memory::Heap(chunks) => Memory::Heap(chunks.clone()),
            Memory::Mapped(map) => copy(map).unwrap_or_else(|| Memory::Heap(chunks_of(map))),
        };
        Self { memory, len: self.len }
    }
}

/// The bytes as chunks of the allocator, which reports by itself that it has no more.
fn chunks_of(bytes: &[u8]) -> Vec<Chunk> {
    let mut chunks = vec![Chunk::zeroed(); bytes.len().div_ceil(ALIGN)];
    bytemuck::cast_slice_mut(&mut chunks)[..bytes.len()].copy_from_slice(bytes);
    chunks
}

/// Zeros in pages of their own, huge ones where the system has them.
fn map(len: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(len).ok()?;
    // Small pages work as well; a system may have no others.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

/// How much memory a session may take in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryLimit(u64);

impl MemoryLimit {
    /// The limit asked for, else the machine's physical memory, else the address space.
    pub(crate) fn new(requested: Option<u64>) -> Self {
        Self(requested.or_else(physical_memory).unwrap_or(isize::MAX as u64))
    }

    /// An error that names `what` if `len` bytes exceed the limit.
    pub(crate) fn check(self, what: &str, len: u64) -> Result<(), RuntimeError> {
        if len <= self.0 { Ok(()) } else { Err(self.error(what, len)) }
    }

    /// `len` zeros, or an error that names `what`.
    pub(crate) fn allocate(self, what: &str, len: u64) -> Result<AlignedBytes, RuntimeError> {
        self.check(what, len)?;
        usize::try_from(len).ok().and_then(AlignedBytes::zeroed).ok_or_else(|| self.error(what, len))
    }

    fn error(self, what: &str, len: u64) -> RuntimeError {
        RuntimeError::Memory { what: what.to_owned(), expected: len, limit: self.0 }
    }
}

/// Bytes of memory that the machine has, where the system tells.
fn physical_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, AlignedBytes, MAPPED};

    #[test]
    fn memory_of_any_size_is_zeros_and_aligned_and_copies_are_independent() {
        for len in [0, 1, ALIGN + 1, MAPPED - 1, MAPPED, MAPPED + 1] {
            let mut memory = AlignedBytes::zeroed(len).unwrap();
            assert_eq!(memory.as_slice().len(), len);
            assert!(memory.as_slice().iter().all(|byte| *byte == 0));
            assert_eq!(memory.as_slice().as_ptr().align_offset(ALIGN), 0);
            if let Some(last) = memory.as_mut_slice().last_mut() {
                *last = 7;
            }
            let copy = memory.clone();
            memory.as_mut_slice().fill(1);
            assert_eq!(copy.as_slice().len(), len);
            assert_eq!(copy.as_slice().last().copied(), (len > 0).then_some(7));
        }
        assert!(AlignedBytes::zeroed(isize::MAX as usize).is_none());
    }
}
