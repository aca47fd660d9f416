//! Running the launches of a program on a GPU.

use std::ops::Range;
use std::time::Duration;

use ssmc_artifact::{BufferKind, Manifest, Program};

use super::execute::{STATEFUL, check_outputs, kernel_name};
use super::{Backend, Session};
use crate::code::{BufPtr, Entry};
use crate::cuda::{CallKey, DeviceMemory, Gpu, GpuKernel};
use crate::error::RuntimeError;
use crate::memory::ALIGN;
use crate::observe::{LaunchObserver, LaunchView};
use crate::plan::{Call, Plan, Region};
use crate::state::{StateMemory, Turn};
use crate::symbols;
use crate::tensor::{TensorMut, TensorRef};

impl Session {
    /// Copies inputs to the device, runs all launches of a plan that was bound to `inputs`, and copies outputs back. The
    /// state lies on the device.
    pub(super) fn execute_on_gpu(
        &mut self,
        plan: usize,
        mut turn: Option<Turn<'_>>,
        inputs: &[(&str, TensorRef<'_>)],
        outputs: &mut [(&str, TensorMut<'_>)],
        observer: Option<&mut dyn LaunchObserver>,
    ) -> Result<(), RuntimeError> {
        let manifest = self.artifact.manifest();
        let index = plan;
        let plan = &mut self.plans[index];
        let program = &manifest.programs[plan.program];
        check_outputs(manifest, program, &self.symbols, outputs)?;
        let Backend::Gpu(gpu) = &mut self.backend else { unreachable!("the caller looked") };
        gpu.enter()?;
        let mut offset = 0;
        self.inputs.clear();
        for info in &program.inputs {
            let bytes = symbols::find(inputs, &info.name).bytes();
            gpu.write_io(offset, bytes)?;
            let (region, next) = gpu.io(offset, bytes.len());
            self.inputs.push(region);
            offset = next;
        }
        self.outputs.clear();
        for info in &program.outputs {
            let (_, tensor) =
                outputs.iter_mut().find(|(name, _)| *name == info.name).expect("names were checked");
            let (region, next) = gpu.io(offset, tensor.bytes_mut().len());
            self.outputs.push(region);
            offset = next;
        }
        let state = turn.as_mut().map(Turn::memory);
        plan.resolve(program, |slots, kind, index| match kind {
            BufferKind::Input => self.inputs[index],
            BufferKind::Output => self.outputs[index],
            BufferKind::Slot => gpu.slot(&slots[index]),
            BufferKind::Weight => gpu.weight(index),
            BufferKind::StateIn => state.as_ref().expect(STATEFUL).read(index),
            BufferKind::StateOut => state.as_ref().expect(STATEFUL).write(index),
            BufferKind::Unspecified => unreachable!("the reader refuses unknown buffer kinds"),
        })?;
        let states = state.as_ref().map_or([0; 2], StateMemory::addresses);
        let copy = || turn.as_ref().map_or(Ok(()), Turn::copy_in_place);
        let what = format!("running program {}", program.name);
        match observer {
            None => {
                let key = CallKey { plan: index, then: None, symbols: self.symbols.clone(), states };
                gpu.run(key, &what, |gpu| {
                    copy()?;
                    launch_all(gpu, manifest, plan)
                })?;
            }
            Some(observer) => {
                copy()?;
                for index in 0..plan.n_launches() {
                    let call = plan.call(index);
                    let name = || launch_name(manifest, program, index);
                    show(gpu, &call, (index, None), observer, |o, view| o.before(view))?;
                    let mut time = None;
                    if call.grid > 0 {
                        time = Some(gpu.measure(kernel_of(&call), &call, observer.repetitions(), name)?);
                        gpu.finish(&format!("running kernel {}", name()))?;
                    }
                    show(gpu, &call, (index, time), observer, |o, view| o.after(view))?;
                }
            }
        }
        gpu.finish_launches(&what)?;
        for (info, region) in program.outputs.iter().zip(&self.outputs) {
            let (_, tensor) =
                outputs.iter_mut().find(|(name, _)| *name == info.name).expect("names were checked");
            gpu.read(region.start, tensor.bytes_mut())?;
        }
        Ok(())
    }
}

impl Session {
    /// The time of a call of a stateless plan that was bound to `inputs`, among calls that follow each other with memory
    /// of their own each.
    pub(super) fn time_calls(
        &mut self,
        plan: usize,
        inputs: &[(&str, TensorRef<'_>)],
        repetitions: usize,
    ) -> Result<Duration, RuntimeError> {
        let manifest = self.artifact.manifest();
        let plan = &mut self.plans[plan];
        let program = &manifest.programs[plan.program];
        let Backend::Gpu(gpu) = &mut self.backend else { unreachable!("the caller looked") };
        gpu.enter()?;
        let mut end = 0usize;
        let mut place = |len: usize| {
            let start = end;
            end = (start + len).next_multiple_of(ALIGN);
            start..start + len
        };
        let own: Vec<_> =
            program.inputs.iter().map(|info| symbols::find(inputs, &info.name).bytes()).collect();
        let read: Vec<_> = own.iter().map(|bytes| place(bytes.len())).collect();
        let written = program.outputs.iter().map(|info| Ok(place(symbols::byte_len(info, &self.symbols)?)));
        let written = written.collect::<Result<Vec<_>, RuntimeError>>()?;
        let scratch = place(plan.arena as usize).start;
        let (mut memory, n) = gpu.memory_of_calls(end)?;
        for (bytes, range) in own.iter().zip(&read) {
            memory.write(range.start, bytes)?;
            for call in 1..n {
                memory.copy_to(range.start, (&memory, call * end + range.start), range.len())?;
            }
        }
        gpu.measure_calls(n, repetitions, |gpu, call| {
            let region = |range: &Range<usize>| Region {
                start: BufPtr::device(memory.address(call * end + range.start)),
                len: range.len(),
            };
            plan.resolve(program, |slots, kind, index| match kind {
                BufferKind::Input => region(&read[index]),
                BufferKind::Output => region(&written[index]),
                BufferKind::Slot => region(&(scratch + slots[index].start..scratch + slots[index].end)),
                BufferKind::Weight => gpu.weight(index),
                BufferKind::StateIn | BufferKind::StateOut => unreachable!("{STATEFUL}"),
                BufferKind::Unspecified => unreachable!("the reader refuses unknown buffer kinds"),
            })?;
            launch_all(gpu, manifest, plan)
        })
    }
}

/// A step whose tokens another program chooses, again and again.
pub(crate) struct Greedy {
    /// The plans of both.
    step: usize,
    choose: usize,
    /// Where tokens and logits lie.
    ids: Region,
    logits: Region,
    /// All tokens so far, as the programs have them.
    tokens: DeviceMemory,
    written: usize,
}

impl Session {
    /// Prepares to decode `n` tokens for each sequence of the plan `step`, which was bound to the first ones.
    pub(crate) fn begin_greedy(
        &mut self,
        (step, choose): (usize, usize),
        first: TensorRef<'_>,
        n: usize,
    ) -> Result<Greedy, RuntimeError> {
        let Backend::Gpu(gpu) = &mut self.backend else { unreachable!("the caller looked") };
        gpu.enter()?;
        let manifest = self.artifact.manifest();
        let info = &manifest.programs[self.plans[step].program].outputs[0];
        let len = symbols::byte_len(info, &self.symbols)?;
        gpu.write_io(0, first.bytes())?;
        let (ids, next) = gpu.io(0, first.bytes().len());
        let (logits, _) = gpu.io(next, len);
        let tokens = gpu.tokens(n.saturating_mul(ids.len))?;
        Ok(Greedy { step, choose, ids, logits, tokens, written: 0 })
    }

    /// One step and the choice of the next tokens, which lie where the step had its own; returns before that is done.
    pub(crate) fn greedy_step(
        &mut self,
        greedy: &mut Greedy,
        mut turn: Turn<'_>,
    ) -> Result<(), RuntimeError> {
        let manifest = self.artifact.manifest();
        let Greedy { step, choose, ids, logits, .. } = *greedy;
        let Backend::Gpu(gpu) = &mut self.backend else { unreachable!("the caller looked") };
        let states = turn.memory();
        let key = CallKey {
            plan: step,
            then: Some(choose),
            symbols: self.symbols.clone(),
            states: states.addresses(),
        };
        let what = "decoding";
        if !gpu.start_recorded(&key, what)? {
            for (index, [input, output]) in [(step, [ids, logits]), (choose, [logits, ids])] {
                let plan = &mut self.plans[index];
                let program = &manifest.programs[plan.program];
                plan.resolve(program, |slots, kind, index| match kind {
                    BufferKind::Input => input,
                    BufferKind::Output => output,
                    BufferKind::Slot => gpu.slot(&slots[index]),
                    BufferKind::Weight => gpu.weight(index),
                    BufferKind::StateIn => states.read(index),
                    BufferKind::StateOut => states.write(index),
                    BufferKind::Unspecified => unreachable!("the reader refuses unknown buffer kinds"),
                })?;
            }
            let plans = &self.plans;
            gpu.run(key, what, |gpu| {
                turn.copy_in_place()?;
                launch_all(gpu, manifest, &plans[step])?;
                launch_all(gpu, manifest, &plans[choose])
            })?;
        }
        gpu.keep(&greedy.tokens, greedy.written, ids)?;
        greedy.written += ids.len;
        Ok(())
    }

    /// Waits for all steps; the tokens as the programs have them, those of a step together.
    pub(crate) fn end_greedy(&mut self, greedy: &Greedy) -> Result<Vec<u8>, RuntimeError> {
        let Backend::Gpu(gpu) = &mut self.backend else { unreachable!("the caller looked") };
        gpu.finish_launches("decoding")?;
        let mut bytes = vec![0; greedy.written];
        greedy.tokens.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

fn kernel_of(call: &Call<'_>) -> GpuKernel {
    match call.entry {
        Entry::Gpu(kernel) => kernel,
        Entry::Cpu(_) => unreachable!("a plan has kernels of one device"),
    }
}

/// Starts all launches of a plan whose arguments are worked out.
fn launch_all(gpu: &mut Gpu, manifest: &Manifest, plan: &Plan) -> Result<(), RuntimeError> {
    let program = &manifest.programs[plan.program];
    for index in 0..plan.n_launches() {
        let call = plan.call(index);
        if call.grid > 0 {
            gpu.launch(kernel_of(&call), &call, || launch_name(manifest, program, index))?;
        }
    }
    Ok(())
}

/// The kernel of a launch, and which launch it is.
fn launch_name(manifest: &Manifest, program: &Program, launch: usize) -> String {
    format!("{} (launch {launch} of program {})", kernel_name(manifest, program, launch), program.name)
}

/// Shows a launch to an observer, with copies of its buffers if it reads them.
fn show(
    gpu: &mut Gpu,
    call: &Call<'_>,
    (launch, time): (usize, Option<Duration>),
    observer: &mut dyn LaunchObserver,
    tell: fn(&mut (dyn LaunchObserver + '_), &LaunchView<'_>),
) -> Result<(), RuntimeError> {
    let mut copies = Vec::new();
    if observer.reads_buffers() {
        for (buffer, len) in call.bufs.iter().zip(call.lengths) {
            let mut copy = vec![0; *len];
            gpu.read(*buffer, &mut copy)?;
            copies.push(copy);
        }
    }
    let args = copies.iter().map(Vec::as_slice).collect();
    tell(observer, &LaunchView { launch, grid: call.grid, dims: call.dims, args, time });
    Ok(())
}
