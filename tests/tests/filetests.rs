//! Every file below `filetests/` is a test; see `ssmc_tests::filetest`.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use ssmc_tests::filetest;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let files = match filetest::find(&folder) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    let bless = filetest::is_blessing();
    let trial = |path: std::path::PathBuf| {
        let name = path.strip_prefix(&folder).unwrap_or(&path).display().to_string();
        Trial::test(name, move || filetest::run(&path, bless).map_err(Into::into))
    };
    let trials = files.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
