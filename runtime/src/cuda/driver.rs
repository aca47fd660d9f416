//! The CUDA driver: its functions as methods with errors.
//!
//! The driver's library is loaded when it is first asked for; nothing of CUDA is linked.
#![expect(unsafe_code, reason = "the driver is a C library")]

use std::ffi::{CString, c_void};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::GpuError;

/// The functions that this runtime calls; a driver that lacks one is too old.
const SYMBOLS: [&str; 23] = [
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuMemsetD8Async",
    "cuMemcpyDtoDAsync_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
];

fn failed(what: impl Into<String>) -> impl FnOnce(DriverError) -> GpuError {
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

/// The first GPU, with a context of this process on it.
#[derive(Debug)]
pub(super) struct Device {
    device: sys::CUdevice,
    context: sys::CUcontext,
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
        let opened = Device { device, context };
        opened.enter()?;
        Ok(opened)
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
        result::ctx::synchronize().map_err(failed(what))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained in `open`. There is nobody to tell of a failure.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of the device; the context is current wherever it is used.
#[derive(Debug)]
pub(super) struct DeviceMemory {
    start: sys::CUdeviceptr,
    len: usize,
}

impl DeviceMemory {
    /// Memory with zeros in it.
    pub(super) fn zeroed(what: &str, len: usize) -> Result<Self, GpuError> {
        if len == 0 {
            return Ok(Self { start: 0, len });
        }
        // SAFETY: the memory is freed when this value is dropped, and written before anybody reads it.
        let start = unsafe { result::malloc_sync(len) }
            .map_err(failed(format!("allocating {len} bytes for {what}")))?;
        let memory = Self { start, len };
        // SAFETY: the range was just allocated.
        unsafe { result::memset_d8_sync(start, 0, len) }.map_err(failed(format!("clearing {what}")))?;
        Ok(memory)
    }

    /// The address of byte `offset`, as kernels see it.
    pub(super) fn address(&self, offset: usize) -> u64 {
        self.start + offset as u64
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        assert!(offset + bytes.len() <= self.len, "the plan made room for what is copied");
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside the allocation.
        unsafe { result::memcpy_htod_sync(self.address(offset), bytes) }
            .map_err(failed("copying to the device"))
    }
}

impl DeviceMemory {
    /// Fills all of it, after what was launched before; returns before that is done.
    pub(super) fn fill(&self, byte: u8) -> Result<(), GpuError> {
        // SAFETY: the range is the allocation.
        unsafe { result::memset_d8_async(self.start, byte, self.len, std::ptr::null_mut()) }
            .map_err(failed("filling memory of the device"))
    }

    /// Copies the first half to the second, after what was launched before; returns before that is done.
    pub(super) fn copy_half(&self) -> Result<(), GpuError> {
        let half = self.len / 2;
        // SAFETY: both halves lie inside the allocation and do not overlap.
        unsafe { result::memcpy_dtod_async(self.address(half), self.start, half, std::ptr::null_mut()) }
            .map_err(failed("copying on the device"))
    }
}

/// A place in the order of launches whose time is taken.
#[derive(Debug)]
pub(super) struct Event(sys::CUevent);

impl Event {
    /// Takes the time at which everything launched so far has ended.
    pub(super) fn record() -> Result<Event, GpuError> {
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("making an event"))?;
        let event = Event(event);
        // SAFETY: the event was just made.
        unsafe { result::event::record(event.0, std::ptr::null_mut()) }
            .map_err(failed("recording an event"))?;
        Ok(event)
    }

    /// Seconds from this event to a later one, both of which have been reached.
    pub(super) fn seconds_to(&self, later: &Event) -> Result<f64, GpuError> {
        // SAFETY: both events live and are of the same stream.
        let ms = unsafe { result::event::elapsed(self.0, later.0) }.map_err(failed("reading an event"))?;
        Ok(f64::from(ms) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `record`. There is nobody to tell of a failure.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Copies from the device.
///
/// # Safety
/// `address` is followed by as many live bytes of device memory.
pub(super) unsafe fn read(address: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: by the contract of this function.
    unsafe { result::memcpy_dtoh_sync(bytes, address) }.map_err(failed("copying from the device"))
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed`. There is nobody to tell of a failure.
            let _ = unsafe { result::free_sync(self.start) };
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
    pub(super) fn load(ptx: &[u8]) -> Result<Module, GpuError> {
        let text =
            CString::new(ptx).map_err(|_| GpuError::Module { log: "the text contains a zero".into() })?;
        let mut log = vec![0u8; LOG];
        let mut module = std::ptr::null_mut();
        use sys::CUjit_option as Jit;
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        // SAFETY: the text ends with a zero, and the log is as long as the second option says.
        let loaded = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&raw mut module, text.as_ptr().cast(), 2, options, values)
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

    /// Starts `grid` blocks; every argument is 64 bits wide.
    ///
    /// # Safety
    /// The module is loaded, the arguments are those that the kernel takes, and the memory behind them is live and as
    /// large as the kernel assumes until it has ended.
    pub(super) unsafe fn launch(
        self,
        grid: u32,
        (block, shared): ([u32; 3], u32),
        args: &mut [u64],
        pointers: &mut Vec<*mut c_void>,
    ) -> Result<(), DriverError> {
        pointers.clear();
        pointers.extend(args.iter_mut().map(|arg| (&raw mut *arg).cast()));
        let stream = std::ptr::null_mut();
        let [x, y, z] = block;
        // SAFETY: by the contract of this function.
        unsafe { result::launch_kernel(self.0, (grid, 1, 1), (x, y, z), shared, stream, pointers) }
    }
}

/// What the driver says about a failed launch.
pub(super) fn launch_error(kernel: &str, error: DriverError) -> GpuError {
    GpuError::Driver { what: format!("launching kernel {kernel}"), message: message(error) }
}
