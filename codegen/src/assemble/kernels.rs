//! The kernels and launch lists of a model, before any target has seen them.

use super::convert::{Symbols, access, dtype, elem};
use super::packing::Packing;
use super::{ProgramInput, in_place, recurrence};
use crate::kernel::{Inst, Kernel, Stmt};
use crate::lower::{self, Arg, Chain, LibraryProduct, LowerError, Lowered};
use crate::ptx;
use crate::target::{Device, GpuTarget, Target};
use ssmc_artifact as artifact;
use ssmc_artifact::{BufferKind, BufferRef, Expr, StateKind, TensorInfo};
use ssmc_ir::ops::Op;
use ssmc_ir::{Bytes, Def, Dim, Graph, Group, Loc, Place, TensorType, ValueId, Weight};
use std::collections::{BTreeMap, HashMap};

/// Why the plans of a model do not become launch lists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum AssembleError {
    #[error("{program}: {place}: {source}")]
    Lower {
        program: String,
        place: String,
        #[source]
        source: LowerError,
    },
    #[error("{program}: symbol {symbol} is in no input's shape")]
    UnboundSymbol { program: String, symbol: String },
    #[error("{program}: weight {name:?} is not among the model's weights")]
    NoWeight { program: String, name: String },
    #[error("{program}: {value} has no place in memory")]
    NoPlace { program: String, value: ValueId },
    #[error("state {name:?} is {found} in program {program}, expected {expected}")]
    StateType { name: String, program: String, expected: TensorType, found: TensorType },
}

/// One kernel in its forms for the targets of its device, in their order.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct KernelEntry {
    pub name: String,
    pub device: Device,
    pub per_level: Vec<Kernel>,
}

/// One launch, as the artefact holds it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct LaunchEntry {
    pub launch: artifact::Launch,
    /// Index into [`Kernels::kernels`].
    pub kernel: usize,
    /// The state that the kernel may update in place.
    pub updates: Option<usize>,
}

/// One program, as the artefact holds it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct ProgramEntry {
    pub name: String,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    pub slots: Vec<Expr>,
    pub launches: Vec<LaunchEntry>,
    pub stateful: bool,
    /// Whether states before and after may lie in the same memory.
    pub in_place: bool,
    /// The targets that it is for.
    pub device: Device,
}

/// A weight in the order in which the artefact stores it.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct StoredWeight {
    pub name: String,
    pub ty: TensorType,
    pub bytes: Bytes,
    pub packing: Option<Packing>,
}

/// All kernels of a model with its launch lists, weights and states.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Kernels {
    /// Targets of one device stand together.
    pub targets: Vec<Target>,
    pub kernels: Vec<KernelEntry>,
    pub programs: Vec<ProgramEntry>,
    pub weights: Vec<StoredWeight>,
    pub states: Vec<artifact::State>,
    pub symbols: Symbols,
    state_types: Vec<TensorType>,
    /// Kernels by device and the forms for all its levels, names left out.
    known: HashMap<(Device, Vec<Kernel>), usize>,
    n_of_name: BTreeMap<String, usize>,
    weight_idx: BTreeMap<String, usize>,
}

