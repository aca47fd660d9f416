//! How many iterations a loop has: as many as are given, or until a condition on what it counts no longer holds.

use super::super::ctx::Ctx;
use super::super::fault::Fault;
use super::super::importer::Val;
use super::super::shape::{self, Known, MAX_DIM, OVERFLOW};
use ssmc_ir::count::{Carried, Counts};
use ssmc_ir::{Dim, DimFn};

/// What bounds the iterations of a loop.
pub(super) struct Trips {
    /// The most there are. A loop of `torch` that ends on its condition alone has the largest integer here.
    pub(super) limit: Option<Dim>,
    /// The condition in the graph around on which there is a first one; `None`: there is one if the limit allows it.
    pub(super) starts: Option<Val>,
}

/// A carried value: in an iteration, in the next one, and before the first.
pub(super) struct Counter {
    pub(super) state: Val,
    pub(super) next: Val,
    pub(super) initial: Val,
}

impl Trips {
    /// A given number.
    pub(super) fn given(n: Dim) -> Self {
        Self { limit: Some(n), starts: None }
    }

    /// The number of iterations. The region of the body is open; `goes_on` is what it computes of its condition.
    pub(super) fn count(
        &self,
        c: &mut Ctx<'_, '_>,
        goes_on: Option<Val>,
        iteration: Val,
        counters: &[Counter],
    ) -> Result<Dim, Fault> {
        let constant =
            goes_on.map_or(Some(true), |v| match c.known(v).and_then(Known::as_consts).as_deref() {
                Some([go]) => Some(*go != 0),
                _ => None,
            });
        let trips = match (constant, goes_on) {
            (Some(true), _) if self.starts.is_none() => None,
            (Some(false), _) if self.starts.is_none() => Some(Dim::from(1)),
            (None, Some(goes_on)) => Some(
                self.proved(c, goes_on, iteration, counters)?
                    .ok_or_else(|| Fault::Unsupported("a loop that ends on a condition on data".into()))?,
            ),
            _ => return Err(Fault::Unsupported("a loop that starts on a condition on data".into())),
        };
        let limit =
            self.limit.as_ref().filter(|n| trips.is_none() || n.as_const().is_none_or(|n| n < MAX_DIM));
        let trips = match (trips, limit) {
            (None, None) => return Err(Fault::Unsupported("a loop without a trip count".into())),
            (Some(trips), None) => trips,
            (None, Some(limit)) => limit.clone(),
            (Some(trips), Some(limit)) => shape::apply(DimFn::Min, &trips, limit).ok_or(OVERFLOW)?,
        };
        let trips = shape::apply(DimFn::Max, &trips, &Dim::from(0)).ok_or(OVERFLOW)?;
        shape::check_shape(std::slice::from_ref(&trips))?;
        Ok(trips)
    }

    /// The number that follows from a comparison of what is counted with a bound.
    fn proved(
        &self,
        c: &mut Ctx<'_, '_>,
        goes_on: Val,
        iteration: Val,
        counters: &[Counter],
    ) -> Result<Option<Dim>, Fault> {
        let goes_on = c.imp.data(goes_on)?;
        let mut counts = Counts::of_loop(c.imp.data(iteration)?);
        for Counter { state, next, initial } in counters {
            let (state, next) = (c.imp.data(*state)?, c.imp.data(*next)?);
            let initial = c.known(*initial).filter(|k| k.elems.len() == 1).map(|k| k.elems[0].clone());
            counts.carried.push(Carried { state, next, initial });
        }
        let Some(starts) = self.starts else { return Ok(counts.trips(c.imp.graph(0), goes_on)) };
        let Some(starts) = c.imp.data_around(starts) else { return Ok(None) };
        Ok(counts.trips_if(c.imp.graph(0), goes_on, c.imp.graph(1), starts))
    }
}
