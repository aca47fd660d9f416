//! NVIDIA GPUs: an artefact's PTX through the driver.
//!
//! Weights are copied to the device once; inputs, outputs and scratch memory have memory there that is planned once too,
//! and states lie there. A call copies inputs to the device, launches the kernels one after another, and copies outputs
//! back. The launches of a call that comes again are recorded, and start together from then on.
#![expect(unsafe_code, reason = "kernels are launched with device addresses")]

mod driver;
mod library;
mod measure;
mod memory;
mod stream;

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use ssmc_artifact::{DType, Launch, Manifest, Program, TensorInfo};

use crate::artifact::Artifact;
use crate::code::BufPtr;
use crate::error::RuntimeError;
use crate::level;
use crate::memory::ALIGN;
use crate::plan::{Call, Region};
use crate::session::GpuCode;
use driver::{Device, Handle, Module};
use library::Library;
use memory::Pinned;
use stream::Graph;

pub(crate) use driver::capability;
pub(crate) use library::LibraryCall;
pub use measure::GpuFacts;
pub(crate) use memory::DeviceMemory;

/// Outputs up to this many bytes are copied through page-locked memory.
const PINNED: usize = 8 << 20;

/// How kernels wait for the launch before them; those of a module all do, or none.
const WAIT: &[u8] = b"griddepcontrol.wait";

/// Recorded calls that are kept, the latest used; a state and its generations need one for each pair of them.
const RECORDED: usize = 64;

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
    /// The library of matrix products is not installed.
    #[error("libcublasLt is not installed, which only the gemm cublaslt needs; the gemm own does not")]
    NoLibrary,
    /// The library of matrix products lacks a function that is needed.
    #[error("libcublasLt cannot be used: it lacks {symbol}")]
    OldLibrary {
        /// The function.
        symbol: &'static str,
    },
    /// A call to the library of matrix products failed.
    #[error("{what}: {message}")]
    Library {
        /// What was tried, with the kernel if one is concerned.
        what: String,
        /// The library's words.
        message: String,
    },
    /// A kernel went wrong while it ran, or the device did.
    #[error("{what}: {message}; launches that are checked one by one name the kernel (--check-launches)")]
    Fault {
        /// What was running.
        what: String,
        /// The driver's words.
        message: String,
    },
    /// The driver does not load the module.
    #[error("the driver rejects the module: {log}")]
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

/// An artefact on a device. Fields are dropped in order: recorded launches before the module.
#[derive(Debug)]
pub(crate) struct Gpu {
    kernels: Vec<Option<GpuKernel>>,
    recorded: Vec<(CallKey, Graph)>,
    /// Calls that came before, whatever their state was.
    known: Vec<CallKey>,
    /// What does products instead of kernels, if that was asked for.
    library: Option<Library>,
    weights: DeviceMemory,
    weight_ranges: Vec<Range<usize>>,
    arena: DeviceMemory,
    /// Inputs, then outputs of the running program.
    io: DeviceMemory,
    pinned: Pinned,
    scratch: Scratch,
    name: String,
    /// Whether kernels wait for the launch before them by themselves.
    overlaps: bool,
    /// Whether every launch is waited for before the next one, so that its faults show.
    checks: bool,
    code: GpuCode,
    _module: Module,
    device: Arc<Device>,
}

/// What the launches of a call depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallKey {
    pub(crate) plan: usize,
    /// The plan whose launches follow.
    pub(crate) then: Option<usize>,
    pub(crate) symbols: Vec<i64>,
    /// Addresses of the state before and after.
    pub(crate) states: [u64; 2],
}

/// Memory of a device for anybody.
#[derive(Clone, Debug)]
pub(crate) struct Allocator(Arc<Device>);

impl Allocator {
    /// Memory for a state, with zeros in it.
    pub(crate) fn allocate(&self, len: usize) -> Result<DeviceMemory, GpuError> {
        DeviceMemory::zeroed(&self.0, "the state", len)
    }
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

impl Gpu {
    /// Loads the code of `level` and copies the weights; `checks` says whether every launch is waited for.
    pub(crate) fn load(artifact: &Artifact, level: usize, checks: bool) -> Result<Self, RuntimeError> {
        let manifest = artifact.manifest();
        let device = Arc::new(Device::open()?);
        let (module, code) = load_module(artifact, level)?;
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
        let mut weights = DeviceMemory::zeroed(&device, "the weights", end)?;
        for (index, range) in weight_ranges.iter().enumerate() {
            weights.write(range.start, artifact.weight(index))?;
        }
        device.synchronize("copying the weights")?;
        let empty = || DeviceMemory::zeroed(&device, "nothing", 0);
        Ok(Self {
            kernels,
            recorded: Vec::new(),
            known: Vec::new(),
            library: None,
            weights,
            weight_ranges,
            arena: empty()?,
            io: empty()?,
            pinned: Pinned::new(&device, 0)?,
            scratch: Scratch::default(),
            name: device.name()?,
            overlaps: artifact.code(level).windows(WAIT.len()).any(|text| text == WAIT),
            checks,
            code,
            _module: module,
            device,
        })
    }

