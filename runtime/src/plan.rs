//! The memory plan of a program and its launches with all sizes worked out.

use std::ops::Range;

use ssmc_artifact::{BufferKind, Expr, ExprError, Manifest, Program};

use crate::code::{BufPtr, Entry};
#[cfg(feature = "cuda")]
use crate::cuda::LibraryCall;
use crate::error::RuntimeError;
use crate::memory::ALIGN;

/// Operations per launch up to which the launches of a program are brief: what is gained where one begins before the one
/// before has ended, about a microsecond, is more than what is lost by placing its blocks where there happens to be room.
const BRIEF: f64 = 1e9;

/// A program of the chosen level, ready to be bound to sizes and run.
pub(crate) struct Plan {
    /// Index in the manifest.
    pub(crate) program: usize,
    /// Where each slot lies in the arena.
    slots: Vec<Range<usize>>,
    /// Length of the arena.
    pub(crate) arena: u64,
    launches: Vec<PlannedLaunch>,
    /// Symbol values that the launches' numbers were worked out for; empty before the first run.
    bound: Vec<i64>,
    /// Whether the launches are brief, by [`BRIEF`].
    is_brief: bool,
    grids: Vec<i64>,
    dims: Vec<i64>,
    offsets: Vec<i64>,
    pointers: Vec<BufPtr>,
    /// Bytes from each pointer to the end of its buffer.
    lengths: Vec<usize>,
    /// What a library does instead of kernels, by launch; empty if it does nothing.
    #[cfg(feature = "cuda")]
    products: Vec<Option<LibraryCall>>,
    /// Rows of each launch that is a product.
    #[cfg(feature = "cuda")]
    rows: Vec<i64>,
}

struct PlannedLaunch {
    entry: Entry,
    dims: Range<usize>,
    args: Range<usize>,
}

/// A launch that can be run.
pub(crate) struct Call<'a> {
    pub(crate) entry: Entry,
    pub(crate) grid: i64,
    pub(crate) dims: &'a [i64],
    pub(crate) bufs: &'a [BufPtr],
    /// Bytes from each of `bufs` to the end of its buffer.
    pub(crate) lengths: &'a [usize],
    /// Whether it may begin before the launch before it has ended, on devices that can do so.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "launches on CPUs follow each other"))]
    pub(crate) may_overlap: bool,
    /// The product that a library does instead of the kernel, and its rows.
    #[cfg(feature = "cuda")]
    pub(crate) product: Option<(LibraryCall, i64)>,
}

/// The memory of a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    pub(crate) start: BufPtr,
    pub(crate) len: usize,
}

impl Region {
    /// Memory that kernels only read.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self { start: BufPtr::read(bytes), len: bytes.len() }
    }

    /// Memory that kernels may write.
    pub(crate) fn write(bytes: &mut [u8]) -> Self {
        Self { start: BufPtr::write(bytes), len: bytes.len() }
    }
}

impl Plan {
    /// Plans `manifest.programs[index]` for the level `level` and all symbol values within `ranges`; `entry` finds the
    /// kernels of the manifest.
    pub(crate) fn new(
        manifest: &Manifest,
        index: usize,
        level: usize,
        entry: &dyn Fn(usize) -> Option<Entry>,
        ranges: &[(i64, i64)],
    ) -> Result<Self, RuntimeError> {
        let program = &manifest.programs[index];
        let (slots, arena) = plan_slots(program, ranges)?;
        let mut launches = Vec::with_capacity(program.launches.len());
        let (mut n_dims, mut n_args) = (0, 0);
        for launch in &program.launches {
            let kernel = &manifest.kernels[launch.kernel as usize];
            let entry = entry(launch.kernel as usize).ok_or_else(|| {
                let level = manifest.levels[level].name.clone();
                RuntimeError::KernelMissing { kernel: kernel.name.clone(), level }
            })?;
            let (dims, args) = (n_dims..n_dims + launch.dims.len(), n_args..n_args + launch.args.len());
            (n_dims, n_args) = (dims.end, args.end);
            launches.push(PlannedLaunch { entry, dims, args });
        }
        Ok(Self {
            program: index,
            slots,
            arena,
            bound: Vec::with_capacity(ranges.len()),
            is_brief: true,
            grids: Vec::with_capacity(launches.len()),
            dims: Vec::with_capacity(n_dims),
            offsets: Vec::with_capacity(n_args),
            pointers: Vec::with_capacity(n_args),
            lengths: Vec::with_capacity(n_args),
            #[cfg(feature = "cuda")]
            products: Vec::new(),
            #[cfg(feature = "cuda")]
            rows: Vec::with_capacity(launches.len()),
            launches,
        })
    }

    /// Leaves these launches to a library.
    #[cfg(feature = "cuda")]
    pub(crate) fn set_products(&mut self, products: Vec<Option<LibraryCall>>) {
        self.products = products;
    }

