//! The values of an import and what is known of them.

use super::super::fault::Fault;
use super::super::narrow::Narrow;
use super::super::proto::TensorProto;
use super::super::shape::{Known, MAX_KNOWN, check_shape};
use super::super::tensor::{Literal, literal};
use super::{Entry, Importer, Special, Val};
use ssmc_ir::{DType, Dim, Loc, Shape, TensorType, ValueId};
use std::collections::BTreeMap;
use std::rc::Rc;

impl Importer<'_> {
    fn push_entry(&mut self, entry: Entry) -> Val {
        self.n_followed += entry.known.as_ref().map_or(0, |k| k.elems.len());
        self.entries.push(entry);
        Val(self.entries.len() - 1)
    }

    /// The value for an IR value of the present region.
    pub(crate) fn value(&mut self, value: ValueId) -> Val {
        let region = self.region();
        let (ty, id) = (region.builder.ty(value).clone(), region.id);
        let in_region = BTreeMap::from([(id, value)]);
        self.push_entry(Entry {
            ty,
            special: None,
            narrow: None,
            known: None,
            literal: None,
            loc: Loc::Unknown,
            in_region,
        })
    }

    /// The value of an integer tensor known when compiling.
    pub(crate) fn known_value(&mut self, known: Known, loc: Loc) -> Val {
        let (ty, known) = (known.ty(), Some(known));
        self.push_entry(Entry {
            ty,
            special: None,
            narrow: None,
            known,
            literal: None,
            loc,
            in_region: BTreeMap::new(),
        })
    }

    /// The value of a sequence or optional.
    pub(crate) fn special_value(&mut self, special: Special) -> Val {
        let ty = TensorType::new(DType::Bool, Shape::from([0]));
        let (special, loc, in_region) = (Some(special), Loc::Unknown, BTreeMap::new());
        self.push_entry(Entry { ty, special, narrow: None, known: None, literal: None, loc, in_region })
    }

    /// What a value is, if it is no tensor.
    pub(crate) fn special(&self, v: Val) -> Option<&Special> {
        self.entries[v.0].special.as_ref()
    }

    /// The value of a literal tensor.
    pub(crate) fn literal_value(&mut self, literal: Literal, name: &str, loc: Loc) -> Val {
        let known = known_of(&literal);
        let (ty, narrow) = (literal.ty(), literal.narrow);
        let literal = Some((Rc::new(literal), name.to_owned()));
        self.push_entry(Entry { ty, special: None, narrow, known, literal, loc, in_region: BTreeMap::new() })
    }

    /// What the elements of a value mean, if they are narrow.
    pub(crate) fn narrow(&self, v: Val) -> Option<Narrow> {
        self.entries[v.0].narrow
    }

    /// The value, whose elements are narrow.
    pub(crate) fn as_narrow(&mut self, v: Val, narrow: Narrow) -> Val {
        self.entries[v.0].narrow = Some(narrow);
        v
    }

    /// Decodes a tensor of the model.
    pub(crate) fn decode(&self, tensor: &TensorProto) -> Result<Literal, Fault> {
        let literal = literal(tensor, &self.files)?;
        check_shape(&literal.ty().shape)?;
        Ok(literal)
    }

    pub(crate) fn ty(&self, v: Val) -> &TensorType {
        &self.entries[v.0].ty
    }

    pub(crate) fn known(&self, v: Val) -> Option<&Known> {
        self.entries[v.0].known.as_ref()
    }

    pub(crate) fn literal(&self, v: Val) -> Option<&Literal> {
        self.entries[v.0].literal.as_ref().map(|(l, _)| &**l)
    }
}

/// The elements of a literal, if they are integers and not too many to follow.
pub(super) fn known_of(literal: &Literal) -> Option<Known> {
    let ints = (literal.n_elems() <= MAX_KNOWN).then(|| literal.ints()).flatten()?;
    let elems = ints.into_iter().map(Dim::from).collect();
    Some(Known { dtype: literal.dtype, shape: literal.dims.clone(), elems })
}
