//! Aligned memory and the limits on it.

use std::fs;

use bytemuck::{Pod, Zeroable};

use crate::error::RuntimeError;

/// Buffers and arena slots start at multiples of this many bytes.
pub(crate) const ALIGN: usize = 64;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Chunk([u8; ALIGN]);

/// Bytes that start at a multiple of [`ALIGN`].
#[derive(Clone, Debug, Default)]
pub(crate) struct AlignedBytes {
    chunks: Vec<Chunk>,
    len: usize,
}

impl AlignedBytes {
    /// `len` zeros; `None` if the allocator refuses.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let n_chunks = len.div_ceil(ALIGN);
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(n_chunks).ok()?;
        chunks.resize(n_chunks, Chunk::zeroed());
        Some(Self { chunks, len })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.chunks)[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.chunks)[..self.len]
    }
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
