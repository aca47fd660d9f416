//! A session: an artefact on this machine with all its memory.

mod execute;
#[cfg(feature = "cuda")]
mod gpu;

use std::sync::Arc;

use ssmc_artifact::{Manifest, NO_ENTRY, Program, TensorInfo};

use crate::artifact::Artifact;
use crate::code::{Code, Entry};
#[cfg(feature = "cuda")]
use crate::cuda::{self, Gpu};
use crate::error::RuntimeError;
use crate::level;
use crate::lm;
use crate::memory::{AlignedBytes, MemoryLimit};
use crate::observe::LaunchObserver;
use crate::plan::{Plan, Region};
use crate::pool::Pool;
use crate::profile::{LaunchProfile, Profiler};
use crate::state::slots::Slots;
use crate::state::{Place, State, StateLayout, Turn};
use crate::symbols::{self, Binding};
use crate::tensor::{Tensor, TensorMut, TensorRef};

/// What a session is planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Most sequences in a call.
    pub max_batch: usize,
    /// Most tokens of a sequence in a call; `prefill` splits longer ones.
    pub max_len: usize,
    /// Threads, the caller's included; 0 takes one per processor.
    pub threads: usize,
    /// Code level by name; `None` takes the best that the machine can run.
    pub level: Option<String>,
    /// How many `prefill` and `step` calls a state can undo. With 0 a CPU updates states in place if the kernels allow
    /// that, which saves memory and time.
    pub rollback_depth: usize,
    /// Greatest values of symbols by name, for those that are neither batch nor length or to override these.
    pub maxima: Vec<(String, usize)>,
    /// Most bytes for one of the session's allocations; `None` takes the machine's memory.
    pub memory_limit: Option<u64>,
    /// Waits for each launch on a GPU before the next one, so that an error names the kernel and launch at fault; slow.
    pub check_launches: bool,
    /// What multiplies large matrices on a GPU.
    pub gemm: Gemm,
}

/// What multiplies large matrices on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gemm {
    /// The kernels of the artefact; they need the driver alone.
    #[default]
    Own,
    /// cublasLt, which must be installed, where it has the product; the kernels of the artefact do the others.
    CublasLt,
}

impl Default for SessionOptions {
    /// One sequence, 2048 tokens, all processors, the best level, 8 calls to undo.
    fn default() -> Self {
        Self {
            max_batch: 1,
            max_len: 2048,
            threads: 0,
            level: None,
            rollback_depth: 8,
            maxima: Vec::new(),
            memory_limit: None,
            check_launches: false,
            gemm: Gemm::Own,
        }
    }
}

/// Which code of a level runs on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuCode {
    /// Machine code of the artefact.
    Cubin,
    /// PTX, which the driver compiled: the artefact has no machine code for this device.
    Ptx,
    /// PTX, because the driver rejects the machine code of the artefact.
    RejectedCubin {
        /// The driver's words.
        reason: String,
    },
}

/// Most threads that a session takes.
const MAX_THREADS: usize = 1024;

/// The outputs of a run, in the program's order.
#[derive(Clone, Debug)]
pub struct Outputs(Vec<(String, Tensor)>);

impl Outputs {
    /// The output called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(output, _)| output == name).map(|(_, tensor)| tensor)
    }

    /// Names and tensors.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Names and tensors, owned.
    pub fn into_vec(self) -> Vec<(String, Tensor)> {
        self.0
    }
}

/// An artefact with threads, a chosen code level and all the memory that its programs need.
///
/// Results do not depend on the number of threads. After creation nothing is allocated except the tensors and
/// reports that calls return; the `_into` calls return none.
pub struct Session {
    artifact: Artifact,
    level: usize,
    ranges: Vec<(i64, i64)>,
    plans: Vec<Plan>,
    arena: AlignedBytes,
    pool: Pool,
    symbols: Vec<i64>,
    inputs: Vec<Region>,
    outputs: Vec<Region>,
    pub(crate) staging: AlignedBytes,
    pub(crate) seq_idx: AlignedBytes,
    state_layout: Arc<StateLayout>,
    limit: MemoryLimit,
    /// Last, so that the code outlives everything that may call it.
    backend: Backend,
}

