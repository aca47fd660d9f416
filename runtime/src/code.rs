//! Machine code: mapping it and calling it.
#![expect(unsafe_code, reason = "files are mapped and compiled kernels are called here")]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Mmap, MmapOptions};

/// The interface of a compiled kernel: buffers, dims, first block, end of blocks.
type Function = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64);

/// Maps a whole file to be read.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read as plain bytes. That nobody changes the file while it is mapped is part of
    // the contract of `Artifact::open`, as it cannot be enforced.
    unsafe { Mmap::map(file) }
}

/// A code image, mapped read and execute.
#[derive(Debug)]
pub(crate) struct Code {
    map: Mmap,
}

impl Code {
    /// Maps `length` bytes at `offset` of an artefact, whose checksum was compared when it was opened.
    pub(crate) fn map(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: as for `map_file`.
        let map = unsafe { MmapOptions::new().offset(offset).len(length).map_exec(file)? };
        Ok(Self { map })
    }

    /// The kernel at `offset`; `None` if that is outside the image.
    pub(crate) fn kernel(&self, offset: u64) -> Option<KernelFn> {
        let start = self.map.get(usize::try_from(offset).ok()?..)?.first()?;
        // SAFETY: the address lies in an executable mapping; that a function with this interface starts there
        // is what the artefact's manifest says. Callers keep `self` alive while they use the kernel.
        let entry = unsafe { std::mem::transmute::<*const u8, Function>(start) };
        Some(KernelFn(entry))
    }
}

/// The address of a compiled kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelFn(Function);

/// A kernel that can be run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    Cpu(KernelFn),
    #[cfg(feature = "cuda")]
    Gpu(crate::cuda::GpuKernel),
}

/// The address of a buffer, on the device whose kernels get it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct BufPtr(*mut u8);

// SAFETY: a `BufPtr` is an address; it is only followed by `KernelFn::call`, whose contract covers threads.
unsafe impl Send for BufPtr {}
// SAFETY: as above.
unsafe impl Sync for BufPtr {}

impl BufPtr {
    /// Memory that kernels only read.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self(bytes.as_ptr().cast_mut())
    }

    /// Memory that kernels may write.
    pub(crate) fn write(bytes: &mut [u8]) -> Self {
        Self(bytes.as_mut_ptr())
    }

    /// Memory of a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn device(address: u64) -> Self {
        Self(address as usize as *mut u8)
    }

    /// The address as a number.
    #[cfg(feature = "cuda")]
    pub(crate) fn address(self) -> u64 {
        self.0 as usize as u64
    }

    /// The `len` bytes at the address.
    ///
    /// # Safety
    /// They are memory of this process, live, initialized and not written while the slice exists.
    pub(crate) unsafe fn bytes<'a>(self, len: usize) -> &'a [u8] {
        // SAFETY: by the contract of this function.
        unsafe { std::slice::from_raw_parts(self.0, len) }
    }

    /// The address `bytes` further on.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl KernelFn {
    /// Runs the blocks `blocks`.
    ///
    /// # Safety
    /// The code image is mapped. `bufs` and `dims` have the entries that the kernel takes; each buffer is live
    /// and as large as the kernel's launch assumes; those written are exclusively the caller's, who shares them
    /// only among threads running other blocks of the same launch.
    pub(crate) unsafe fn call(self, bufs: &[BufPtr], dims: &[i64], blocks: Range<i64>) {
        // SAFETY: by the contract of this function; `BufPtr` is a transparent `*mut u8`.
        unsafe { (self.0)(bufs.as_ptr().cast(), dims.as_ptr(), blocks.start, blocks.end) }
    }
}
