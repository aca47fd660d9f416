//! The CUDA driver: its functions as methods with errors.
//!
//! The driver's library is loaded when it is first asked for; nothing of CUDA is linked.
#![expect(unsafe_code, reason = "the driver is a C library")]

use std::ffi::{CString, c_void};

use cudarc::driver::result::stream::StreamKind;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::GpuError;

/// The functions that this runtime calls; a driver that lacks one is too old.
const SYMBOLS: [&str; 33] = [
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
    "cuMemsetD8Async",
    "cuMemcpyDtoDAsync_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
];

pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(DriverError) -> GpuError {
    let what = what.into();
    move |source| GpuError::Driver { what, message: message(source) }
}

fn message(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}

/// Loads the driver and counts its devices.
fn initialize() -> Result<i32, GpuError> {
    // SAFETY: asks for a library and looks names up in it; nothing is called before all are there.
    unsafe {
        if !sys::is_culib_present() {
            return Err(GpuError::NoDriver);
        }
        let library = sys::culib();
        for name in SYMBOLS {
            let terminated = CString::new(name).expect("the names have no zeros");
            if library.get::<*const c_void>(terminated.as_bytes_with_nul()).is_err() {
                return Err(GpuError::OldDriver { symbol: name });
            }
        }
    }
    result::init().map_err(failed("starting the driver"))?;
    result::device::get_count().map_err(failed("counting devices"))
}

/// The first GPU, with a context of this process on it and a stream, in whose order everything happens.
#[derive(Debug)]
pub(super) struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: the handles are plain numbers for the driver, which may be called from any thread that has set the context.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Compute capability of the first GPU.
pub(crate) fn capability() -> Result<(i32, i32), GpuError> {
    if initialize()? == 0 {
        return Err(GpuError::NoDevice);
    }
    let device = result::device::get(0).map_err(failed("finding the device"))?;
    use sys::CUdevice_attribute as Attribute;
    let attribute = |which| {
        // SAFETY: `device` came from the driver.
        unsafe { result::device::get_attribute(device, which) }
            .map_err(failed("asking for the compute capability"))
    };
    Ok((
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

impl Device {
    pub(super) fn open() -> Result<Device, GpuError> {
        if initialize()? == 0 {
            return Err(GpuError::NoDevice);
        }
        let device = result::device::get(0).map_err(failed("finding the device"))?;
        // SAFETY: `device` came from the driver; the context is released when this value is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("making a context"))?;
        let mut opened = Device { device, context, stream: std::ptr::null_mut() };
        opened.enter()?;
        opened.stream = result::stream::create(StreamKind::NonBlocking).map_err(failed("making a stream"))?;
        Ok(opened)
    }

    /// The stream of everything that happens here.
    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// The name of the device.
    pub(super) fn name(&self) -> Result<String, GpuError> {
        result::device::get_name(self.device).map_err(failed("asking for the device's name"))
    }

    /// Makes this thread use the device.
    pub(super) fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("entering the context"))
    }

    /// Multiprocessors, and the clock that they reach at most, in Hz.
    pub(super) fn multiprocessors(&self) -> Result<(i32, f64), GpuError> {
        use sys::CUdevice_attribute as Attribute;
        let attribute = |which| {
            // SAFETY: `device` came from the driver.
            unsafe { result::device::get_attribute(self.device, which) }
                .map_err(failed("asking for the multiprocessors"))
        };
        let kilohertz = attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        Ok((attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?, f64::from(kilohertz) * 1e3))
    }

    /// Waits for everything that was launched.
    pub(super) fn synchronize(&self, what: &str) -> Result<(), GpuError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed(what))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.enter();
        // SAFETY: made and retained in `open`. There is nobody to tell of a failure.
        unsafe {
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// A loaded module.
#[derive(Debug)]
pub(super) struct Module(sys::CUmodule);

// SAFETY: the handle is a plain number for the driver.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Bytes of the driver's log that are kept.
const LOG: usize = 8192;

impl Module {
    /// Compiles PTX for the device.
    pub(super) fn compile(ptx: &[u8]) -> Result<Module, GpuError> {
        let text =
            CString::new(ptx).map_err(|_| GpuError::Module { log: "the text contains a zero".into() })?;
        // SAFETY: the text ends with a zero.
        unsafe { Self::load(text.as_ptr().cast()) }
    }

    /// Loads machine code.
    pub(super) fn of_cubin(cubin: &[u8]) -> Result<Module, GpuError> {
        if !is_whole(cubin) {
            return Err(GpuError::Module { log: "it is no whole ELF file".into() });
        }
        // SAFETY: the bytes are an ELF file whose tables lie inside.
        unsafe { Self::load(cubin.as_ptr().cast()) }
    }

    /// Loads a text or an ELF file.
    ///
    /// # Safety
    /// The text ends with a zero; the file is as long as its header says.
    unsafe fn load(image: *const c_void) -> Result<Module, GpuError> {
        let mut log = vec![0u8; LOG];
        let mut module = std::ptr::null_mut();
        use sys::CUjit_option as Jit;
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        // SAFETY: by the contract of this function; the log is as long as the second option says.
        let loaded = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&raw mut module, image, 2, options, values)
        };
        match loaded.result() {
            Ok(()) => Ok(Module(module)),
            Err(error) => {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(LOG);
                let log = String::from_utf8_lossy(&log[..end]);
                Err(GpuError::Module { log: format!("{}\n{log}", message(error)) })
            }
        }
    }

    pub(super) fn function(&self, name: &str) -> Result<Handle, GpuError> {
        let error = failed(format!("finding kernel {name}"));
        let Ok(name) = CString::new(name) else { return Err(GpuError::Name { kernel: name.to_owned() }) };
        // SAFETY: the module is loaded as long as `self` lives.
        unsafe { result::module::get_function(self.0, name) }.map(Handle).map_err(error)
    }
}

