//! NVIDIA GPUs: an artefact's PTX through the driver.
//!
//! Weights are copied to the device once; inputs, outputs, scratch memory and the state have memory there that is
//! planned once too. A call copies inputs and state to the device, launches the kernels one after another, and copies
//! outputs and state back, so that states are the same blobs on every device.
#![expect(unsafe_code, reason = "kernels are launched with device addresses")]

mod driver;
mod measure;

use std::ffi::c_void;
use std::ops::Range;

use ssmc_artifact::{DType, Program, TensorInfo};

use crate::artifact::Artifact;
use crate::code::BufPtr;
use crate::error::RuntimeError;
use crate::memory::ALIGN;
use crate::plan::{Call, Region};
use driver::{Device, DeviceMemory, Handle, Module};

pub(crate) use driver::capability;
pub use measure::GpuFacts;

/// What the driver or the device refused.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The driver's library is not installed.
    #[error("no CUDA driver is installed")]
    NoDriver,
    /// The driver lacks a function that is needed.
    #[error("the CUDA driver is too old: it lacks {symbol}")]
    OldDriver {
        /// The function.
        symbol: &'static str,
    },
    /// The driver finds no device.
    #[error("the CUDA driver finds no device")]
    NoDevice,
    /// A call to the driver failed.
    #[error("{what}: {message}")]
    Driver {
        /// What was tried, with the kernel if one is concerned.
        what: String,
        /// The driver's words.
        message: String,
    },
    /// The driver does not load the module.
    #[error("the driver rejects the PTX module: {log}")]
    Module {
        /// The driver's log.
        log: String,
    },
    /// A kernel's name that no module can have.
    #[error("kernel name {kernel:?}")]
    Name {
        /// The name.
        kernel: String,
    },
    /// More shared memory than a launch can have.
    #[error("kernel {kernel}: {bytes} bytes of shared memory")]
    Shared {
        /// The kernel.
        kernel: String,
        /// Bytes asked for.
        bytes: u32,
    },
    /// More blocks than a launch can have.
    #[error("kernel {kernel}: {grid} blocks, at most {}", i32::MAX)]
    Grid {
        /// The kernel.
        kernel: String,
        /// Blocks asked for.
        grid: i64,
    },
}

/// A kernel on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GpuKernel {
    handle: Handle,
    block: [u32; 3],
    /// Bytes that a launch asks for.
    shared: u32,
}

/// An artefact on a device. Fields are dropped in order: memory and module before the context.
#[derive(Debug)]
pub(crate) struct Gpu {
    kernels: Vec<Option<GpuKernel>>,
    weights: DeviceMemory,
    weight_ranges: Vec<Range<usize>>,
    arena: DeviceMemory,
    /// Inputs, then outputs of the running program.
    io: DeviceMemory,
    states: [DeviceMemory; 2],
    scratch: Scratch,
    name: String,
    _module: Module,
    device: Device,
}

/// Arguments of a launch, kept so that launches allocate nothing.
#[derive(Debug, Default)]
struct Scratch {
    args: Vec<u64>,
    pointers: Vec<*mut c_void>,
}

// SAFETY: the pointers are only followed during the launch that fills them.
unsafe impl Send for Scratch {}
// SAFETY: as above.
unsafe impl Sync for Scratch {}

/// What memory a session needs on the device besides weights.
pub(crate) struct Sizes {
    pub(crate) arena: usize,
    pub(crate) io: usize,
    pub(crate) state: usize,
}

impl Gpu {
    /// Loads the PTX module of `level` and copies the weights.
    pub(crate) fn load(artifact: &Artifact, level: usize) -> Result<Self, RuntimeError> {
        let manifest = artifact.manifest();
        let device = Device::open()?;
        let module = Module::load(artifact.code(level))?;
        let mut kernels = Vec::with_capacity(manifest.kernels.len());
        for kernel in &manifest.kernels {
            let is_here = kernel.entries[level] != ssmc_artifact::NO_ENTRY;
            let [x, y, z] = kernel.block[..] else { unreachable!("the reader checks that there are three") };
            kernels.push(match is_here {
                true => {
                    let handle = module.function(&kernel.name)?;
                    let shared = u32::try_from(kernel.dynamic_shared_bytes).unwrap_or(u32::MAX);
                    if shared > 0 {
                        handle.allow_shared(&kernel.name, shared)?;
                    }
                    Some(GpuKernel { handle, block: [x, y, z], shared })
                }
                false => None,
            });
        }
        let mut weight_ranges = Vec::with_capacity(manifest.weights.len());
        let mut end = 0usize;
        for index in 0..manifest.weights.len() {
            let len = artifact.weight(index).len();
            weight_ranges.push(end..end + len);
            end = (end + len).next_multiple_of(ALIGN);
        }
        let mut weights = DeviceMemory::zeroed("the weights", end)?;
        for (index, range) in weight_ranges.iter().enumerate() {
            weights.write(range.start, artifact.weight(index))?;
        }
        let empty = || DeviceMemory::zeroed("nothing", 0);
        Ok(Self {
            kernels,
            weights,
            weight_ranges,
            arena: empty()?,
            io: empty()?,
            states: [empty()?, empty()?],
            scratch: Scratch::default(),
            name: device.name()?,
            _module: module,
            device,
        })
    }

