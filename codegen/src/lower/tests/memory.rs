//! The buffers of a plan: one per value that lies in memory, so that every access past its end is seen. Only outputs
//! that are reshapes of other values share theirs, as in the plan.

use super::super::{Arg, Lowered};
use super::problem::Launch;
use crate::kernel::Kernel;
use crate::kernel::interp::{self, Interpreter};
use ssmc_ir::ops::Op;
use ssmc_ir::{Bindings, DType, Place, Plan, Tensor, ValueId, Weights};
use std::collections::BTreeMap;

/// What buffers hold before anything is written: no plausible number in any type.
const UNWRITTEN: u8 = 0xa5;

#[derive(Clone, Debug)]
pub(super) struct Memory<'a> {
    plan: &'a Plan,
    bindings: &'a Bindings,
    pub(super) buffers: BTreeMap<Arg, Vec<u8>>,
}

impl<'a> Memory<'a> {
    /// Memory for all launches, with inputs and weights in place.
    pub(super) fn new(
        plan: &'a Plan,
        launches: &[Launch],
        (weights, inputs, bindings): (&Weights, &BTreeMap<String, Tensor>, &'a Bindings),
    ) -> Self {
        let graph = &plan.graph;
        let mut memory = Self { plan, bindings, buffers: BTreeMap::new() };
        for Launch { lowered: launch, .. } in launches {
            for (arg, param) in launch.args.iter().zip(&launch.kernel.params) {
                let (Arg::Value(value) | Arg::Packed(value, _)) = arg else {
                    memory.add_slot(arg);
                    continue;
                };
                let ty = graph.ty(*value);
                let dims = memory.extents(*value);
                let stored = match graph.def_op(*value) {
                    Some(Op::WeightRef(op)) => Some(weights.get(&op.name).unwrap().bytes.as_slice().to_vec()),
                    Some(Op::Constant(op)) => Some(op.data.clone()),
                    _ => graph
                        .inputs()
                        .iter()
                        .find(|port| port.value == *value)
                        .map(|port| inputs[&port.name].to_bytes()),
                };
                assert!(stored.is_none() || !param.access.writes(), "{value} is written");
                let size = dims.iter().product::<usize>() * ty.dtype.bits() / 8;
                let bytes = match (arg, stored) {
                    (Arg::Packed(_, packing), Some(bytes)) => {
                        let mut packed = Vec::new();
                        packing.write(&bytes, &dims, ty.dtype.bits() / 8, &mut packed).unwrap();
                        packed
                    }
                    (_, Some(bytes)) => bytes,
                    (_, None) => vec![UNWRITTEN; size],
                };
                memory.buffers.entry(buffer_of(plan, arg)).or_insert(bytes);
            }
        }
        memory
    }

    /// A slot of the arena, in which a loop keeps what its body computes.
    fn add_slot(&mut self, arg: &Arg) {
        let Arg::Slot(slot, _) = arg else { panic!("each group is one launch") };
        let size = usize::try_from(self.plan.slots[*slot].eval(self.bindings).unwrap()).unwrap();
        self.buffers.entry(buffer_of(self.plan, arg)).or_insert(vec![UNWRITTEN; size]);
    }

    fn extents(&self, value: ValueId) -> Vec<usize> {
        let dims = self.plan.graph.ty(value).shape.iter();
        dims.map(|d| usize::try_from(d.eval(self.bindings).unwrap()).unwrap()).collect()
    }

    /// What a graph output holds.
    pub(super) fn tensor(&self, value: ValueId) -> Tensor {
        // What has no element is not written.
        let bytes =
            self.buffers.get(&buffer_of(self.plan, &Arg::Value(value))).map_or(&[][..], Vec::as_slice);
        Tensor::from_bytes(self.plan.graph.ty(value).dtype, self.extents(value), bytes).unwrap()
    }

    /// The buffers of a launch's parameters.
    pub(super) fn params(&self, launch: &Lowered) -> Vec<Arg> {
        launch.args.iter().map(|arg| buffer_of(self.plan, arg)).collect()
    }

    pub(super) fn dims(&self, launch: &Lowered) -> Vec<i64> {
        launch.dims.iter().map(|d| d.eval(self.bindings).unwrap()).collect()
    }

    pub(super) fn grid(&self, launch: &Lowered) -> i64 {
        launch.grid.eval(self.bindings).unwrap()
    }

    /// Runs `kernel`, a form of the launch's kernel, in the interpreter.
    pub(super) fn interpret(&mut self, launch: &Lowered, kernel: &Kernel) {
        let (dims, grid) = (self.dims(launch), self.grid(launch));
        let params = self.params(launch);
        let mut keys = params.clone();
        keys.sort();
        keys.dedup();
        let args: Vec<_> =
            params.iter().map(|arg| interp::Arg::start(keys.binary_search(arg).unwrap())).collect();
        let used = self.buffers.iter_mut().filter(|(arg, _)| keys.binary_search(arg).is_ok());
        let mut buffers: Vec<&mut [u8]> = used.map(|(_, bytes)| bytes.as_mut_slice()).collect();
        Interpreter::new(kernel)
            .and_then(|interpreter| interpreter.run(0..grid, &dims, &args, &mut buffers))
            .unwrap_or_else(|error| panic!("{error}\n{kernel}"));
    }
}

/// The key of the buffer behind an argument.
fn buffer_of(plan: &Plan, arg: &Arg) -> Arg {
    match arg {
        Arg::Value(value) => match plan.places.get(value) {
            Some(Place::Output(i)) => Arg::Value(plan.graph.outputs()[*i].value),
            _ => arg.clone(),
        },
        Arg::Packed(..) | Arg::Scratch(_) => arg.clone(),
        Arg::Slot(slot, _) => Arg::Slot(*slot, DType::U8),
    }
}
