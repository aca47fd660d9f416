//! Errors as exit codes and messages.

use serde_json::{Value, json};
use ssmc::Error;
use ssmc_codegen::assemble::AssembleError;
use ssmc_codegen::lower::LowerError;
use ssmc_codegen::ptx::AssemblerError;
use ssmc_frontend::ImportError;
use ssmc_frontend::onnx::export::ExportError;
use ssmc_ir::Diagnostic;
use ssmc_passes::egraph::RewriteError;
use ssmc_passes::partition::PartitionError;
use ssmc_passes::stream::StreamError;
use ssmc_runtime::RuntimeError;
use std::fmt;
use std::path::Path;

/// What an exit code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A comparison or a self-test failed.
    Check,
    /// The arguments do not fit together.
    Usage,
    /// The model, the machine or this build of ssmc does not support it.
    Unsupported,
    /// A limit on memory or size was reached.
    Limit,
    /// A bug in ssmc.
    Internal,
    /// A file or tensor is faulty.
    Input,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Check => 1,
            Kind::Usage => 2,
            Kind::Unsupported => 3,
            Kind::Limit => 4,
            Kind::Internal => 5,
            Kind::Input => 6,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Kind::Check => "check failed",
            Kind::Usage => "usage error",
            Kind::Unsupported => "unsupported",
            Kind::Limit => "limit reached",
            Kind::Internal => "internal error",
            Kind::Input => "invalid input",
        }
    }
}

/// Why a command ends with another code than 0.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// What is wrong with a model's files, one by one; the message lists them too.
    pub(crate) faults: Vec<Diagnostic>,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), faults: Vec::new() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    pub(crate) fn check(message: impl Into<String>) -> Self {
        Self::new(Kind::Check, message)
    }

    /// An error of the operating system about a file.
    pub(crate) fn file(path: &Path, error: impl fmt::Display) -> Self {
        Self::input(format!("{}: {error}", path.display()))
    }

    /// The same with the file that was worked on in front.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        let path = path.display().to_string();
        if !self.message.contains(&path) {
            self.message = format!("{path}: {}", self.message);
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.label(), self.message)
    }
}

impl Failure {
    /// The fields of the schema `ssmc.error.v1`.
    pub(crate) fn to_json(&self) -> Value {
        let fault = |f: &Diagnostic| json!({"code": f.code, "place": f.place, "message": f.message});
        json!({
            "exit_code": self.kind.code(), "kind": self.kind.label(), "message": self.message,
            "faults": self.faults.iter().map(fault).collect::<Vec<_>>(),
        })
    }
}

/// The error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Self::new(kind(&error), chain(&error));
        if let Error::Import(error) = &error {
            failure.faults = error.faults().to_vec();
        }
        failure
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let kind = match error {
            ExportError::Opset { .. } => Kind::Usage,
            ExportError::Node { .. } => Kind::Unsupported,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::new(runtime_kind(&error), chain(&error))
    }
}

fn kind(error: &Error) -> Kind {
    match error {
        Error::Import(ImportError::Unsupported { .. }) => Kind::Unsupported,
        Error::Import(ImportError::Limit { .. }) => Kind::Limit,
        Error::Import(ImportError::InputShapes { .. }) => Kind::Usage,
        Error::Rewrite(RewriteError::Mode { .. }) => Kind::Unsupported,
        Error::Import(
            ImportError::Io { .. } | ImportError::UnknownFormat { .. } | ImportError::Invalid { .. },
        ) => Kind::Input,
        Error::Partition(PartitionError::NoKernel { .. })
        | Error::Stream(
            StreamError::Refused { .. }
            | StreamError::NoTimeAxis { .. }
            | StreamError::NoInput
            | StreamError::IsStep { .. },
        ) => Kind::Unsupported,
        Error::Stream(StreamError::TimeAxis { .. }) | Error::HasState { .. } => Kind::Usage,
        Error::Assemble(AssembleError::Lower { source, .. }) => match source {
            LowerError::Unsupported { .. }
            | LowerError::ElementType { .. }
            | LowerError::NotElementwise { .. } => Kind::Unsupported,
            LowerError::MissingOperand { .. } => Kind::Internal,
        },
        Error::Assemble(AssembleError::UnboundSymbol { .. }) => Kind::Unsupported,
        Error::Partition(PartitionError::Edit(_))
        | Error::Fold(_)
        | Error::Assemble(_)
        | Error::Edit(_)
        | Error::Stream(StreamError::Edit(_))
        | Error::Passes(_)
        | Error::Store(_)
        | Error::Rewrite(_)
        | Error::Interp(_) => Kind::Internal,
        Error::Write(ssmc_codegen::assemble::WriteError::Artifact(_)) => Kind::Input,
        Error::Write(ssmc_codegen::assemble::WriteError::NoCpu) => Kind::Unsupported,
        Error::Write(ssmc_codegen::assemble::WriteError::Assembler(AssemblerError::Start { .. })) => {
            Kind::Usage
        }
        Error::Write(_) => Kind::Internal,
        Error::Runtime(error) => runtime_kind(error),
    }
}

fn runtime_kind(error: &RuntimeError) -> Kind {
    match error {
        RuntimeError::UnknownLevel { .. }
        | RuntimeError::NoMaximum { .. }
        | RuntimeError::Option { .. }
        | RuntimeError::UnknownProgram { .. }
        | RuntimeError::Stateful { .. } => Kind::Usage,
        RuntimeError::LevelUnsupported { .. }
        | RuntimeError::NoLevel { .. }
        | RuntimeError::Unsupported { .. } => Kind::Unsupported,
        RuntimeError::Memory { .. }
        | RuntimeError::Size { .. }
        | RuntimeError::Context { .. }
        | RuntimeError::Thread(_) => Kind::Limit,
        RuntimeError::Panic { .. } | RuntimeError::StateLost => Kind::Internal,
        _ => Kind::Input,
    }
}