    /// Allocates what the programs need.
    pub(crate) fn allocate(&mut self, sizes: &Sizes) -> Result<(), RuntimeError> {
        self.device.enter()?;
        self.arena = DeviceMemory::zeroed("the arena", sizes.arena)?;
        self.io = DeviceMemory::zeroed("inputs and outputs", sizes.io)?;
        for state in &mut self.states {
            *state = DeviceMemory::zeroed("the state", sizes.state)?;
        }
        Ok(())
    }

    /// The name of the device.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Kernel `index` of the manifest.
    pub(crate) fn kernel(&self, index: usize) -> Option<GpuKernel> {
        self.kernels[index]
    }

    /// Makes this thread use the device.
    pub(crate) fn enter(&self) -> Result<(), RuntimeError> {
        Ok(self.device.enter()?)
    }

    /// Weight `index` on the device.
    pub(crate) fn weight(&self, index: usize) -> Region {
        let range = &self.weight_ranges[index];
        Region { start: BufPtr::device(self.weights.address(range.start)), len: range.len() }
    }

    /// A range of the arena on the device.
    pub(crate) fn slot(&self, range: &Range<usize>) -> Region {
        Region { start: BufPtr::device(self.arena.address(range.start)), len: range.len() }
    }

    /// Room for `len` bytes at byte `offset` of the inputs and outputs, and where the next may begin.
    pub(crate) fn io(&self, offset: usize, len: usize) -> (Region, usize) {
        let region = Region { start: BufPtr::device(self.io.address(offset)), len };
        (region, offset + len.next_multiple_of(ALIGN))
    }

    /// Copies an input.
    pub(crate) fn write_io(&mut self, offset: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        Ok(self.io.write(offset, bytes)?)
    }

    /// Copies the states before and, for those that are updated in place, after a call.
    pub(crate) fn write_states(&mut self, before: &[u8], after: &[u8]) -> Result<(), RuntimeError> {
        self.states[0].write(0, before)?;
        Ok(self.states[1].write(0, after)?)
    }

    /// Where the states before and after a call lie.
    pub(crate) fn states(&self) -> [BufPtr; 2] {
        [0, 1].map(|i| BufPtr::device(self.states[i].address(0)))
    }

    /// Copies a buffer back.
    pub(crate) fn read(&self, from: BufPtr, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        // SAFETY: callers pass regions of this device's memory, which live as long as `self`.
        Ok(unsafe { driver::read(from.address(), bytes) }?)
    }

    /// Starts a launch.
    pub(crate) fn launch(
        &mut self,
        kernel: GpuKernel,
        call: &Call<'_>,
        name: impl Fn() -> String,
    ) -> Result<(), RuntimeError> {
        let grid = u32::try_from(call.grid).ok().filter(|grid| *grid <= i32::MAX as u32);
        let grid = grid.ok_or_else(|| GpuError::Grid { kernel: name(), grid: call.grid })?;
        let Scratch { args, pointers } = &mut self.scratch;
        args.clear();
        args.extend(call.bufs.iter().map(|buffer| buffer.address()));
        args.extend(call.dims.iter().map(|dim| *dim as u64));
        // SAFETY: the module lives as long as `self`; the plan gave as many buffers and dims as the kernel takes, in
        // device memory that lives as long as `self`; that kernels stay inside is the compiler's part.
        unsafe { kernel.handle.launch(grid, (kernel.block, kernel.shared), args, pointers) }
            .map_err(|error| driver::launch_error(&name(), error))?;
        Ok(())
    }

    /// Waits for all launches; a fault of a kernel shows here.
    pub(crate) fn finish(&self, what: &str) -> Result<(), RuntimeError> {
        Ok(self.device.synchronize(what)?)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // What is freed belongs to the context. There is nobody to tell of a failure.
        let _ = self.device.enter();
    }
}

/// Bytes that the inputs and outputs of a program take at most.
pub(crate) fn io_bytes(program: &Program, ranges: &[(i64, i64)]) -> Result<usize, RuntimeError> {
    let mut end = 0usize;
    for info in program.inputs.iter().chain(&program.outputs) {
        end = end.saturating_add(tensor_bytes(info, ranges)?.next_multiple_of(ALIGN));
    }
    Ok(end)
}

fn tensor_bytes(info: &TensorInfo, ranges: &[(i64, i64)]) -> Result<usize, RuntimeError> {
    let size = |source| RuntimeError::Size { what: format!("tensor {}", info.name), source };
    let mut n = 1u64;
    for dim in &info.shape {
        let most = dim.range(ranges).map_err(size)?.1.max(0) as u64;
        n = n.checked_mul(most).ok_or_else(|| size(ssmc_artifact::ExprError::Overflow))?;
    }
    let dtype: DType = info.dtype();
    dtype
        .byte_len(n)
        .and_then(|len| usize::try_from(len).ok())
        .ok_or_else(|| size(ssmc_artifact::ExprError::Overflow))
}
