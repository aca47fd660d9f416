//! Typed access to the attributes of a node.

use super::fault::Fault;
use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, TensorProto};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// The attributes of one node, with references to attributes of an enclosing function call resolved.
///
/// Every access marks the attribute as understood; [`Attrs::unread`] then finds the ones that no importer looked at.
pub(crate) struct Attrs<'m> {
    by_name: BTreeMap<&'m str, &'m AttributeProto>,
    read: RefCell<BTreeSet<&'m str>>,
}

impl<'m> Attrs<'m> {
    /// Collects the attributes of a node; `outer` are those of the function call around it.
    ///
    /// # Errors
    /// A name occurs twice.
    pub(crate) fn new(
        attributes: &'m [AttributeProto],
        outer: Option<&BTreeMap<&'m str, &'m AttributeProto>>,
    ) -> Result<Self, Fault> {
        let mut by_name = BTreeMap::new();
        for attribute in attributes {
            let name = attribute.name();
            let resolved = match attribute.ref_attr_name() {
                "" => Some(attribute),
                reference => outer.and_then(|o| o.get(reference).copied()),
            };
            if let Some(resolved) = resolved
                && by_name.insert(name, resolved).is_some()
            {
                return Err(Fault::Attribute {
                    name: name.into(),
                    expected: "one value".into(),
                    found: "the attribute twice".into(),
                });
            }
        }
        Ok(Self { by_name, read: RefCell::default() })
    }

    /// All attributes by name, for the nodes of a called function.
    pub(crate) fn as_map(&self) -> &BTreeMap<&'m str, &'m AttributeProto> {
        &self.by_name
    }

    /// The first attribute that nobody asked for.
    pub(crate) fn unread(&self) -> Option<&'m str> {
        let read = self.read.borrow();
        self.by_name.keys().copied().find(|name| !read.contains(name))
    }

    /// Marks attributes as understood that do not matter for inference.
    pub(crate) fn ignore(&self, names: &[&str]) {
        for name in names {
            self.find(name);
        }
    }

    fn find(&self, name: &str) -> Option<&'m AttributeProto> {
        let (key, attribute) = self.by_name.get_key_value(name)?;
        self.read.borrow_mut().insert(key);
        Some(attribute)
    }

    fn typed(&self, name: &'static str, ty: AttributeType) -> Result<Option<&'m AttributeProto>, Fault> {
        let Some(attribute) = self.find(name) else { return Ok(None) };
        let found = AttributeType::try_from(attribute.r#type.unwrap_or(0));
        // Files before IR version 2 leave the type out.
        if found == Ok(ty) || found == Ok(AttributeType::Undefined) && holds(attribute, ty) {
            return Ok(Some(attribute));
        }
        Err(Fault::Attribute {
            name: name.into(),
            expected: describe(ty).into(),
            found: found
                .map_or_else(|_| format!("type {}", attribute.r#type.unwrap_or(0)), |t| describe(t).into()),
        })
    }

    /// Whether the attribute is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// An integer.
    pub(crate) fn int(&self, name: &'static str) -> Result<Option<i64>, Fault> {
        Ok(self.typed(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    /// An integer with a default.
    pub(crate) fn int_or(&self, name: &'static str, default: i64) -> Result<i64, Fault> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An integer that is 0 or 1, with a default.
    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Result<bool, Fault> {
        match self.int_or(name, i64::from(default))? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.wrong(name, "0 or 1", other)),
        }
    }

    /// A list of integers.
    pub(crate) fn ints(&self, name: &'static str) -> Result<Option<&'m [i64]>, Fault> {
        Ok(self.typed(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    /// A float with a default.
    pub(crate) fn float_or(&self, name: &'static str, default: f32) -> Result<f32, Fault> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A float.
    pub(crate) fn float(&self, name: &'static str) -> Result<Option<f32>, Fault> {
        Ok(self.typed(name, AttributeType::Float)?.map(AttributeProto::f))
    }

    /// A list of floats.
    pub(crate) fn floats(&self, name: &'static str) -> Result<Option<&'m [f32]>, Fault> {
        Ok(self.typed(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    /// A text.
    pub(crate) fn string(&self, name: &'static str) -> Result<Option<&'m str>, Fault> {
        let Some(attribute) = self.typed(name, AttributeType::String)? else { return Ok(None) };
        let bytes: &'m [u8] = attribute.s.as_deref().unwrap_or(&[]);
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.wrong(name, "text in UTF-8", "other bytes"))
    }

    /// A list of texts.
    pub(crate) fn strings(&self, name: &'static str) -> Result<Option<Vec<String>>, Fault> {
        let Some(attribute) = self.typed(name, AttributeType::Strings)? else { return Ok(None) };
        let text = |bytes: &prost::bytes::Bytes| {
            String::from_utf8(bytes.to_vec()).map_err(|_| self.wrong(name, "texts in UTF-8", "other bytes"))
        };
        attribute.strings.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// A text with a default.
    pub(crate) fn string_or(&self, name: &'static str, default: &'static str) -> Result<&'m str, Fault> {
        Ok(self.string(name)?.unwrap_or(default))
    }

    /// A tensor.
    pub(crate) fn tensor(&self, name: &'static str) -> Result<Option<&'m TensorProto>, Fault> {
        Ok(self.typed(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    /// A graph, which must be there.
    pub(crate) fn graph(&self, name: &'static str) -> Result<&'m GraphProto, Fault> {
        self.typed(name, AttributeType::Graph)?
            .and_then(|a| a.g.as_ref())
            .ok_or(Fault::MissingAttribute { name })
    }

    /// The fault of an attribute whose value is not as expected.
    pub(crate) fn wrong(&self, name: &str, expected: impl ToString, found: impl ToString) -> Fault {
        Fault::Attribute { name: name.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

fn holds(attribute: &AttributeProto, ty: AttributeType) -> bool {
    match ty {
        AttributeType::Float => attribute.f.is_some(),
        AttributeType::Int => attribute.i.is_some(),
        AttributeType::String => attribute.s.is_some(),
        AttributeType::Tensor => attribute.t.is_some(),
        AttributeType::Graph => attribute.g.is_some(),
        AttributeType::Floats => !attribute.floats.is_empty(),
        AttributeType::Ints => !attribute.ints.is_empty(),
        AttributeType::Strings => !attribute.strings.is_empty(),
        _ => false,
    }
}

fn describe(ty: AttributeType) -> &'static str {
    match ty {
        AttributeType::Undefined => "no type",
        AttributeType::Float => "a float",
        AttributeType::Int => "an integer",
        AttributeType::String => "a string",
        AttributeType::Tensor => "a tensor",
        AttributeType::Graph => "a graph",
        AttributeType::Floats => "a list of floats",
        AttributeType::Ints => "a list of integers",
        AttributeType::Strings => "a list of strings",
        AttributeType::Tensors => "a list of tensors",
        AttributeType::Graphs => "a list of graphs",
        AttributeType::SparseTensor => "a sparse tensor",
        AttributeType::SparseTensors => "a list of sparse tensors",
        AttributeType::TypeProto => "a type",
        AttributeType::TypeProtos => "a list of types",
    }
}
