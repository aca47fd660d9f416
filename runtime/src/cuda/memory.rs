//! Memory of the device, and memory of this process that the device reads and writes by itself.
#![expect(unsafe_code, reason = "the driver is a C library")]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::GpuError;
use super::driver::{Device, failed};

/// Memory of a device. What is done with it happens in the order of the device's stream.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    device: Arc<Device>,
    start: sys::CUdeviceptr,
    len: usize,
}

impl DeviceMemory {
    /// Memory with zeros in it.
    pub(super) fn zeroed(device: &Arc<Device>, what: &str, len: usize) -> Result<Self, GpuError> {
        device.enter()?;
        let mut memory = Self { device: Arc::clone(device), start: 0, len };
        if len > 0 {
            // SAFETY: the memory is freed when this value is dropped, and written before anybody reads it.
            memory.start = unsafe { result::malloc_sync(len) }
                .map_err(failed(format!("allocating {len} bytes for {what}")))?;
            memory.fill(0)?;
        }
        Ok(memory)
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `offset`, as kernels see it.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.start + offset as u64
    }

    /// Copies `bytes` to byte `offset`; they may change afterwards.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        assert!(offset + bytes.len() <= self.len, "the plan made room for what is copied");
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.enter()?;
        // SAFETY: the range lies inside the allocation, and the driver has read memory that is not page-locked when it
        // returns.
        unsafe { result::memcpy_htod_async(self.address(offset), bytes, self.device.stream()) }
            .map_err(failed("copying to the device"))
    }

    /// Copies the bytes from `offset` on, once everything before has ended.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), GpuError> {
        assert!(offset + bytes.len() <= self.len, "what is read lies inside the memory");
        // SAFETY: the range lies inside the allocation.
        unsafe { read(&self.device, self.address(offset), bytes) }
    }

    /// Copies `len` bytes from `offset` to byte `at` of `to`; returns before that is done.
    pub(crate) fn copy_to(
        &self,
        offset: usize,
        (to, at): (&DeviceMemory, usize),
        len: usize,
    ) -> Result<(), GpuError> {
        assert!(offset + len <= self.len, "what is copied lies inside the memory");
        // SAFETY: the range lies inside the allocation.
        unsafe { to.copy_from(at, self.address(offset), len) }
    }

    /// Copies `len` bytes at `address` to byte `at`; returns before that is done.
    ///
    /// # Safety
    /// `address` is followed by as many live bytes of device memory, which stay so until the copy is done.
    pub(super) unsafe fn copy_from(&self, at: usize, address: u64, len: usize) -> Result<(), GpuError> {
        assert!(at + len <= self.len, "what is copied finds room");
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the target lies inside the allocation; the source by the contract of this function.
        unsafe { result::memcpy_dtod_async(self.address(at), address, len, self.device.stream()) }
            .map_err(failed("copying on the device"))
    }

    /// Fills all of it; returns before that is done.
    pub(super) fn fill(&self, byte: u8) -> Result<(), GpuError> {
        // SAFETY: the range is the allocation.
        unsafe { result::memset_d8_async(self.start, byte, self.len, self.device.stream()) }
            .map_err(failed("filling memory of the device"))
    }

    /// Copies the first half to the second; returns before that is done.
    pub(super) fn copy_half(&self) -> Result<(), GpuError> {
        let half = self.len / 2;
        // SAFETY: both halves lie inside the allocation and do not overlap.
        unsafe { result::memcpy_dtod_async(self.address(half), self.start, half, self.device.stream()) }
            .map_err(failed("copying on the device"))
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.start != 0 {
            let _ = self.device.enter();
            // SAFETY: allocated in `zeroed`. There is nobody to tell of a failure.
            let _ = unsafe { result::free_sync(self.start) };
        }
    }
}

/// Copies from the device, once everything before has ended.
///
/// # Safety
/// `address` is followed by as many live bytes of device memory.
pub(super) unsafe fn read(device: &Device, address: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
    if bytes.is_empty() {
        return Ok(());
    }
    device.enter()?;
    // SAFETY: by the contract of this function; the stream has come to its end before `bytes` is used.
    unsafe { result::memcpy_dtoh_async(bytes, address, device.stream()) }
        .map_err(failed("copying from the device"))?;
    device.synchronize("copying from the device")
}

/// Page-locked memory of this process: copies from the device need no detour.
#[derive(Debug)]
pub(super) struct Pinned {
    device: Arc<Device>,
    start: *mut c_void,
    len: usize,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Pinned {}
// SAFETY: as above; it is written through `&mut self` only.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(device: &Arc<Device>, len: usize) -> Result<Self, GpuError> {
        device.enter()?;
        let mut memory = Self { device: Arc::clone(device), start: std::ptr::null_mut(), len };
        if len > 0 {
            // SAFETY: freed when this value is dropped.
            memory.start = unsafe { result::malloc_host(len, 0) }
                .map_err(failed(format!("allocating {len} bytes of page-locked memory")))?;
            // SAFETY: just allocated, as long as it says.
            unsafe { memory.start.cast::<u8>().write_bytes(0, len) };
        }
        Ok(memory)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Copies `len` bytes from the device to the start, once everything before has ended.
    ///
    /// # Safety
    /// `address` is followed by as many live bytes of device memory.
    pub(super) unsafe fn fetch(&mut self, address: u64, len: usize) -> Result<&[u8], GpuError> {
        assert!(len <= self.len, "the caller compared the lengths");
        if len == 0 {
            return Ok(&[]);
        }
        // SAFETY: allocated and written by `new`, at least as long, and borrowed exclusively.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.cast::<u8>(), len) };
        // SAFETY: by the contract of this function.
        unsafe { read(&self.device, address, bytes)? };
        Ok(bytes)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.start.is_null() {
            let _ = self.device.enter();
            // SAFETY: allocated in `new`. There is nobody to tell of a failure.
            let _ = unsafe { result::free_host(self.start) };
        }
    }
}