    /// Allocates what the programs need.
    pub(crate) fn allocate(&mut self, arena: usize, io: usize) -> Result<(), RuntimeError> {
        self.arena = DeviceMemory::zeroed(&self.device, "the arena", arena)?;
        self.io = DeviceMemory::zeroed(&self.device, "inputs and outputs", io)?;
        self.pinned = Pinned::new(&self.device, io.min(PINNED))?;
        Ok(())
    }

    /// Lets a library do the products of these programs that it can do, for symbol values within `ranges`: for each
    /// program which of its launches.
    pub(crate) fn use_library(
        &mut self,
        manifest: &Manifest,
        programs: &[usize],
        ranges: &[(i64, i64)],
    ) -> Result<Vec<Vec<Option<LibraryCall>>>, RuntimeError> {
        let library = self.library.insert(Library::open(&self.device)?);
        let mut prepare = |program: &Program, launch: &Launch| -> Result<Option<LibraryCall>, RuntimeError> {
            let Some((product, rows)) =
                launch.product.as_ref().and_then(|p| p.rows.as_ref().map(|rows| (p, rows)))
            else {
                return Ok(None);
            };
            let what = || format!("a product of program {}", program.name);
            let (_, most) =
                rows.range(ranges).map_err(|source| RuntimeError::Size { what: what(), source })?;
            let kernel = &manifest.kernels[launch.kernel as usize];
            Ok(library.prepare(product, kernel, most.max(0) as u64)?)
        };
        let of_program = |index: &usize| {
            let program = &manifest.programs[*index];
            program.launches.iter().map(|launch| prepare(program, launch)).collect()
        };
        programs.iter().map(of_program).collect()
    }

    /// The version of the library that does products, if one does.
    pub(crate) fn library_version(&self) -> Option<usize> {
        self.library.as_ref().map(Library::version)
    }

    /// What does a launch instead of its kernel.
    pub(crate) fn library_name(&self, call: LibraryCall) -> Option<String> {
        self.library.as_ref().map(|library| library.name(call))
    }

    /// Memory of the device for states.
    pub(crate) fn allocator(&self) -> Allocator {
        Allocator(Arc::clone(&self.device))
    }

