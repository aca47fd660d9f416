//! Types of the graph IR as types of the artefact.

use crate::kernel::{Access, Elem};
use ssmc_artifact::SymbolRole;
use ssmc_artifact::{self as artifact, Expr};
use ssmc_ir::dim::Atom;
use ssmc_ir::{DType, Dim, DimFn, Symbol};
use std::collections::{BTreeMap, BTreeSet};

/// The symbols of a model, in the order of the manifest.
#[derive(Clone, Debug, Default)]
pub struct Symbols(Vec<Symbol>);

impl Symbols {
    /// The symbols of these dims, by name.
    pub fn of<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Self {
        let mut all = BTreeSet::new();
        dims.into_iter().for_each(|d| d.collect_symbols(&mut all));
        Self(all.into_iter().collect())
    }

    /// Their names, in the order of the manifest.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(Symbol::name).collect()
    }

    /// The dim as an expression of the artefact, or the symbol that is none of these.
    pub(super) fn expr(&self, dim: &Dim) -> Result<Expr, Symbol> {
        let term = |atoms: &[Atom], coeff: i64| -> Result<Expr, Symbol> {
            let mut product: Option<Expr> = (coeff != 1 || atoms.is_empty()).then(|| Expr::constant(coeff));
            for atom in atoms {
                let factor = self.atom(atom)?;
                product = Some(match product {
                    Some(p) => p * factor,
                    None => factor,
                });
            }
            Ok(product.unwrap_or_else(|| Expr::constant(coeff)))
        };
        let mut sum: Option<Expr> = None;
        for (atoms, coeff) in dim.terms() {
            let next = term(atoms, coeff)?;
            sum = Some(match sum {
                Some(s) => s + next,
                None => next,
            });
        }
        Ok(sum.unwrap_or_else(|| Expr::constant(0)))
    }

    fn atom(&self, atom: &Atom) -> Result<Expr, Symbol> {
        match atom {
            Atom::Symbol(s) => {
                let idx = self.0.iter().position(|known| known == s).ok_or_else(|| s.clone())?;
                Ok(Expr::symbol(idx as u32))
            }
            Atom::Apply(f, a, b) => {
                let (a, b) = (self.expr(a)?, self.expr(b)?);
                Ok(match f {
                    DimFn::FloorDiv => a.floor_div(b),
                    DimFn::CeilDiv => a.ceil_div(b),
                    DimFn::Mod => a.modulo(b),
                    DimFn::Min => a.min(b),
                    DimFn::Max => a.max(b),
                })
            }
        }
    }

    /// The table of the manifest. Roles follow from the names that exporters and frontends give; a maximum of 0 is
    /// none.
    pub(super) fn table(&self, maxima: &BTreeMap<String, i64>) -> Vec<artifact::Symbol> {
        self.0
            .iter()
            .map(|s| artifact::Symbol {
                name: s.name().to_owned(),
                min: 0,
                max: maxima.get(s.name()).copied().unwrap_or(0),
                divisibility: 1,
                role: role(s.name()).into(),
            })
            .collect()
    }
}

fn role(name: &str) -> SymbolRole {
    match name {
        "batch" | "batch_size" | "B" | "N" => SymbolRole::Batch,
        "seq_len" | "seq" | "sequence" | "sequence_length" | "seq_length" | "length" | "L" | "T" | "time" => {
            SymbolRole::SeqLen
        }
        _ => SymbolRole::Other,
    }
}

/// An element type as the artefact, and with it the runtime, has it.
pub fn dtype(dtype: DType) -> artifact::DType {
    match dtype {
        DType::F64 => artifact::DType::F64,
        DType::F32 => artifact::DType::F32,
        DType::F16 => artifact::DType::F16,
        DType::BF16 => artifact::DType::Bf16,
        DType::F8E4M3 => artifact::DType::F8e4m3,
        DType::F8E5M2 => artifact::DType::F8e5m2,
        DType::C64 => artifact::DType::C64,
        DType::C128 => artifact::DType::C128,
        DType::I64 => artifact::DType::I64,
        DType::U64 => artifact::DType::U64,
        DType::I32 => artifact::DType::I32,
        DType::U32 => artifact::DType::U32,
        DType::I16 => artifact::DType::I16,
        DType::U16 => artifact::DType::U16,
        DType::I8 => artifact::DType::I8,
        DType::U8 => artifact::DType::U8,
        DType::I4 => artifact::DType::I4,
        DType::U4 => artifact::DType::U4,
        DType::I2 => artifact::DType::I2,
        DType::U2 => artifact::DType::U2,
        DType::Bool => artifact::DType::Bool,
    }
}

pub(super) fn elem(elem: Elem) -> artifact::DType {
    match elem {
        Elem::Bool => artifact::DType::Bool,
        Elem::I8 => artifact::DType::I8,
        Elem::U8 => artifact::DType::U8,
        Elem::I16 => artifact::DType::I16,
        Elem::U16 => artifact::DType::U16,
        Elem::I32 => artifact::DType::I32,
        Elem::U32 => artifact::DType::U32,
        Elem::I64 => artifact::DType::I64,
        Elem::U64 => artifact::DType::U64,
        Elem::F16 => artifact::DType::F16,
        Elem::Bf16 => artifact::DType::Bf16,
        Elem::F32 => artifact::DType::F32,
        Elem::F64 => artifact::DType::F64,
    }
}

pub(super) fn access(access: Access) -> artifact::Access {
    match access {
        Access::Read | Access::Constant => artifact::Access::Read,
        Access::Write => artifact::Access::Write,
        Access::ReadWrite => artifact::Access::ReadWrite,
    }
}