impl Kernels {
    /// Lowers the plans of all programs for these targets: those of one device together, the least demanding first.
    /// Every device has launch lists of its own.
    ///
    /// # Errors
    /// The first group without a kernel, or what else does not fit together.
    pub fn lower(programs: &[ProgramInput<'_>], targets: &[Target]) -> Result<Self, AssembleError> {
        let shapes = programs.iter().flat_map(|p| {
            let graph = &p.plan.graph;
            graph.inputs().iter().chain(graph.outputs()).flat_map(|port| graph.ty(port.value).shape.to_vec())
        });
        let dims: Vec<Dim> = shapes.collect();
        let mut all = Self {
            targets: targets.to_vec(),
            kernels: Vec::new(),
            programs: Vec::new(),
            weights: Vec::new(),
            states: Vec::new(),
            symbols: Symbols::of(&dims),
            state_types: Vec::new(),
            known: HashMap::new(),
            n_of_name: BTreeMap::new(),
            weight_idx: BTreeMap::new(),
        };
        for program in programs {
            all.add_states(program)?;
        }
        for device in all.devices() {
            for program in programs {
                let entry = all.program(program, device)?;
                all.programs.push(entry);
            }
        }
        Ok(all)
    }

    /// The devices of the targets, each once.
    pub fn devices(&self) -> Vec<Device> {
        let mut devices: Vec<Device> = self.targets.iter().map(Target::device).collect();
        devices.dedup();
        devices
    }

    /// The places of a device's targets among all.
    pub fn levels_of(&self, device: Device) -> Vec<usize> {
        (0..self.targets.len()).filter(|i| self.targets[*i].device() == device).collect()
    }

    /// How far results may be from those of arithmetic in `f32`, relative to the largest, because kernels round rows
    /// before they multiply: to 8 bits with a scale for each row, or to `bf16`. 0 if none does.
    pub fn rounding(&self) -> f64 {
        let forms = self.kernels.iter().flat_map(|kernel| &kernel.per_level);
        if forms.into_iter().any(|kernel| kernel.n_threads() == 1 && has_dot(&kernel.body)) {
            3e-2
        } else {
            0.0
        }
    }

    /// The form of a kernel for a target, if that is of the kernel's device.
    pub fn form<'k>(&self, kernel: &'k KernelEntry, level: usize) -> Option<&'k Kernel> {
        let at = self.levels_of(kernel.device).into_iter().position(|l| l == level)?;
        Some(&kernel.per_level[at])
    }

    fn expr(&self, program: &ProgramInput<'_>, dim: &Dim) -> Result<Expr, AssembleError> {
        self.symbols.expr(dim).map_err(|symbol| AssembleError::UnboundSymbol {
            program: program.name.to_owned(),
            symbol: symbol.to_string(),
        })
    }

    fn add_states(&mut self, program: &ProgramInput<'_>) -> Result<(), AssembleError> {
        let graph = &program.plan.graph;
        for name in program.states {
            let Some(value) = graph.input(name) else { continue };
            let ty = graph.ty(value);
            if let Some(idx) = self.states.iter().position(|s| s.name == *name) {
                if self.state_types[idx] != *ty {
                    return Err(AssembleError::StateType {
                        name: name.clone(),
                        program: program.name.to_owned(),
                        expected: self.state_types[idx].clone(),
                        found: ty.clone(),
                    });
                }
                continue;
            }
            let shape = ty.shape.iter().map(|d| self.expr(program, d)).collect::<Result<_, _>>()?;
            let kind = if is_window(graph, value) { StateKind::Window } else { StateKind::Fixed };
            self.states.push(artifact::State {
                name: name.clone(),
                kind: kind.into(),
                dtype: dtype(ty.dtype).into(),
                shape,
                in_place: false,
            });
            self.state_types.push(ty.clone());
        }
        Ok(())
    }

    fn program(&mut self, program: &ProgramInput<'_>, device: Device) -> Result<ProgramEntry, AssembleError> {
        let plan = match device {
            Device::Cpu => program.plan,
            Device::Gpu(_) => program.gpu_plan.unwrap_or(program.plan),
        };
        let program = &ProgramInput { plan, ..*program };
        let chains = if device == Device::Cpu { Vec::new() } else { lower::chains(plan) };
        let mut chains = chains.iter().peekable();
        let (mut launches, mut scratch) = (Vec::new(), Vec::new());
        for (at, group) in plan.groups.iter().enumerate() {
            let chain = chains.peek().filter(|chain| chain.groups.contains(&at)).copied();
            launches.extend(self.launches(program, (group, chain), device, &mut scratch)?);
            if let Some(chain) = chain.filter(|chain| chain.groups.end == at + 1) {
                launches.push(self.chain(program, chain, device)?);
                chains.next();
            }
        }
        let info = |all: &Self, port: &ssmc_ir::Port| -> Result<TensorInfo, AssembleError> {
            let ty = plan.graph.ty(port.value);
            let shape = ty.shape.iter().map(|d| all.expr(program, d)).collect::<Result<_, _>>()?;
            let (min_value, max_value) = index_bounds(&plan.graph, port.value);
            Ok(TensorInfo {
                name: port.name.clone(),
                dtype: dtype(ty.dtype).into(),
                shape,
                min_value,
                max_value,
            })
        };
        let is_state = |port: &&ssmc_ir::Port| !program.states.contains(&port.name);
        let inputs =
            plan.graph.inputs().iter().filter(is_state).map(|p| info(self, p)).collect::<Result<_, _>>()?;
        let outputs =
            plan.graph.outputs().iter().filter(is_state).map(|p| info(self, p)).collect::<Result<_, _>>()?;
        // One launch ends before the next one begins, so groups share their scratch memory.
        let slots = plan.slots.iter().chain(&scratch);
        let slots = slots.map(|d| self.expr(program, d)).collect::<Result<_, _>>()?;
        let stateful = !program.states.is_empty();
        let in_place = stateful && device == Device::Cpu && in_place::holds(&launches);
        let name = program.name.to_owned();
        Ok(ProgramEntry { name, inputs, outputs, slots, launches, stateful, in_place, device })
    }

    /// The launches of a group: one, alternatives for other sizes, or several that share memory; `scratch` grows to what
    /// they need of that. None of them runs where its chain does.
    fn launches(
        &mut self,
        program: &ProgramInput<'_>,
        (group, chain): (&Group, Option<&Chain>),
        device: Device,
        scratch: &mut Vec<Dim>,
    ) -> Result<Vec<LaunchEntry>, AssembleError> {
        let graph = &program.plan.graph;
        let alone = chain.map(|chain| Dim::from(1) - &chain.is_one());
        if alone.as_ref().is_some_and(|alone| alone.is(0)) {
            return Ok(Vec::new());
        }
        let mut per_target: Vec<Vec<Lowered>> = self
            .targets
            .iter()
            .filter(|target| target.device() == device)
            .map(|target| match target {
                Target::Cpu(cpu) => lower::lower(graph, group, cpu).map(|lowered| vec![lowered]),
                Target::Gpu(gpu) if alone.is_some() => lower::lower_unchained(graph, group, gpu),
                Target::Gpu(gpu) => lower::lower_alternatives(graph, group, gpu),
            })
            .collect::<Result<_, _>>()
            .map_err(|source| failed(program, group, source))?;
        if let Some(alone) = alone {
            for lowered in per_target.iter_mut().flatten() {
                lowered.grid = lowered.grid.clone() * &alone;
                lowered.flops = lowered.flops.clone() * &alone;
            }
        }
        let n_alternatives = per_target.first().map_or(0, Vec::len);
        debug_assert!(per_target.iter().all(|lowered| lowered.len() == n_alternatives));
        for (i, bytes) in per_target.iter().flatten().flat_map(|lowered| lowered.scratch.iter().enumerate()) {
            match scratch.get_mut(i) {
                Some(largest) => *largest = largest.at_least(bytes),
                None => scratch.push(bytes.clone()),
            }
        }
        let forms = |i: usize| per_target.iter().map(|lowered| lowered[i].clone()).collect();
        let mut launches = (0..n_alternatives)
            .map(|i| self.launch(program, group, (device, forms(i))))
            .collect::<Result<Vec<_>, _>>()?;
        // One of them runs, or all of them together are the recurrence.
        launches.iter_mut().skip(1).for_each(|entry| entry.launch.recurrence_count = 0);
        Ok(launches)
    }

    /// The launch that does all groups of a chain where there is one row.
    fn chain(
        &mut self,
        program: &ProgramInput<'_>,
        chain: &Chain,
        device: Device,
    ) -> Result<LaunchEntry, AssembleError> {
        let merged = chain.merged(program.plan);
        let targets = self.targets.iter().filter(|target| target.device() == device);
        let lowered = targets
            .map(|_| lower::lower_chain(program.plan, chain))
            .collect::<Result<_, _>>()
            .map_err(|source| failed(program, &merged, source))?;
        let mut entry = self.launch(program, &merged, (device, lowered))?;
        // A recurrence that also has a launch of its own is counted there.
        if !(Dim::from(1) - &chain.is_one()).is(0) {
            entry.launch.recurrence_count = 0;
        }
        Ok(entry)
    }

    fn launch(
        &mut self,
        program: &ProgramInput<'_>,
        group: &Group,
        (device, lowered): (Device, Vec<Lowered>),
    ) -> Result<LaunchEntry, AssembleError> {
        let graph = &program.plan.graph;
        let root = graph.node(group.root);
        let widest = lowered.last().expect("a model is compiled for at least one level");
        debug_assert!(
            lowered.iter().all(|l| l.args == widest.args && l.dims == widest.dims && l.grid == widest.grid)
        );
        let mut args = Vec::new();
        let mut bytes = Dim::from(0);
        for arg in &widest.args {
            let (value, bits) = match arg {
                Arg::Slot(..) => {
                    args.push(self.buffer(program, arg)?);
                    continue;
                }
                Arg::Value(value) => (value, graph.ty(*value).dtype.bits()),
                Arg::Packed(value, packing) => (value, packing.bits(graph.ty(*value).dtype.bits())),
                Arg::Scratch(i) => {
                    bytes = bytes + &widest.scratch[*i];
                    args.push(self.buffer(program, arg)?);
                    continue;
                }
            };
            let touched = touched(graph, group, *value);
            bytes = bytes
                + if bits < 8 {
                    (touched * Dim::from(bits)).ceildiv(&Dim::from(8))
                } else {
                    touched * Dim::from(bits / 8)
                };
            args.push(self.buffer(program, arg)?);
        }
        let dims = widest.dims.iter().map(|d| self.expr(program, d)).collect::<Result<_, _>>()?;
        let (grid, flops) = (self.expr(program, &widest.grid)?, self.expr(program, &widest.flops)?);
        let bytes = self.expr(program, &bytes)?;
        let class = recurrence::class(graph, root);
        let (locations, nodes) = origins(graph, group);
        let launch = artifact::Launch {
            kernel: 0,
            grid: Some(grid),
            dims,
            args,
            locations,
            nodes,
            flops: Some(flops),
            bytes: Some(bytes),
            recurrence_count: u32::from(!class.is_empty()),
            recurrence: class,
            generic_loop: matches!(root.op, Op::Loop(_)),
            product: widest
                .product
                .as_ref()
                .map(|p| self.product(program, p, &widest.args))
                .transpose()?
                .flatten(),
        };
        let updates = widest.in_place.and_then(|pair| {
            let name = in_place::state_of(program, group, pair)?;
            self.states.iter().position(|state| state.name == name)
        });
        let kernel = self.intern(lowered.into_iter().map(|l| l.kernel).collect(), device);
        Ok(LaunchEntry { launch: artifact::Launch { kernel: kernel as u32, ..launch }, kernel, updates })
    }

    /// A product that a library can do instead of a launch with these arguments.
    fn product(
        &self,
        program: &ProgramInput<'_>,
        p: &LibraryProduct,
        args: &[Arg],
    ) -> Result<Option<artifact::Product>, AssembleError> {
        let place =
            |value: ValueId| args.iter().position(|arg| *arg == Arg::Value(value)).map(|at| at as u32);
        let places = [Some(p.x), Some(p.w), Some(p.y), p.addend, p.bias].map(|value| value.map(place));
        // A kernel may have a weight in another form.
        let [Some(Some(x)), Some(Some(w)), Some(Some(y)), addend, bias] = places else { return Ok(None) };
        if [addend, bias].contains(&Some(None)) {
            return Ok(None);
        }
        Ok(Some(artifact::Product {
            rows: Some(self.expr(program, &p.rows)?),
            cols: p.cols as u64,
            depth: p.depth as u64,
            x,
            x_pitch: p.x_pitch as u64,
            x_offset: p.x_offset as u64,
            w,
            w_is_deep: p.w_is_deep,
            y,
            addend: addend.flatten(),
            bias: bias.flatten(),
        }))
    }

    /// The index of a kernel, added with a name of its own if no equal one exists.
    fn intern(&mut self, mut forms: Vec<Kernel>, device: Device) -> usize {
        let base = std::mem::take(&mut forms[0].name);
        for form in &mut forms {
            form.name.clear();
        }
        let key = (device, forms);
        if let Some(idx) = self.known.get(&key) {
            return *idx;
        }
        let n = self.n_of_name.entry(base.clone()).or_insert(0);
        let name = format!("{base}_{n}");
        *n += 1;
        let per_level = key.1.iter().map(|k| Kernel { name: name.clone(), ..k.clone() }).collect();
        self.known.insert(key, self.kernels.len());
        self.kernels.push(KernelEntry { name, device, per_level });
        self.kernels.len() - 1
    }

    fn buffer(&mut self, program: &ProgramInput<'_>, arg: &Arg) -> Result<BufferRef, AssembleError> {
        let plan = program.plan;
        let (value, packing) = match arg {
            Arg::Value(value) => (*value, None),
            Arg::Packed(value, packing) => (*value, Some(packing.clone())),
            Arg::Scratch(i) => return Ok(scratch_buffer(program, *i)),
            Arg::Slot(slot, _) => {
                let kind = BufferKind::Slot.into();
                return Ok(BufferRef { kind, index: *slot as u32, byte_offset: None });
            }
        };
        let state = |name: &str| self.states.iter().position(|s| s.name == name);
        let rank = |ports: &[ssmc_ir::Port], i: usize| {
            ports[..i].iter().filter(|p| !program.states.contains(&p.name)).count()
        };
        let place = plan
            .places
            .get(&value)
            .ok_or(AssembleError::NoPlace { program: program.name.to_owned(), value })?;
        let (kind, index) = match *place {
            Place::Input(i) => match state(&plan.graph.inputs()[i].name)
                .filter(|_| program.states.contains(&plan.graph.inputs()[i].name))
            {
                Some(state) => (BufferKind::StateIn, state),
                None => (BufferKind::Input, rank(plan.graph.inputs(), i)),
            },
            Place::Output(i) => match state(&plan.graph.outputs()[i].name)
                .filter(|_| program.states.contains(&plan.graph.outputs()[i].name))
            {
                Some(state) => (BufferKind::StateOut, state),
                None => (BufferKind::Output, rank(plan.graph.outputs(), i)),
            },
            Place::Slot(slot) => (BufferKind::Slot, slot),
            Place::Weight => (BufferKind::Weight, self.weight(program, value, packing)?),
        };
        Ok(BufferRef { kind: kind.into(), index: index as u32, byte_offset: None })
    }

    /// The index of a stored weight or literal.
    fn weight(
        &mut self,
        program: &ProgramInput<'_>,
        value: ValueId,
        packing: Option<Packing>,
    ) -> Result<usize, AssembleError> {
        let graph = &program.plan.graph;
        let (mut name, weight) = match graph.def_op(value) {
            Some(Op::WeightRef(op)) => {
                let weight = program.weights.get(&op.name).ok_or_else(|| AssembleError::NoWeight {
                    program: program.name.to_owned(),
                    name: op.name.clone(),
                })?;
                (op.name.clone(), weight.clone())
            }
            Some(Op::Constant(op)) => {
                let ty = TensorType::new(op.dtype, op.shape.clone());
                ("constant".to_owned(), Weight { ty, bytes: op.data.clone().into() })
            }
            _ => return Err(AssembleError::NoPlace { program: program.name.to_owned(), value }),
        };
        if let Some(packing) = &packing {
            name = format!("{name}@{}", packing.name());
        }
        // Programs may use one name for different bytes: what a pass folded in each of them.
        let mut n = 0;
        let base = name.clone();
        loop {
            match self.weight_idx.get(&name) {
                Some(idx) if same_bytes(&self.weights[*idx], &weight) => return Ok(*idx),
                Some(_) => {
                    n += 1;
                    name = format!("{base}#{n}");
                }
                None => break,
            }
        }
        let idx = self.weights.len();
        self.weight_idx.insert(name.clone(), idx);
        self.weights.push(StoredWeight { name, ty: weight.ty, bytes: weight.bytes, packing });
        Ok(idx)
    }
}