/// Where kernels run.
enum Backend {
    Cpu(Code),
    #[cfg(feature = "cuda")]
    Gpu(Box<Gpu>),
}

impl Backend {
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "`checks` is for GPUs"))]
    fn load(artifact: &Artifact, level: usize, checks: bool) -> Result<Self, RuntimeError> {
        #[cfg(feature = "cuda")]
        if artifact.manifest().levels[level].arch == level::GPU {
            return Ok(Self::Gpu(Box::new(Gpu::load(artifact, level, checks)?)));
        }
        Ok(Self::Cpu(artifact.map_code(level)?))
    }

    /// Kernel `index` of the manifest, if the level has it.
    fn entry(&self, manifest: &Manifest, level: usize, index: usize) -> Option<Entry> {
        match self {
            Self::Cpu(code) => {
                let offset =
                    Some(manifest.kernels[index].entries[level]).filter(|offset| *offset != NO_ENTRY);
                offset.and_then(|offset| code.kernel(offset)).map(Entry::Cpu)
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => gpu.kernel(index).map(Entry::Gpu),
        }
    }

    /// Allocates what lies on the device. Returns how large the arena of this process must be.
    #[cfg(feature = "cuda")]
    fn allocate(
        mut self,
        manifest: &Manifest,
        plans: &[Plan],
        (arena, ranges): (u64, &[(i64, i64)]),
    ) -> Result<(Self, u64), RuntimeError> {
        let Self::Gpu(gpu) = &mut self else { return Ok((self, arena)) };
        let mut io = 0;
        for plan in plans {
            io = io.max(cuda::io_bytes(&manifest.programs[plan.program], ranges)?);
        }
        gpu.allocate(arena as usize, io)?;
        Ok((self, 0))
    }

    /// Leaves products to cublasLt if that is asked for.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "CPUs have no other gemm"))]
    fn choose_gemm(
        &mut self,
        gemm: Gemm,
        (manifest, plans): (&Manifest, &mut [Plan]),
        ranges: &[(i64, i64)],
    ) -> Result<(), RuntimeError> {
        match (self, gemm) {
            (_, Gemm::Own) => Ok(()),
            (Self::Cpu(_), Gemm::CublasLt) => Err(RuntimeError::Option {
                option: "gemm".into(),
                expected: "own for code of a CPU".into(),
                found: "cublaslt".into(),
            }),
            #[cfg(feature = "cuda")]
            (Self::Gpu(gpu), Gemm::CublasLt) => {
                let programs: Vec<usize> = plans.iter().map(|plan| plan.program).collect();
                let products = gpu.use_library(manifest, &programs, ranges)?;
                plans.iter_mut().zip(products).for_each(|(plan, products)| plan.set_products(products));
                Ok(())
            }
        }
    }

    /// Where the states of the session lie.
    fn state_place(&self) -> Place {
        match self {
            Self::Cpu(_) => Place::Host,
            #[cfg(feature = "cuda")]
            Self::Gpu(gpu) => Place::Device(gpu.allocator()),
        }
    }
}

