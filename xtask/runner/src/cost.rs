//! What a launch list says about its work.

use ssmc_artifact::{Expr, SymbolRole};
use ssmc_runtime::Session;

use crate::Error;

/// Sums over the launches of a program.
pub(crate) struct Cost {
    pub(crate) flops: i64,
    pub(crate) bytes: i64,
}

/// The cost of one sequence of `tokens` tokens; symbols of other roles are at their least value.
pub(crate) fn of(session: &Session, program: &str, tokens: i64) -> Result<Cost, Error> {
    let values: Vec<i64> = session
        .artifact()
        .manifest()
        .symbols
        .iter()
        .map(|symbol| match symbol.role() {
            SymbolRole::Batch => 1,
            SymbolRole::SeqLen => tokens,
            SymbolRole::Other => symbol.min,
        })
        .collect();
    let eval = |expr: &Option<Expr>| match expr {
        Some(expr) => expr.eval(&values).map_err(|error| Error::Array(format!("{program}: {error}"))),
        None => Ok(0),
    };
    let mut cost = Cost { flops: 0, bytes: 0 };
    for launch in &session.program(program)?.launches {
        if eval(&launch.grid)? > 0 {
            cost.flops += eval(&launch.flops)?;
            cost.bytes += eval(&launch.bytes)?;
        }
    }
    Ok(cost)
}