/// Memory that the launches of a group share lies behind the slots of the plan.
fn scratch_buffer(program: &ProgramInput<'_>, i: usize) -> BufferRef {
    let index = (program.plan.slots.len() + i) as u32;
    BufferRef { kind: BufferKind::Slot.into(), index, byte_offset: None }
}

/// The error of a group without a kernel.
fn failed(program: &ProgramInput<'_>, group: &Group, source: LowerError) -> AssembleError {
    let graph = &program.plan.graph;
    AssembleError::Lower {
        program: program.name.to_owned(),
        place: graph.locs().describe(graph.node(group.root).loc),
        source,
    }
}

fn same_bytes(stored: &StoredWeight, weight: &Weight) -> bool {
    let (a, b) = (stored.bytes.as_slice(), weight.bytes.as_slice());
    stored.ty == weight.ty && ((a.as_ptr() == b.as_ptr() && a.len() == b.len()) || a == b)
}

/// Whether there is a dot product of rounded numbers.
fn has_dot(stmts: &[Stmt]) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::Inst(inst) => matches!(inst, Inst::Dot { .. } | Inst::Mma { .. }),
        Stmt::For(l) => has_dot(&l.body),
        Stmt::If(i) => has_dot(&i.on_true) || has_dot(&i.on_false),
    })
}

