//! Running the launches of a program.
#![expect(unsafe_code, reason = "compiled kernels are given the memory of the session")]

use std::ops::Range;

use ssmc_artifact::{BufferKind, Manifest, Program};

use super::Session;
use crate::code::{BufPtr, Entry};
use crate::error::RuntimeError;
use crate::observe::{LaunchObserver, LaunchView};
use crate::plan::{Call, Plan, Region};
use crate::pool::Launches;
use crate::state::Turn;
use crate::symbols;
use crate::tensor::{TensorMut, TensorRef};

impl Session {
    /// Runs all launches of a plan that was bound to `inputs`.
    pub(super) fn execute(
        &mut self,
        plan: usize,
        mut turn: Option<Turn<'_>>,
        inputs: &[(&str, TensorRef<'_>)],
        outputs: &mut [(&str, TensorMut<'_>)],
        observer: Option<&mut dyn LaunchObserver>,
    ) -> Result<(), RuntimeError> {
        #[cfg(feature = "cuda")]
        if matches!(self.backend, super::Backend::Gpu(_)) {
            return self.execute_on_gpu(plan, turn, inputs, outputs, observer);
        }
        let manifest = self.artifact.manifest();
        let plan = &mut self.plans[plan];
        let program = &manifest.programs[plan.program];
        check_outputs(manifest, program, &self.symbols, outputs)?;
        self.inputs.clear();
        for info in &program.inputs {
            let bytes = symbols::find(inputs, &info.name).bytes();
            self.inputs.push(Region::read(bytes));
        }
        self.outputs.clear();
        for info in &program.outputs {
            let (_, tensor) =
                outputs.iter_mut().find(|(name, _)| *name == info.name).expect("names were checked");
            self.outputs.push(Region::write(tensor.bytes_mut()));
        }
        let arena = BufPtr::write(self.arena.as_mut_slice());
        let in_arena = |slot: Range<usize>| Region { start: arena.offset(slot.start), len: slot.len() };
        let artifact = &self.artifact;
        let state = turn.as_mut().map(Turn::memory);
        plan.resolve(program, |slots, kind, index| match kind {
            BufferKind::Input => self.inputs[index],
            BufferKind::Output => self.outputs[index],
            BufferKind::Slot => in_arena(slots[index].clone()),
            BufferKind::Weight => Region::read(artifact.weight(index)),
            BufferKind::StateIn => state.as_ref().expect(STATEFUL).read(index),
            BufferKind::StateOut => state.as_ref().expect(STATEFUL).write(index),
            BufferKind::Unspecified => unreachable!("the reader refuses unknown buffer kinds"),
        })?;
        let panic = |index| RuntimeError::Panic { kernel: kernel_name(manifest, program, index) };
        let Some(observer) = observer else {
            // SAFETY: the addresses come from the tensors, the arena, the state and the mapped weights, all borrowed by
            // this function to its end; the outputs, the arena and the state are borrowed mutably. That kernels stay
            // inside the buffers is the compiler's part. The code is mapped as long as the session lives.
            let launches = unsafe { Bound::new(plan, 0..plan.n_launches()) };
            return self.pool.run(&launches).map_err(|at| panic(at.launch));
        };
        for index in 0..plan.n_launches() {
            // SAFETY: as above. No kernel runs while an observer looks.
            let finished = unsafe {
                observer.before(&view(index, &plan.call(index)));
                let finished = self.pool.run(&Bound::new(plan, index..index + 1));
                observer.after(&view(index, &plan.call(index)));
                finished
            };
            finished.map_err(|_| panic(index))?;
        }
        Ok(())
    }
}

/// Launches of a plan whose buffers have addresses.
struct Bound<'a> {
    plan: &'a Plan,
    launches: Range<usize>,
}

impl<'a> Bound<'a> {
    /// # Safety
    /// As long as the result is used, the buffers of these launches are live and as large as the launches assume, and
    /// those that kernels write are exclusively the caller's. The code image is mapped.
    unsafe fn new(plan: &'a Plan, launches: Range<usize>) -> Self {
        Self { plan, launches }
    }
}

impl Launches for Bound<'_> {
    fn len(&self) -> usize {
        self.launches.len()
    }

    fn grid(&self, launch: usize) -> i64 {
        self.plan.call(self.launches.start + launch).grid
    }

    fn run(&self, launch: usize, blocks: Range<i64>) {
        let call = self.plan.call(self.launches.start + launch);
        #[cfg_attr(
            not(feature = "cuda"),
            expect(
                clippy::infallible_destructuring_match,
                reason = "there is one kind of entry without `cuda`"
            )
        )]
        let entry = match call.entry {
            Entry::Cpu(entry) => entry,
            #[cfg(feature = "cuda")]
            Entry::Gpu(_) => unreachable!("a plan has kernels of one device"),
        };
        // SAFETY: by the contract of `new`; the pool gives every thread other blocks, and a kernel's blocks write
        // disjoint memory.
        unsafe { entry.call(call.bufs, call.dims, blocks) }
    }
}

pub(super) const STATEFUL: &str = "the reader refuses stateless programs that refer to a state";

/// What an observer sees of `call`.
///
/// # Safety
/// The buffers of `call` are live and nothing writes them while the view exists.
unsafe fn view<'a>(launch: usize, call: &Call<'a>) -> LaunchView<'a> {
    let buffers = call.bufs.iter().zip(call.lengths);
    // SAFETY: by the contract of this function; all memory of a session is initialized.
    let args = buffers.map(|(&buffer, &len)| unsafe { buffer.bytes(len) }).collect();
    LaunchView { launch, grid: call.grid, dims: call.dims, args, time: None }
}

/// Checks names, dtypes and shapes of the caller's output tensors.
pub(super) fn check_outputs(
    manifest: &Manifest,
    program: &Program,
    symbols: &[i64],
    outputs: &[(&str, TensorMut<'_>)],
) -> Result<(), RuntimeError> {
    symbols::check_names(program, "output", &program.outputs, outputs.iter().map(|(name, _)| *name))?;
    for info in &program.outputs {
        let (_, tensor) = outputs.iter().find(|(name, _)| *name == info.name).expect("names were checked");
        symbols::check_dtype(program, "output", info, tensor.dtype())?;
        let same = info.shape.len() == tensor.dims().len()
            && info.shape.iter().zip(tensor.dims()).all(|(expr, &dim)| expr.eval(symbols) == Ok(dim as i64));
        if !same {
            return Err(symbols::shape_error(manifest, program, "output", info, tensor.dims()));
        }
    }
    Ok(())
}

pub(super) fn kernel_name(manifest: &Manifest, program: &Program, launch: usize) -> String {
    manifest.kernels[program.launches[launch].kernel as usize].name.clone()
}