    /// What a library does instead of the kernel of a launch.
    #[cfg(feature = "cuda")]
    pub(crate) fn product(&self, launch: usize) -> Option<LibraryCall> {
        self.products.get(launch).copied().flatten()
    }

    /// Number of launches.
    pub(crate) fn n_launches(&self) -> usize {
        self.launches.len()
    }

    /// Works out grids, dims and offsets for the symbol values `symbols`.
    pub(crate) fn bind(&mut self, program: &Program, symbols: &[i64]) -> Result<(), RuntimeError> {
        if self.bound == symbols && !self.bound.is_empty() {
            return Ok(());
        }
        self.bound.clear();
        self.grids.clear();
        self.dims.clear();
        self.offsets.clear();
        #[cfg(feature = "cuda")]
        self.rows.clear();
        let mut flops = 0.0;
        for (index, launch) in program.launches.iter().enumerate() {
            let value = |expr: &Expr| {
                expr.eval(symbols).map_err(|source| size_error(program, &format!("launch {index}"), source))
            };
            // What does not fit a number is not brief.
            let of_launch = launch.flops.as_ref().map(|flops| flops.eval(symbols));
            flops += of_launch.map_or(0.0, |flops| flops.map_or(f64::INFINITY, |flops| flops as f64));
            self.grids.push(launch.grid.as_ref().map_or(Ok(0), value)?);
            #[cfg(feature = "cuda")]
            {
                let rows = launch.product.as_ref().and_then(|product| product.rows.as_ref());
                self.rows.push(rows.map_or(Ok(0), value)?);
            }
            for dim in &launch.dims {
                self.dims.push(value(dim)?);
            }
            for arg in &launch.args {
                self.offsets.push(arg.byte_offset.as_ref().map_or(Ok(0), value)?);
            }
        }
        let n_running = self.grids.iter().filter(|grid| **grid > 0).count();
        self.is_brief = flops <= BRIEF * n_running as f64;
        self.bound.extend_from_slice(symbols);
        Ok(())
    }

    /// Works out the address of every argument; `region` tells where a buffer lies, given
    /// the places of the slots in the arena.
    pub(crate) fn resolve(
        &mut self,
        program: &Program,
        region: impl Fn(&[Range<usize>], BufferKind, usize) -> Region,
    ) -> Result<(), RuntimeError> {
        self.pointers.clear();
        self.lengths.clear();
        for (index, launch) in program.launches.iter().enumerate() {
            let grid = self.grids[index];
            for (arg, &offset) in launch.args.iter().zip(&self.offsets[self.launches[index].args.clone()]) {
                let Region { start, len } = region(&self.slots, arg.kind(), arg.index as usize);
                let inside = usize::try_from(offset).ok().filter(|&offset| offset <= len && grid >= 0);
                let offset = inside.ok_or_else(|| RuntimeError::Launch {
                    program: program.name.clone(),
                    launch: index,
                    offset,
                    length: len,
                    grid,
                })?;
                self.pointers.push(start.offset(offset));
                self.lengths.push(len - offset);
            }
        }
        Ok(())
    }

    /// The launch with index `index`, after [`Plan::bind`] and [`Plan::resolve`].
    pub(crate) fn call(&self, index: usize) -> Call<'_> {
        let launch = &self.launches[index];
        Call {
            entry: launch.entry,
            grid: self.grids[index],
            dims: &self.dims[launch.dims.clone()],
            bufs: &self.pointers[launch.args.clone()],
            lengths: &self.lengths[launch.args.clone()],
            may_overlap: self.is_brief,
            #[cfg(feature = "cuda")]
            product: self.product(index).map(|product| (product, self.rows[index])),
        }
    }
}

/// Lays the slots out one after another, each as large as it gets within `ranges`.
fn plan_slots(program: &Program, ranges: &[(i64, i64)]) -> Result<(Vec<Range<usize>>, u64), RuntimeError> {
    let mut slots = Vec::with_capacity(program.slots.len());
    let mut end = 0u64;
    for (index, slot) in program.slots.iter().enumerate() {
        let error = |source| size_error(program, &format!("slot {index}"), source);
        let size = slot.size_bytes.as_ref().map_or(Ok((0, 0)), |expr| expr.range(ranges)).map_err(error)?.1;
        let next =
            end.checked_add(size.max(0) as u64).and_then(|next| next.checked_next_multiple_of(ALIGN as u64));
        let next =
            next.filter(|&next| next <= isize::MAX as u64).ok_or_else(|| error(ExprError::Overflow))?;
        slots.push(end as usize..next as usize);
        end = next;
    }
    Ok((slots, end))
}

fn size_error(program: &Program, what: &str, source: ExprError) -> RuntimeError {
    RuntimeError::Size { what: format!("{what} of program {}", program.name), source }
}
