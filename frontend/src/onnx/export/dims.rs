//! Extents as tensors: of the inputs' shapes where they are symbols.

use super::body::{Name, int};
use super::writer::Writer;
use ssmc_ir::{Atom, Dim, DimFn, Shape, Symbol};

impl Writer<'_> {
    /// The value of a dim as a vector of one `i64`.
    pub(super) fn dim(&mut self, dim: &Dim) -> Result<Name, String> {
        if let Some(n) = dim.as_const() {
            return Ok(self.body.vector(&[n]));
        }
        if let Some(name) = self.dims.get(dim) {
            return Ok(name.clone());
        }
        let mut sum: Option<Name> = None;
        for (monomial, coeff) in dim.terms() {
            let mut product = (coeff != 1 || monomial.is_empty()).then(|| self.body.vector(&[coeff]));
            for atom in monomial {
                let factor = match atom {
                    Atom::Symbol(symbol) => self.symbol(symbol)?,
                    Atom::Apply(f, a, b) => self.apply(*f, a, b)?,
                };
                product = Some(match product {
                    Some(product) => self.body.op("Mul", &[&product, &factor]),
                    None => factor,
                });
            }
            let product = product.ok_or("a term without factors")?;
            sum = Some(match sum {
                Some(sum) => self.body.op("Add", &[&sum, &product]),
                None => product,
            });
        }
        let name = sum.ok_or("a dim without terms")?;
        self.dims.insert(dim.clone(), name.clone());
        Ok(name)
    }

    fn apply(&mut self, f: DimFn, a: &Dim, b: &Dim) -> Result<Name, String> {
        let (x, y) = (self.dim(a)?, self.dim(b)?);
        let body = &mut self.body;
        Ok(match f {
            DimFn::Min => body.op("Min", &[&x, &y]),
            DimFn::Max => body.op("Max", &[&x, &y]),
            DimFn::Mod => body.op("Mod", &[&x, &y]),
            // Operators round towards zero: take the remainder off first, which has the sign of the divisor.
            DimFn::FloorDiv => {
                let rest = body.op("Mod", &[&x, &y]);
                let multiple = body.op("Sub", &[&x, &rest]);
                body.op("Div", &[&multiple, &y])
            }
            DimFn::CeilDiv => {
                let negative = body.op("Neg", &[&x]);
                let rest = body.op("Mod", &[&negative, &y]);
                let multiple = body.op("Add", &[&x, &rest]);
                body.op("Div", &[&multiple, &y])
            }
        })
    }

    /// The extent of the first input axis that is exactly this symbol.
    fn symbol(&mut self, symbol: &Symbol) -> Result<Name, String> {
        let dim = Dim::symbol(symbol.name());
        if let Some(name) = self.dims.get(&dim) {
            return Ok(name.clone());
        }
        let found = self.graph.inputs().iter().find_map(|port| {
            let axis = self.graph.ty(port.value).shape.iter().position(|d| *d == dim)?;
            Some((port.name.clone(), axis as i64))
        });
        let (input, axis) = found.ok_or_else(|| format!("no input has the extent {symbol}"))?;
        let name = if self.body.opset >= 15 {
            self.body.with("Shape", &[&input], vec![int("start", axis), int("end", axis + 1)])
        } else {
            let shape = self.body.op("Shape", &[&input]);
            self.body.slice(&shape, 0, axis, axis + 1)
        };
        self.dims.insert(dim, name.clone());
        Ok(name)
    }

    /// A shape as a tensor.
    pub(super) fn shape_tensor(&mut self, shape: &Shape) -> Result<Name, String> {
        if let Some(dims) = shape.as_const() {
            return Ok(self.body.vector(&dims));
        }
        let mut parts = Vec::new();
        let mut known = Vec::new();
        for dim in shape.iter() {
            if let Some(n) = dim.as_const() {
                known.push(n);
                continue;
            }
            if !known.is_empty() {
                parts.push(self.body.vector(&std::mem::take(&mut known)));
            }
            parts.push(self.dim(dim)?);
        }
        if !known.is_empty() {
            parts.push(self.body.vector(&known));
        }
        Ok(self.body.concat(&parts, 0))
    }

    /// The shape that `Reshape` takes: one extent that is not known is left to be worked out.
    pub(super) fn reshaped(&mut self, x: &str, shape: &Shape) -> Result<Name, String> {
        let unknown = shape.iter().filter(|d| d.as_const().is_none()).count();
        let positive = shape.iter().filter_map(Dim::as_const).all(|n| n > 0);
        let target = if unknown == 1 && positive {
            let dims: Vec<i64> = shape.iter().map(|d| d.as_const().unwrap_or(-1)).collect();
            self.body.vector(&dims)
        } else {
            self.shape_tensor(shape)?
        };
        // An extent of 0 means that of the operand unless this says otherwise.
        let zeros = if positive { Vec::new() } else { vec![int("allowzero", 1)] };
        let y = self.body.with("Reshape", &[x, &target], zeros);
        self.body.shapes.extend(shape.as_const().map(|dims| (y.clone(), dims)));
        Ok(y)
    }
}
