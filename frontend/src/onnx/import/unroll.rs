//! Loops written out: one copy of the body for each iteration, in which the iteration's number is known.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::{Imported, Val};
use super::super::proto::GraphProto;
use super::super::shape::Known;
use ssmc_ir::{DType, Dim};

/// The most iterations that are written out.
const MAX_TRIPS: i64 = 64;

/// A loop that may be written out.
pub(super) struct Plan<'m> {
    body: &'m GraphProto,
    /// Whether there is a first iteration as far as the condition is concerned.
    starts: bool,
    /// `None`: until the condition ends it.
    trips: Option<i64>,
}

/// The plan for the node, if its number of iterations is a small constant or follows from its conditions.
pub(super) fn plan<'m>(c: &Ctx<'_, 'm>) -> Result<Option<Plan<'m>>, Fault> {
    let body = c.attrs.graph("body")?;
    let constant = |idx| c.opt(idx).map(|v| c.known(v).and_then(Known::as_consts).filter(|k| k.len() == 1));
    let trips = match constant(0) {
        None => None,
        Some(Some(n)) if n[0] <= MAX_TRIPS => Some(n[0]),
        Some(_) => return Ok(None),
    };
    let starts = match constant(1) {
        None => true,
        Some(Some(go)) => go[0] != 0,
        Some(None) => return Ok(None),
    };
    let n_carried = c.n_inputs().saturating_sub(2);
    let fits = body.input.len() == n_carried + 2 && body.output.len() > n_carried;
    Ok(fits.then_some(Plan { body, starts, trips }))
}

impl<'m> Plan<'m> {
    /// An upper bound on the nodes of all copies.
    pub(super) fn n_nodes(&self) -> usize {
        let trips = self.trips.unwrap_or(MAX_TRIPS).max(0) as usize;
        trips.saturating_mul(self.body.node.len())
    }

    /// The results: the last carried values, then what the iterations gave along a new first axis.
    pub(super) fn build(self, c: &mut Ctx<'_, 'm>) -> Imported<Vec<Val>> {
        c.imp.open_scope();
        c.imp.initializers(self.body);
        let results = self.iterations(c);
        c.imp.close_scope();
        results
    }

    fn iterations(&self, c: &mut Ctx<'_, 'm>) -> Imported<Vec<Val>> {
        let mut carried = (2..c.n_inputs()).map(|idx| c.input(idx)).collect::<Result<Vec<_>, _>>()?;
        let mut slices: Vec<Vec<Val>> = vec![Vec::new(); self.body.output.len() - 1 - carried.len()];
        let (mut goes_on, mut trip) = (self.starts, 0);
        while goes_on && self.trips.is_none_or(|n| trip < n) {
            if trip == MAX_TRIPS {
                let what = format!("a loop of more than {MAX_TRIPS} iterations that ends on a condition");
                return Err(Fault::Unsupported(what).into());
            }
            let mut outputs = self.iteration(c, trip, &carried)?;
            let go = outputs.remove(0);
            goes_on = match c.known(go).and_then(Known::as_consts).as_deref() {
                Some([go]) => *go != 0,
                _ => return Err(Fault::Unsupported("a loop that ends on data".into()).into()),
            };
            let given = outputs.split_off(carried.len());
            carried = outputs;
            for (all, value) in slices.iter_mut().zip(given) {
                all.push(value);
            }
            trip += 1;
        }
        for all in slices {
            carried.push(stack(c, &all)?);
        }
        Ok(carried)
    }

    /// One copy of the body.
    fn iteration(&self, c: &mut Ctx<'_, 'm>, trip: i64, carried: &[Val]) -> Imported<Vec<Val>> {
        let number = c.make_known(Known::scalar(Dim::from(trip)));
        let yes = c.make_known(Known { dtype: DType::Bool, shape: Vec::new(), elems: vec![Dim::from(1)] });
        c.imp.open_scope();
        let values = [number, yes].into_iter().chain(carried.iter().copied());
        for (input, value) in self.body.input.iter().zip(values) {
            c.imp.bind(input.name(), Some(value));
        }
        let outputs = c.imp.nodes(&self.body.node).and_then(|()| c.imp.outputs(self.body));
        c.imp.close_scope();
        outputs
    }
}

/// What the iterations gave, along a new first axis.
fn stack(c: &mut Ctx<'_, '_>, all: &[Val]) -> Result<Val, Fault> {
    let Some(first) = all.first() else {
        return Err(Fault::Unsupported("what no iteration of a loop gives".into()));
    };
    let ty = c.ty(*first).clone();
    let mut parts = Vec::new();
    for v in all {
        if c.imp.special(*v).is_some() || *c.ty(*v) != ty {
            let found = format!("results {ty} and {} of one loop", c.ty(*v));
            return Err(Fault::Unsupported(found));
        }
        parts.push(c.reshape(*v, &[&[Dim::from(1)], &ty.shape[..]].concat())?);
    }
    c.concat(&parts, 0)
}