/// Whether an ELF file of 64 bits has the tables that its header names; the driver is not told how long it is.
fn is_whole(file: &[u8]) -> bool {
    let number = |at: usize, len: usize| {
        let bytes = file.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte)))
    };
    let table = |start: usize, entries: usize| {
        let size = number(entries, 2)?.checked_mul(number(entries + 2, 2)?)?;
        number(start, 8)?.checked_add(size)
    };
    let ends = [table(0x20, 0x36), table(0x28, 0x3a)];
    file.starts_with(b"\x7fELF\x02") && ends.iter().all(|end| end.is_some_and(|end| end <= file.len()))
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded in `load`. There is nobody to tell of a failure.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

/// A kernel of a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle(sys::CUfunction);

// SAFETY: the handle is a plain number for the driver.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Lets launches of kernel `name` ask for this much shared memory.
    pub(super) fn allow_shared(self, name: &str, bytes: u32) -> Result<(), GpuError> {
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let what = || format!("giving kernel {name} {bytes} bytes of shared memory");
        let bytes = i32::try_from(bytes).map_err(|_| GpuError::Shared { kernel: name.to_owned(), bytes })?;
        // SAFETY: the module is loaded as long as the handle is used.
        unsafe { result::function::set_function_attribute(self.0, most, bytes) }.map_err(failed(what()))
    }

    /// Starts `grid` blocks; every argument is 64 bits wide. With `overlaps` they may begin while the launch before is
    /// still at work.
    ///
    /// # Safety
    /// The module is loaded, the arguments are those that the kernel takes, and the memory behind them is live and as
    /// large as the kernel assumes until it has ended. A kernel that overlaps waits for the launch before by itself.
    pub(super) unsafe fn launch(
        self,
        grid: u32,
        (block, shared): ([u32; 3], u32),
        args: &mut [u64],
        pointers: &mut Vec<*mut c_void>,
        (device, overlaps): (&Device, bool),
    ) -> Result<(), DriverError> {
        pointers.clear();
        pointers.extend(args.iter_mut().map(|arg| (&raw mut *arg).cast()));
        let [x, y, z] = block;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: x,
            blockDimY: y,
            blockDimZ: z,
            sharedMemBytes: shared,
            hStream: device.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(overlaps),
        };
        let extra = std::ptr::null_mut();
        // SAFETY: by the contract of this function; the configuration and the attribute live during the call.
        unsafe { sys::cuLaunchKernelEx(&raw const config, self.0, pointers.as_mut_ptr(), extra) }.result()
    }
}

/// What the driver says about a failed launch of so many blocks, of so many threads and bytes of shared memory.
pub(super) fn launch_error(
    kernel: &str,
    (grid, ([x, y, z], shared)): (u32, ([u32; 3], u32)),
    error: DriverError,
) -> GpuError {
    let launch = format!("{grid} blocks of {x}x{y}x{z} threads, {shared} bytes of dynamic shared memory");
    GpuError::Driver { what: format!("launching kernel {kernel}: {launch}"), message: message(error) }
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn files_must_be_as_long_as_their_tables() {
        let mut file = vec![0u8; 128];
        assert!(!is_whole(&file) && !is_whole(&[]));
        file[..5].copy_from_slice(b"\x7fELF\x02");
        // Two sections of 32 bytes from byte 64 on.
        (file[0x28], file[0x3a], file[0x3c]) = (64, 32, 2);
        assert!(is_whole(&file));
        assert!(!is_whole(&file[..127]));
        file[0x2f] = 0xff;
        assert!(!is_whole(&file));
    }
}