    /// The name of the device.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Which code runs.
    pub(crate) fn code(&self) -> &GpuCode {
        &self.code
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

    /// Copies a buffer back, once everything launched has ended.
    pub(crate) fn read(&mut self, from: BufPtr, bytes: &mut [u8]) -> Result<(), RuntimeError> {
        if bytes.len() > self.pinned.len() {
            // SAFETY: callers pass regions of this device's memory, which live as long as `self`.
            return Ok(unsafe { memory::read(&self.device, from.address(), bytes) }?);
        }
        // SAFETY: as above.
        let copied = unsafe { self.pinned.fetch(from.address(), bytes.len()) }?;
        bytes.copy_from_slice(copied);
        Ok(())
    }

    /// Memory for tokens of this many bytes.
    pub(crate) fn tokens(&self, len: usize) -> Result<DeviceMemory, RuntimeError> {
        Ok(DeviceMemory::zeroed(&self.device, "tokens", len)?)
    }

    /// Copies a buffer of inputs and outputs to byte `at` of memory, in the order of launches.
    pub(crate) fn keep(&self, to: &DeviceMemory, at: usize, from: Region) -> Result<(), RuntimeError> {
        // SAFETY: the region is one of `io`, which lives as long as `self`.
        Ok(unsafe { to.copy_from(at, from.start.address(), from.len) }?)
    }

    /// Starts what was recorded for a call, if it was.
    pub(crate) fn start_recorded(&mut self, key: &CallKey, what: &str) -> Result<bool, RuntimeError> {
        let Some(at) = self.recorded.iter().position(|(known, _)| known == key) else { return Ok(false) };
        self.recorded[at..].rotate_left(1);
        let (_, graph) = self.recorded.last().expect("one was found");
        // SAFETY: what was recorded needs the module and memory of `self`, weights among it, and the state of the call,
        // whose addresses are in the key.
        unsafe { graph.launch(what) }?;
        Ok(true)
    }

    /// Does what `launch` does: at the first call of its kind right away, later by recorded launches.
    pub(crate) fn run(
        &mut self,
        key: CallKey,
        what: &str,
        launch: impl FnOnce(&mut Self) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        if self.checks {
            return launch(self);
        }
        if self.start_recorded(&key, what)? {
            return Ok(());
        }
        let kind = CallKey { states: [0; 2], ..key.clone() };
        if !self.known.contains(&kind) {
            self.known.push(kind);
            if self.known.len() > RECORDED {
                self.known.remove(0);
            }
            return launch(self);
        }
        let device = Arc::clone(&self.device);
        let graph = Graph::record(&device, || launch(self))?;
        // SAFETY: as for what was recorded before.
        unsafe { graph.launch(what) }?;
        self.recorded.push((key, graph));
        if self.recorded.len() > RECORDED {
            self.recorded.remove(0);
        }
        Ok(())
    }

    /// Starts a launch.
    pub(crate) fn launch(
        &mut self,
        kernel: GpuKernel,
        call: &Call<'_>,
        name: impl Fn() -> String,
    ) -> Result<(), RuntimeError> {
        if let (Some(product), Some(library)) = (call.product, &mut self.library) {
            // SAFETY: as for kernels below; the library looks whether the operands fit their buffers.
            unsafe { library.multiply(product, call, &name) }?;
            return self.check_launch(name);
        }
        let grid = u32::try_from(call.grid).ok().filter(|grid| *grid <= i32::MAX as u32);
        let grid = grid.ok_or_else(|| GpuError::Grid { kernel: name(), grid: call.grid })?;
        let Scratch { args, pointers } = &mut self.scratch;
        args.clear();
        args.extend(call.bufs.iter().map(|buffer| buffer.address()));
        args.extend(call.dims.iter().map(|dim| *dim as u64));
        let (shape, place) =
            ((kernel.block, kernel.shared), (&*self.device, self.overlaps && call.may_overlap));
        // SAFETY: the module lives as long as `self`; the plan gave as many buffers and dims as the kernel takes, in
        // device memory that lives as long as `self` or, for states, as the call; that kernels stay inside is the
        // compiler's part.
        unsafe { kernel.handle.launch(grid, shape, args, pointers, place) }
            .map_err(|error| driver::launch_error(&name(), (grid, shape), error))?;
        self.check_launch(name)
    }

    /// Waits for what was started last, if launches are checked.
    fn check_launch(&self, name: impl Fn() -> String) -> Result<(), RuntimeError> {
        if self.checks {
            self.device.synchronize(&format!("running kernel {}", name()))?;
        }
        Ok(())
    }

    /// Waits for all launches; a fault of a kernel shows here.
    pub(crate) fn finish(&self, what: &str) -> Result<(), RuntimeError> {
        Ok(self.device.synchronize(what)?)
    }

    /// As [`Gpu::finish`], where several launches may be at fault.
    pub(crate) fn finish_launches(&self, what: &str) -> Result<(), RuntimeError> {
        Ok(self.device.synchronize(what).map_err(|error| match error {
            GpuError::Driver { what, message } if !self.checks => GpuError::Fault { what, message },
            other => other,
        })?)
    }
}

/// The machine code of `level` if it is for this device and the driver takes it, else its PTX.
fn load_module(artifact: &Artifact, level: usize) -> Result<(Module, GpuCode), GpuError> {
    let ptx = artifact.code(level);
    let name = &artifact.manifest().levels[level].name;
    let Some(cubin) =
        artifact.cubin(level).filter(|_| capability().is_ok_and(|found| level::is_of(name, found)))
    else {
        return Ok((Module::compile(ptx)?, GpuCode::Ptx));
    };
    match Module::of_cubin(cubin) {
        Ok(module) => Ok((module, GpuCode::Cubin)),
        Err(rejected) => Ok((Module::compile(ptx)?, GpuCode::RejectedCubin { reason: rejected.to_string() })),
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // The module belongs to the context, and launches must have ended. There is nobody to tell of a failure.
        let _ = self.device.enter().and_then(|()| self.device.synchronize("ending"));
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