/// How many elements of an argument a group reads or writes: all, but of a table only the entries that it gathers.
fn touched(graph: &Graph, group: &Group, value: ValueId) -> Dim {
    let gathered = group
        .members
        .iter()
        .map(|id| graph.node(*id))
        .find(|node| matches!(node.op, Op::Gather(_)) && node.operands[0] == Some(value));
    graph.ty(gathered.map_or(value, |node| node.results[0])).shape.n_elems()
}

/// Whether a state is the tail of a convolution.
fn is_window(graph: &Graph, state: ValueId) -> bool {
    let users = graph.users();
    users[state].iter().any(|(node, _)| matches!(graph.node(*node).op, Op::CausalConv1d(_) | Op::LongConv(_)))
}

/// Bounds of an integer input that indexes a table.
fn index_bounds(graph: &Graph, input: ValueId) -> (Option<i64>, Option<i64>) {
    let is_index = |v: Option<ValueId>| v == Some(input);
    for (_, node) in graph.nodes() {
        if let Op::Gather(op) = &node.op
            && is_index(node.operands[1])
            && matches!(graph.def(input), Def::Input(_))
            && let Some(table) = node.operands[0]
            && let Some(n) = graph.ty(table).shape[op.axis].as_const()
        {
            return (Some(-n), Some(n - 1));
        }
    }
    (None, None)
}

