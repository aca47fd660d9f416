//! Rewriting what tests expect and what is generated from code.

use crate::{Result, process};

/// Runs the tests that match the filter and lets them rewrite what they expect.
pub(crate) fn bless(args: &[String]) -> Result<bool> {
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--quiet"]).args(args);
    process::check(command.env("SSMC_BLESS", "1").env("INSTA_UPDATE", "always"))?;
    Ok(true)
}

/// Rewrites the documents that tests compare with the code: `docs/rules.md`.
pub(crate) fn codegen(args: &[String]) -> Result<bool> {
    if !args.is_empty() {
        return Err("expected no arguments".into());
    }
    let mut command = process::cargo();
    command.args(["test", "--quiet", "--package", "ssmc-passes", "--lib", "the_document_is_fresh"]);
    process::check(command.env("SSMC_BLESS", "1"))?;
    Ok(true)
}
