//! Runs code images of an architecture that this machine is not of, under QEMU: for tests and checks, never for users.
//!
//! A small program of C, compiled when it is first needed, maps an image and calls its kernels; it runs under
//! `qemu-aarch64` as the processor of a level, so that an instruction which that level lacks ends it.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::kernel::interp::Arg;
use crate::target::CpuLevel;
use sha2::{Digest, Sha256};

const HARNESS: &str = include_str!("emulate/harness.c");
const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// Why a level is not emulated.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum EmulateError {
    #[error("levels of {arch} are not emulated")]
    Architecture { arch: &'static str },
    #[error("{program} is not installed")]
    NotInstalled { program: &'static str },
    #[error("{COMPILER} does not compile the harness: {message}")]
    Harness { message: String },
    #[error("the emulated program ended ({status})")]
    Ended { status: ExitStatus },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl EmulateError {
    /// Whether nothing is wrong but that the machine lacks an emulator for the level.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Architecture { .. } | Self::NotInstalled { .. })
    }
}

/// A running program that calls kernels, on an emulated processor.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    /// None once the input of the program has ended.
    to: Option<BufWriter<ChildStdin>>,
    from: ChildStdout,
}

impl Emulator {
    /// Starts the emulation of a processor that has `level` and not the next one.
    ///
    /// # Errors
    /// Where [`EmulateError::is_missing`] says no, something is broken.
    pub fn start(level: CpuLevel) -> Result<Self, EmulateError> {
        let processor = match level {
            CpuLevel::Aarch64 => "cortex-a53",
            CpuLevel::Aarch64Dotprod => "cortex-a76",
            CpuLevel::Aarch64I8mm => "max",
            _ => return Err(EmulateError::Architecture { arch: level.arch().name() }),
        };
        let mut command = Command::new(EMULATOR);
        command.args(["-cpu", processor]).arg(harness()?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_started(EMULATOR, error))?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let (to, from) = to.zip(from).expect("both are pipes");
        Ok(Self { child, to: Some(BufWriter::new(to)), from })
    }

    /// Puts an image in the place of the one before.
    ///
    /// # Errors
    /// The program ended.
    pub fn load(&mut self, image: &[u8]) -> Result<(), EmulateError> {
        let sent = self.send(&[1, image.len() as u64]).and_then(|()| self.write(image));
        sent.map_err(|error| self.broken(error))
    }

    /// Runs blocks of the kernel at `entry`; what it writes comes back in `buffers`. An argument begins as many bytes
    /// after a multiple of 64 as its offset says.
    ///
    /// # Errors
    /// The program ended, such as by an instruction that the level lacks.
    pub fn run(
        &mut self,
        entry: u64,
        buffers: &mut [Vec<u8>],
        args: &[Arg],
        dims: &[i64],
        blocks: Range<i64>,
    ) -> Result<(), EmulateError> {
        let exchange = || {
            self.launch(entry, buffers, args, dims, blocks)?;
            self.from.read_exact(&mut [0; 8])?;
            buffers.iter_mut().try_for_each(|bytes| self.from.read_exact(bytes))
        };
        let exchanged = exchange();
        exchanged.map_err(|error| self.broken(error))
    }

    fn launch(
        &mut self,
        entry: u64,
        buffers: &[Vec<u8>],
        args: &[Arg],
        dims: &[i64],
        blocks: Range<i64>,
    ) -> io::Result<()> {
        self.send(&[2, entry, buffers.len() as u64])?;
        for bytes in buffers {
            self.send(&[bytes.len() as u64])?;
            self.write(bytes)?;
        }
        self.send(&[args.len() as u64])?;
        for arg in args {
            self.send(&[arg.buffer as u64, arg.byte_offset as u64])?;
        }
        self.send(&[dims.len() as u64])?;
        for number in dims.iter().chain([&blocks.start, &blocks.end]) {
            self.send(&[number.cast_unsigned()])?;
        }
        self.to.as_mut().map_or(Ok(()), Write::flush)
    }

    fn send(&mut self, words: &[u64]) -> io::Result<()> {
        words.iter().try_for_each(|word| self.write(&word.to_le_bytes()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(bytes)
    }

    /// Why a pipe broke: how the program ended.
    fn broken(&mut self, error: io::Error) -> EmulateError {
        if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof) {
            return error.into();
        }
        drop(self.to.take());
        self.child.wait().map_or_else(EmulateError::from, |status| EmulateError::Ended { status })
    }
}

impl Drop for Emulator {
    /// Ends the program's input, and with it the program.
    fn drop(&mut self) {
        drop(self.to.take());
        // How it ends says nothing any more.
        let _ = self.child.wait();
    }
}

/// The compiled harness, beside the program that runs: build folders are not shared with strangers.
fn harness() -> Result<PathBuf, EmulateError> {
    static COMPILING: Mutex<()> = Mutex::new(());
    let _guard = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    let hash: String = Sha256::digest(HARNESS).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let path = folder.join(format!("ssmc-harness-aarch64-{hash}"));
    if path.exists() {
        return Ok(path);
    }
    let new = folder.join(format!("ssmc-harness-aarch64-{hash}.{}", std::process::id()));
    let mut command = Command::new(COMPILER);
    command
        .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-x", "c", "-", "-o"])
        .arg(&new);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(COMPILER, error))?;
    child.stdin.take().expect("it is a pipe").write_all(HARNESS.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(EmulateError::Harness { message });
    }
    // Another process may have been faster; what it made is the same.
    fs::rename(&new, &path)?;
    Ok(path)
}

fn not_started(program: &'static str, error: io::Error) -> EmulateError {
    match error.kind() {
        io::ErrorKind::NotFound => EmulateError::NotInstalled { program },
        _ => error.into(),
    }
}
