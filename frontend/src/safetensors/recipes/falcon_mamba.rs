//! `transformers` `falcon_mamba`: `mamba` with weightless RMS norms on dt, b and c.

use super::{Family, LanguageModel, mamba};
use crate::safetensors::schema::Source;

/// Reads the description of a `falcon_mamba` model.
pub(super) fn read(source: &mut Source<'_>) -> Option<LanguageModel> {
    let eps = source.config.positive("mixer_rms_eps", source.faults).unwrap_or(1e-6);
    mamba::read_as(source, Family::FalconMamba, Some(eps))
}