impl Session {
    /// Chooses a level, plans and allocates all memory and starts the threads.
    ///
    /// # Errors
    /// If the machine cannot run the level, an option is out of range, or the plan needs more memory than the
    /// limit allows.
    pub fn new(artifact: &Artifact, options: &SessionOptions) -> Result<Self, RuntimeError> {
        let manifest = artifact.manifest();
        let ranges = symbols::session_ranges(manifest, options)?;
        let limit = MemoryLimit::new(options.memory_limit);
        let level = level::choose(&manifest.levels, options.level.as_deref())?;
        let mut backend = Backend::load(artifact, level, options.check_launches)?;
        let for_level =
            |program: &Program| program.levels.is_empty() || program.levels.contains(&(level as u32));
        let mut plans = (0..manifest.programs.len())
            .filter(|&index| for_level(&manifest.programs[index]))
            .map(|index| {
                Plan::new(manifest, index, level, &|kernel| backend.entry(manifest, level, kernel), &ranges)
            })
            .collect::<Result<Vec<_>, _>>()?;
        backend.choose_gemm(options.gemm, (manifest, &mut plans), &ranges)?;
        let arena = plans.iter().map(|plan| plan.arena).max().unwrap_or(0);
        #[cfg(feature = "cuda")]
        let (backend, arena) = backend.allocate(manifest, &plans, (arena, &ranges))?;
        let depth = options.rollback_depth;
        let programs = || plans.iter().map(|plan| &manifest.programs[plan.program]);
        let place = backend.state_place();
        let in_place = depth == 0
            && matches!(place, Place::Host)
            && programs().filter(|program| program.stateful).all(|program| program.in_place);
        let state_layout = Arc::new(StateLayout::new(manifest, &ranges, (depth, in_place), place)?);
        let most = |count: fn(&Program) -> usize| programs().map(count).max().unwrap_or(0);
        let (n_inputs, n_outputs) =
            (most(|program| program.inputs.len()), most(|program| program.outputs.len()));
        let (input_ids, seq_idx) = lm::staging(programs(), &ranges)?;
        Ok(Self {
            arena: limit.allocate("the arena", arena)?,
            staging: limit.allocate("input_ids", input_ids)?,
            seq_idx: limit.allocate("seq_idx", seq_idx)?,
            pool: Pool::new(n_threads(options.threads)?)?,
            symbols: vec![0; manifest.symbols.len()],
            inputs: Vec::with_capacity(n_inputs),
            outputs: Vec::with_capacity(n_outputs),
            artifact: artifact.clone(),
            level,
            ranges,
            plans,
            state_layout,
            limit,
            backend,
        })
    }

