//! Compiled code beside tract, which reads the same file.

use super::{Call, NodeResult, Verifier, cases};
use crate::compare::compare;
use crate::failure::{Failure, Kind, Outcome};
use crate::tensors::{self, Tensors};
use ssmc::Rng;
use ssmc_frontend::oracle::{self, OracleError};
use ssmc_ir::Interpreter;

impl Verifier<'_> {
    /// `forward` against what tract computes, on the recorded inputs if there are some, else on random ones.
    pub(super) fn with_tract(&mut self) -> Outcome {
        if !self.args.model.is_file() {
            return Err(Failure::usage("--against tract: expected an ONNX file"));
        }
        let entry = self.entry("forward")?;
        let given: Vec<(String, Tensors)> = match &self.args.reference {
            Some(path) => {
                let is_input = |name: &String| entry.inputs.iter().any(|info| info.name == *name);
                let cases = cases(path)?.into_iter();
                cases
                    .map(|(case, mut inputs, _)| {
                        inputs.retain(|name, _| is_input(name));
                        Ok((case, tensors::for_program(entry, &inputs).map_err(|f| f.in_file(path))?))
                    })
                    .collect::<Outcome<_>>()?
            }
            None => {
                let mut rng = Rng::new(self.args.seed);
                let manifest = self.artifact.manifest();
                vec![("random".to_owned(), tensors::random(manifest, entry, 1, self.args.len, &mut rng)?)]
            }
        };
        for (case, inputs) in given {
            self.progress.say(format!("comparing case {case} with tract"));
            let expected =
                oracle::run(&self.args.model, None, &inputs).map_err(|error| self.refused(&error))?;
            let call =
                Call { case: format!("{case}, tract"), program: "forward", inputs, states: Tensors::new() };
            self.stateless(&call, Some(expected))?;
            let failed = self.compared.iter().any(|c| c.case == call.case && !c.passed());
            if failed || self.args.per_layer {
                self.beside_nodes(&call)?;
            }
        }
        Ok(())
    }

    /// The result of every node in the interpreter beside that in tract.
    fn beside_nodes(&mut self, call: &Call<'_>) -> Outcome {
        let shapes = &self.args.compile.input_shapes;
        let imported = oracle::import_all(&self.args.model, shapes);
        let (model, sites) = imported.map_err(|error| Failure::from(ssmc::Error::from(error)))?;
        let theirs = oracle::run(&self.args.model, Some(&sites), &call.inputs)
            .map_err(|error| self.refused(&error))?;
        let ours =
            Interpreter::new(&model.graph, &model.weights).run(&call.inputs).map_err(ssmc::Error::from)?;
        for site in sites {
            let (Some(x), Some(y)) = (theirs.get(&site.value), ours.get(&site.value)) else { continue };
            let same = x.shape() == y.shape();
            let difference = same.then(|| compare(&x.to_f64(), &y.to_f64(), self.tolerance)).flatten();
            let case = call.case.clone();
            self.nodes.push(NodeResult { case, node: site.node, op: site.op, value: site.value, difference });
        }
        Ok(())
    }

    fn refused(&self, error: &OracleError) -> Failure {
        let kind = match error {
            OracleError::Refused { .. } => Kind::Unsupported,
            OracleError::Input { .. } => Kind::Input,
        };
        Failure::new(kind, error.to_string()).in_file(&self.args.model)
    }
}
