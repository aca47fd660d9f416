//! The inputs of a model. Sequences and optional values are put together of tensors, which are the inputs of the graph.

use super::fault::Fault;
use super::importer::{Importer, Special, Val};
use super::narrow::Narrow;
use super::proto::{GraphProto, ValueInfoProto};
use super::types::{self, Declared};
use crate::shapes::{Binding, InputShape, ShapeFault};
use ssmc_ir::TensorType;
use std::collections::BTreeSet;

/// How the value of an input is made of tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Tensor,
    Sequence,
    Absent,
}

/// One input of the model.
struct Input {
    form: Form,
    narrow: Option<Narrow>,
    declares_shape: bool,
    /// Its tensors: the inputs of the graph.
    tensors: Result<Vec<(String, TensorType)>, Fault>,
}

/// Whether the user says that nothing stands in the place of this input.
fn is_absent(shapes: &[InputShape], name: &str) -> bool {
    shapes.iter().any(|shape| shape.absent && shape.input == name)
}

/// The names of the tensors of an input.
fn names(
    info: &ValueInfoProto,
    declared: &Declared<'_>,
    shapes: &[InputShape],
) -> Result<(Form, Vec<String>), Fault> {
    let name = info.name();
    let absent = is_absent(shapes, name);
    if !declared.is_sequence {
        let form = if declared.is_optional && absent { Form::Absent } else { Form::Tensor };
        let own = (form == Form::Tensor).then(|| name.to_owned());
        return Ok((form, own.into_iter().collect()));
    }
    let given = |i: &usize| shapes.iter().any(|shape| shape.input == part(name, *i));
    let n = (0..shapes.len()).take_while(given).count();
    match (n, absent) {
        (0, true) if declared.is_optional => Ok((Form::Absent, Vec::new())),
        (0, false) => {
            let first = part(name, 0);
            Err(Fault::Unknown(format!(
                "the tensors of a sequence (their shapes as those of {first:?} and so on)"
            )))
        }
        _ => Ok((Form::Sequence, (0..n).map(|i| part(name, i)).collect())),
    }
}

/// The name of a tensor of a sequence.
pub(super) fn part(name: &str, i: usize) -> String {
    format!("{name}.{i}")
}

/// Another value of the graph that goes in or out under the name of a tensor of a sequence.
pub(super) fn is_taken(graph: &GraphProto, name: &str) -> bool {
    graph.input.iter().chain(&graph.output).any(|info| info.name() == name)
}

fn read(
    info: &ValueInfoProto,
    graph: &GraphProto,
    taken: &BTreeSet<&str>,
    shapes: &[InputShape],
) -> Result<Input, Fault> {
    let declared = types::declared(info)?;
    let (form, names) = names(info, &declared, shapes)?;
    let tensors = names
        .into_iter()
        .map(|name| {
            if form == Form::Sequence && is_taken(graph, &name) {
                return Err(Fault::Unsupported(format!("a sequence one of whose tensors would be {name:?}")));
            }
            let given = shapes.iter().find(|shape| shape.input == name).map(Binding::shape);
            let ty = types::input_type((&name, form == Form::Sequence), declared.tensor, taken, given)?;
            Ok((name, ty))
        })
        .collect();
    Ok(Input {
        form,
        narrow: declared.tensor.and_then(|tensor| Narrow::of(tensor.elem_type())),
        declares_shape: declared.tensor.is_some_and(|tensor| tensor.shape.is_some()),
        tensors,
    })
}

/// Imports the inputs of the model's graph.
pub(super) fn import<'m>(
    importer: &mut Importer<'m>,
    graph: &'m GraphProto,
    shapes: &[InputShape],
) -> Result<Binding, Vec<ShapeFault>> {
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let taken = types::dim_names(&graph.input);
    let infos = graph.input.iter().filter(|info| !constants.contains(info.name()));
    let inputs: Vec<(&ValueInfoProto, Result<Input, Fault>)> =
        infos.map(|info| (info, read(info, graph, &taken, shapes))).collect();
    let mut ports = Vec::new();
    let mut nothing = BTreeSet::new();
    for (info, input) in &inputs {
        match input {
            Ok(Input { tensors: Ok(tensors), declares_shape, form, .. }) => {
                ports.extend(
                    tensors.iter().map(|(name, ty)| (name.as_str(), declares_shape.then_some(&ty.shape))),
                );
                if *form != Form::Tensor {
                    nothing.insert(info.name());
                }
            }
            Ok(_) | Err(_) => ports.push((info.name(), None)),
        }
    }
    let of_tensors: Vec<InputShape> =
        shapes.iter().filter(|s| !(s.absent && nothing.contains(s.input.as_str()))).cloned().collect();
    let binding = Binding::new(&of_tensors, &ports)?;
    for (info, input) in inputs {
        let value = match input.and_then(|input| Ok((input.form, input.narrow, input.tensors?))) {
            Ok((form, narrow, tensors)) => {
                let tensors = tensors.into_iter().map(|(name, ty)| {
                    let value = importer.region_input(&name, ty.with_shape(binding.apply(&ty.shape)));
                    narrow.map_or(value, |narrow| importer.as_narrow(value, narrow))
                });
                let tensors: Vec<Val> = tensors.collect();
                Some(match form {
                    Form::Tensor => tensors[0],
                    Form::Sequence => importer.special_value(Special::List(tensors)),
                    Form::Absent => importer.special_value(Special::Absent),
                })
            }
            Err(fault) => {
                importer.faults.push(format!("input {:?}", info.name()), &fault);
                None
            }
        };
        importer.bind(info.name(), value);
    }
    Ok(binding)
}