    /// The name of the GPU in use, if one is.
    pub fn gpu(&self) -> Option<&str> {
        match &self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Gpu(gpu) => Some(gpu.name()),
        }
    }

    /// Which code runs on the GPU in use, if one is.
    pub fn gpu_code(&self) -> Option<&GpuCode> {
        match &self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Gpu(gpu) => Some(gpu.code()),
        }
    }

    /// The version of cublasLt as one number, such as 120403, if it does products here.
    pub fn cublaslt(&self) -> Option<usize> {
        match &self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Gpu(gpu) => gpu.library_version(),
        }
    }

    /// The name of what a library does instead of the kernel of a launch.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "no library does launches"))]
    fn library_name(&self, program: &str, launch: usize) -> Option<String> {
        match &self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Gpu(gpu) => {
                let call = self.plans[self.find(program).ok()?].product(launch)?;
                gpu.library_name(call)
            }
        }
    }

    /// The artefact.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The name of the code level in use.
    pub fn level(&self) -> &str {
        &self.artifact.manifest().levels[self.level].name
    }

    /// The number of threads in use, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Bytes of scratch memory planned for the programs.
    pub fn arena_bytes(&self) -> usize {
        self.plans.iter().map(|plan| plan.arena).max().unwrap_or(0) as usize
    }

    /// The greatest value that a symbol takes in this session.
    pub fn maximum(&self, symbol: &str) -> Option<i64> {
        let index = self.manifest().symbols.iter().position(|known| known.name == symbol)?;
        Some(self.ranges[index].1)
    }

    /// The program called `name` for the level in use.
    pub fn program(&self, name: &str) -> Result<&Program, RuntimeError> {
        self.find(name).map(|plan| &self.manifest().programs[self.plans[plan].program])
    }

    /// The state of `batch` sequences of which nothing has been read.
    pub fn new_state(&self, batch: usize) -> Result<State, RuntimeError> {
        State::new(&self.state_layout, batch, self.limit)
    }

    /// Slots for so many sequences that come and go and decode together.
    ///
    /// # Errors
    /// If these are more than the session is planned for, or a state has no row per sequence.
    pub fn new_slots(&self, capacity: usize) -> Result<Slots, RuntimeError> {
        Slots::new(&self.state_layout, capacity, self.limit)
    }

    /// The state that [`State::save`] wrote.
    ///
    /// # Errors
    /// If the bytes are truncated or corrupt, of another version or model, or of more sequences than the
    /// session is planned for.
    pub fn load_state(&self, bytes: &[u8]) -> Result<State, RuntimeError> {
        State::load(&self.state_layout, bytes, self.limit)
    }

    /// Runs a stateless program.
    ///
    /// # Errors
    /// If a tensor's name, dtype, shape or elements are not what the program takes, or a symbol exceeds what
    /// the session was planned for.
    pub fn run(&mut self, program: &str, inputs: &[(&str, TensorRef<'_>)]) -> Result<Outputs, RuntimeError> {
        self.run_allocating(program, None, inputs, None)
    }

    /// Runs a stateful program and moves the state on by one call; `tokens` is added to its position.
    ///
    /// # Errors
    /// As [`Session::run`], and if the state is of another model; the state is unchanged then. Only if a kernel fails while
    /// it updates the state in place (see [`SessionOptions::rollback_depth`]) the state is lost.
    pub fn run_stateful(
        &mut self,
        program: &str,
        state: &mut State,
        tokens: u64,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<Outputs, RuntimeError> {
        self.transition(state, tokens, 1, |session, turn, _| session.run_turn(program, turn, inputs))
    }

    /// [`Session::run`] into the caller's tensors, which are all the outputs of the program.
    pub fn run_into(
        &mut self,
        program: &str,
        inputs: &[(&str, TensorRef<'_>)],
        outputs: &mut [(&str, TensorMut<'_>)],
    ) -> Result<(), RuntimeError> {
        let plan = self.bind(program, None, inputs)?;
        self.execute(plan, None, inputs, outputs, None)
    }

    /// [`Session::run_stateful`] into the caller's tensors, which are all the outputs of the program.
    pub fn run_stateful_into(
        &mut self,
        program: &str,
        state: &mut State,
        tokens: u64,
        inputs: &[(&str, TensorRef<'_>)],
        outputs: &mut [(&str, TensorMut<'_>)],
    ) -> Result<(), RuntimeError> {
        self.transition(state, tokens, 1, |session, turn, _| {
            session.run_into_turn(program, turn, inputs, outputs)
        })
    }

    /// Runs a program and shows each launch to `observer`. Stateful programs need `state`, which moves on by
    /// as many tokens as are given with it.
    pub fn run_observed(
        &mut self,
        program: &str,
        state: Option<(&mut State, u64)>,
        inputs: &[(&str, TensorRef<'_>)],
        observer: &mut dyn LaunchObserver,
    ) -> Result<Outputs, RuntimeError> {
        match state {
            Some((state, tokens)) => self.transition(state, tokens, 1, |session, turn, _| {
                session.run_allocating(program, Some(turn), inputs, Some(&mut *observer))
            }),
            None => self.run_allocating(program, None, inputs, Some(observer)),
        }
    }

    /// Runs a program as [`Session::run_observed`] and measures each launch.
    pub fn run_profiled(
        &mut self,
        program: &str,
        state: Option<(&mut State, u64)>,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<(Outputs, Vec<LaunchProfile>), RuntimeError> {
        let mut profiler = Profiler::default();
        let outputs = self.run_observed(program, state, inputs, &mut profiler)?;
        Ok((outputs, self.finish_profile(profiler, program)?))
    }

    /// Times every launch of a program on a GPU: the median of `repetitions` runs with an empty cache each. Results and
    /// state are of no use afterwards. On a CPU every launch is run and timed once.
    pub fn measure(
        &mut self,
        program: &str,
        state: Option<(&mut State, u64)>,
        inputs: &[(&str, TensorRef<'_>)],
        repetitions: usize,
    ) -> Result<Vec<LaunchProfile>, RuntimeError> {
        let mut profiler = Profiler::repeating(repetitions);
        self.run_observed(program, state, inputs, &mut profiler)?;
        self.finish_profile(profiler, program)
    }

    fn finish_profile(&self, profiler: Profiler, name: &str) -> Result<Vec<LaunchProfile>, RuntimeError> {
        let in_library = |launch| self.library_name(name, launch);
        profiler.finish(self.manifest(), (self.program(name)?, &self.symbols), &in_library)
    }

    /// What a call of a stateless program takes on the GPU in use, if one is, among calls that follow each other as
    /// launches of a model do: more of them than fit the cache have memory of their own, and all are recorded together.
    /// The median of `repetitions` recordings, divided by the number of calls; nothing is copied back.
    ///
    /// # Errors
    /// As [`Session::run`].
    #[cfg(feature = "cuda")]
    pub fn measure_calls(
        &mut self,
        program: &str,
        inputs: &[(&str, TensorRef<'_>)],
        repetitions: usize,
    ) -> Result<Option<std::time::Duration>, RuntimeError> {
        if matches!(self.backend, Backend::Cpu(_)) {
            return Ok(None);
        }
        let plan = self.bind(program, None, inputs)?;
        self.time_calls(plan, inputs, repetitions).map(Some)
    }

    /// What the GPU in use is, if one is; measures the rate of its copies.
    #[cfg(feature = "cuda")]
    pub fn gpu_facts(&mut self) -> Result<Option<cuda::GpuFacts>, RuntimeError> {
        match &mut self.backend {
            Backend::Cpu(_) => Ok(None),
            Backend::Gpu(gpu) => gpu.facts().map(Some),
        }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// Least and greatest value of each symbol.
    pub(crate) fn ranges(&self) -> &[(i64, i64)] {
        &self.ranges
    }

    fn find(&self, name: &str) -> Result<usize, RuntimeError> {
        let programs = &self.manifest().programs;
        self.plans.iter().position(|plan| programs[plan.program].name == name).ok_or_else(|| {
            let known = self.plans.iter().map(|plan| programs[plan.program].name.clone()).collect();
            RuntimeError::UnknownProgram { program: name.to_owned(), known }
        })
    }

    /// Calls `run` with the memory of the first `n` rows of slots before and after a call of one token each.
    pub(crate) fn slots_transition<T>(
        &mut self,
        slots: &mut Slots,
        n: usize,
        run: impl FnOnce(&mut Self, Turn<'_>) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let (layout, max) = (Arc::clone(&self.state_layout), self.manifest().max_context);
        slots.transition(&layout, (n, max), |turn| run(self, turn))
    }

    /// Calls `run` for each of `n_blocks` parts of a call, one after another, with the memory of the state
    /// before and after it; returns what the last one returned. Only if all succeed the state moves on, by
    /// `n_tokens`.
    pub(crate) fn transition<T>(
        &mut self,
        state: &mut State,
        n_tokens: u64,
        n_blocks: usize,
        mut run: impl FnMut(&mut Self, Turn<'_>, usize) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        state.check_layout(&self.state_layout)?;
        let (max, position) = (self.manifest().max_context, state.position());
        if max > 0 && position.saturating_add(n_tokens) > max {
            return Err(RuntimeError::Context { max, position, found: n_tokens });
        }
        state.transition(n_tokens, n_blocks, &mut |turn, block| run(self, turn, block))
    }

    fn run_allocating(
        &mut self,
        program: &str,
        turn: Option<Turn<'_>>,
        inputs: &[(&str, TensorRef<'_>)],
        observer: Option<&mut dyn LaunchObserver>,
    ) -> Result<Outputs, RuntimeError> {
        let plan = self.bind(program, turn.as_ref(), inputs)?;
        let infos = &self.manifest().programs[self.plans[plan].program].outputs;
        let mut outputs = Vec::with_capacity(infos.len());
        for info in infos {
            outputs.push((info.name.clone(), self.output(info)?));
        }
        let mut views: Vec<_> =
            outputs.iter_mut().map(|(name, tensor)| (name.as_str(), tensor.view_mut())).collect();
        self.execute(plan, turn, inputs, &mut views, observer)?;
        Ok(Outputs(outputs))
    }

    pub(crate) fn run_turn(
        &mut self,
        program: &str,
        turn: Turn<'_>,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<Outputs, RuntimeError> {
        self.run_allocating(program, Some(turn), inputs, None)
    }

    pub(crate) fn run_into_turn(
        &mut self,
        program: &str,
        turn: Turn<'_>,
        inputs: &[(&str, TensorRef<'_>)],
        outputs: &mut [(&str, TensorMut<'_>)],
    ) -> Result<(), RuntimeError> {
        let plan = self.bind(program, Some(&turn), inputs)?;
        self.execute(plan, Some(turn), inputs, outputs, None)
    }

    /// The plans of a step and of the program that chooses the tokens behind it, bound to the first tokens of a batch, if
    /// they run on a GPU and fit each other: one input and one output each.
    #[cfg(feature = "cuda")]
    pub(crate) fn bind_greedy(
        &mut self,
        batch: usize,
        ids: &[(&str, TensorRef<'_>)],
    ) -> Result<Option<(usize, usize)>, RuntimeError> {
        let (step, choose) = (self.find("step")?, self.find("choose")?);
        let manifest = self.artifact.manifest();
        let program = |plan: usize| &manifest.programs[self.plans[plan].program];
        let ports = |program: &Program| (program.inputs.len(), program.outputs.len());
        let fits =
            program(step).stateful && [step, choose].iter().all(|plan| ports(program(*plan)) == (1, 1));
        if !fits || matches!(self.backend, Backend::Cpu(_)) {
            return Ok(None);
        }
        let (stepped, chosen) = (program(step), program(choose));
        let binding = Binding { manifest, program: stepped, ranges: &self.ranges, values: &mut self.symbols };
        { binding }.bind(Some(batch), ids)?;
        self.plans[step].bind(stepped, &self.symbols)?;
        self.plans[choose].bind(chosen, &self.symbols)?;
        Ok(Some((step, choose)))
    }

    /// A tensor for the output `info` with the sizes of the last [`Session::bind`].
    fn output(&self, info: &TensorInfo) -> Result<Tensor, RuntimeError> {
        let dims = info
            .shape
            .iter()
            .map(|dim| dim.eval(&self.symbols).map(|dim| usize::try_from(dim).unwrap_or(0)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| RuntimeError::Size { what: format!("output {}", info.name), source })?;
        Ok(Tensor::zeros(info.dtype(), &dims)?)
    }

    /// Checks the inputs and works out all sizes. Returns the index of the program's plan.
    fn bind(
        &mut self,
        program: &str,
        turn: Option<&Turn<'_>>,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<usize, RuntimeError> {
        let index = self.find(program)?;
        let manifest = self.artifact.manifest();
        let plan = &mut self.plans[index];
        let program = &manifest.programs[plan.program];
        let batch = turn.map(Turn::batch);
        if program.stateful != batch.is_some() {
            let stateful = program.stateful;
            return Err(RuntimeError::Stateful { program: program.name.clone(), stateful });
        }
        Binding { manifest, program, ranges: &self.ranges, values: &mut self.symbols }.bind(batch, inputs)?;
        plan.bind(program, &self.symbols)?;
        Ok(index)
    }
}

fn n_threads(requested: usize) -> Result<usize, RuntimeError> {
    if requested > MAX_THREADS {
        return Err(RuntimeError::Option {
            option: "threads".into(),
            expected: format!("at most {MAX_THREADS}"),
            found: requested.to_string(),
        });
    }
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(if requested == 0 { available() } else { requested })
}
