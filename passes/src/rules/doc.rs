//! The rules as a document.

use super::{READING, Rule, all};
use std::fmt::Write;

/// `docs/rules.md`: every rule with its equation, reason and source, by family.
pub fn markdown() -> String {
    let mut text = String::from("# Rewrite rules\n\nGenerated from the tables in `passes/src/rules`.\n");
    let mut family = "";
    for rule in all() {
        if rule.family != family {
            family = rule.family;
            push(&mut text, format_args!("\n## {family}\n"));
        }
        entry(&mut text, rule);
    }
    text.push_str("\n## How products are read\n");
    entry(&mut text, &READING);
    text
}

fn entry(text: &mut String, rule: &Rule) {
    let Rule { name, equation, reason, source, exactness, direction, .. } = rule;
    push(text, format_args!("\n### `{name}`\n\n`{equation}`\n\n"));
    push(text, format_args!("- why: {reason}\n- source: {source}\n"));
    push(text, format_args!("- {}, {}\n", exactness.name(), direction.name()));
}

fn push(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(args);
}
