//! Local functions of the model: one per recurrence, shared by equal ones.

use super::super::proto::{FunctionProto, NodeProto, OperatorSetIdProto};
use super::body::{Body, Name};
use super::writer::{DOMAIN, Writer};
use ssmc_ir::Node;

/// Operands of a function by position, with the names that they have inside.
pub(super) struct Formals(Vec<Option<Name>>);

impl Formals {
    pub(super) fn get(&self, i: usize) -> Result<&str, String> {
        self.find(i).ok_or_else(|| "an operand is missing".to_owned())
    }

    pub(super) fn find(&self, i: usize) -> Option<&str> {
        self.0.get(i).and_then(Option::as_deref)
    }
}

impl Writer<'_> {
    /// A call of the function that computes this node; equal nodes share one.
    pub(super) fn call(
        &mut self,
        node: &Node,
        build: impl FnOnce(&mut Body, &Formals) -> Result<Vec<Name>, String>,
    ) -> Result<Vec<Name>, String> {
        let mut actuals = Vec::new();
        for i in 0..node.operands.len() {
            actuals.push(self.optional(node, i)?);
        }
        self.call_with(node, "", actuals, build)
    }

    /// A call with operands in shapes of their own, which `form` names.
    pub(super) fn call_with(
        &mut self,
        node: &Node,
        form: &str,
        actuals: Vec<Option<Name>>,
        build: impl FnOnce(&mut Body, &Formals) -> Result<Vec<Name>, String>,
    ) -> Result<Vec<Name>, String> {
        let types: Vec<String> =
            node.operands.iter().map(|v| v.map_or_else(String::new, |v| self.ty(v).to_string())).collect();
        let present: Vec<bool> = actuals.iter().map(Option::is_some).collect();
        let key = format!("{:?} {types:?} {form} {present:?}", node.op);
        let index = match self.known_functions.get(&key) {
            Some(index) => *index,
            None => {
                let formals = actuals.iter().enumerate().map(|(i, a)| a.as_ref().map(|_| format!("x{i}")));
                let formals = Formals(formals.collect());
                let mut body = Body::new(self.body.opset, "v");
                let output = build(&mut body, &formals)?;
                let nodes = body.into_nodes(&output);
                let index = self.functions.len();
                self.functions.push(FunctionProto {
                    name: Some(format!("{}_{index}", node.op.name().replace('.', "_"))),
                    domain: Some(DOMAIN.to_owned()),
                    input: formals.0.into_iter().flatten().collect(),
                    output,
                    opset_import: vec![OperatorSetIdProto {
                        domain: Some(String::new()),
                        version: Some(self.body.opset),
                    }],
                    doc_string: Some(format!("{} of {}", node.op.name(), types.join(" "))),
                    node: nodes,
                    ..FunctionProto::default()
                });
                self.known_functions.insert(key, index);
                index
            }
        };
        let function = &self.functions[index];
        let (name, n) = (function.name().to_owned(), function.output.len());
        let actuals: Vec<&str> = actuals.iter().flatten().map(String::as_str).collect();
        let results = self.body.node(&name, &actuals, n, Vec::new());
        let call: &mut NodeProto = self.body.nodes.last_mut().expect("the call was added");
        call.domain = Some(DOMAIN.to_owned());
        Ok(results)
    }
}
