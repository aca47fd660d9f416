//! Sessions of the verbs that run a model.

use crate::failure::Outcome;
use serde_json::{Value, json};
use ssmc_runtime::{Artifact, GpuCode, Session, SessionOptions};

/// A session. A warning says if the driver rejects the machine code of the artefact.
pub(crate) fn open(artifact: &Artifact, options: &SessionOptions) -> Outcome<Session> {
    let session = Session::new(artifact, options)?;
    if let Some(warning) = session.gpu_code().and_then(|code| warning(session.level(), code)) {
        eprintln!("warning: {warning}");
    }
    Ok(session)
}

fn warning(level: &str, code: &GpuCode) -> Option<String> {
    match code {
        GpuCode::Cubin | GpuCode::Ptx => None,
        GpuCode::RejectedCubin { reason } => {
            Some(format!("the cubin for {level} is not used, but its PTX: {}", reason.trim_end()))
        }
    }
}

/// Which code of a GPU runs, for programs.
pub(crate) fn code_json(session: &Session) -> Value {
    match session.gpu_code() {
        None => Value::Null,
        Some(GpuCode::Cubin) => json!({"kind": "cubin"}),
        Some(GpuCode::Ptx) => json!({"kind": "ptx"}),
        Some(GpuCode::RejectedCubin { reason }) => json!({"kind": "ptx", "rejected_cubin": reason}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_cubin_is_told() {
        let reason = "no kernel image is available\n".to_owned();
        let told = warning("sm_90a", &GpuCode::RejectedCubin { reason }).expect("there is something to tell");
        assert_eq!(told, "the cubin for sm_90a is not used, but its PTX: no kernel image is available");
        assert_eq!([GpuCode::Cubin, GpuCode::Ptx].map(|code| warning("sm_90a", &code)), [None, None]);
    }
}