/// Where the work of a group comes from, for people, and the names of its ONNX nodes or modules.
fn origins(graph: &Graph, group: &Group) -> (Vec<String>, Vec<String>) {
    let (mut locations, mut names) = (Vec::new(), Vec::new());
    let locs = graph.locs();
    for member in &group.members {
        for origin in locs.origins(graph.node(*member).loc) {
            let text = locs.describe(origin);
            if locations.contains(&text) {
                continue;
            }
            locations.push(text);
            match locs.get(origin) {
                Loc::OnnxNode { name, output, .. } => {
                    names.push(if name.is_empty() { output.clone() } else { name.clone() });
                }
                Loc::Module(path) => names.push(path.clone()),
                Loc::Unknown | Loc::Text { .. } | Loc::Derived { .. } => {}
            }
        }
    }
    (locations, names)
}

impl KernelEntry {
    /// The kernel's description in the manifest; `entries` are its offsets in the images of the levels.
    pub(crate) fn describe(&self, entries: Vec<u64>, text_hash: Vec<u8>) -> artifact::Kernel {
        let kernel = self.per_level.last().expect("a kernel has a form for each level");
        let dynamic_shared_bytes = match self.device {
            Device::Cpu => 0,
            Device::Gpu(arch) => ptx::dynamic_shared_bytes(kernel, &GpuTarget::of_arch(arch)),
        };
        artifact::Kernel {
            name: self.name.clone(),
            entries,
            params: kernel
                .params
                .iter()
                .map(|p| artifact::KernelParam {
                    name: p.name.clone(),
                    dtype: elem(p.elem).into(),
                    access: access(p.access).into(),
                })
                .collect(),
            dim_names: kernel.dims.clone(),
            block: kernel.block.to_vec(),
            text_hash,
            dynamic_shared_bytes,
        }
    }
}
