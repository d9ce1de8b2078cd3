//! How a user is told what went wrong: one block, never a panic or a debug dump.
//! What is wrong with data, weights or settings is said by the crate that owns them; here it is only laid out.

use std::fmt::Display;

use thiserror::Error;

use crate::format;

/// A mistake in the arguments or the configuration, with its place and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct UserError {
    /// What is wrong.
    pub what: String,
    /// File and line, or the `--set` text.
    pub place: Option<String>,
    /// What would be right.
    pub help: Option<String>,
}

impl UserError {
    /// A mistake that has no place in a file.
    pub fn new(what: impl Into<String>) -> Self {
        UserError { what: what.into(), place: None, help: None }
    }

    /// The same with what would be right.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with its place.
    pub fn at(mut self, place: Option<String>) -> Self {
        self.place = place;
        self
    }
}

/// The block: the error, its causes, its place and the way out. Nothing in it steers a terminal.
pub fn block(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("error: {}", cut(error.to_string()))];
    lines.extend(causes(error).into_iter().map(|cause| row("because", cut(cause))));
    if let Some(mistake) = error.chain().find_map(|cause| cause.downcast_ref::<UserError>()) {
        lines.extend(mistake.place.as_ref().map(|place| row("at", place)));
        lines.extend(mistake.help.as_ref().map(|help| row("help", help)));
    }
    format::harmless(&lines.join("\n")).into_owned()
}

/// A text without what nobody reads: names in files of others can be of any length.
fn cut(text: String) -> String {
    const MOST: usize = 4000;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}… ({} bytes more)", &text[..at], text.len() - at),
        None => text,
    }
}

/// The causes of `error`, the last of them the first to happen.
pub fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some libraries repeat the cause in their own message.
        if said.last().is_some_and(|last| !last.contains(&text)) {
            said.push(text);
        }
    }
    said.split_off(1)
}

/// One labelled row of the block; further lines of the text line up under the first.
pub fn row(label: &str, text: impl Display) -> String {
    format!("  {:<8} {}", format!("{label}:"), text.to_string().replace('\n', "\n           "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_block_has_what_where_and_the_way_out() {
        let mistake = UserError::new("unknown key `rouns` in [train]")
            .at(Some("x.toml, line 4".into()))
            .help("did you mean `rounds`?");
        let text = block(&mistake.into());
        assert_eq!(
            text,
            "error: unknown key `rouns` in [train]\n  at:      x.toml, line 4\n  help:    did you mean `rounds`?"
        );
    }

    #[test]
    fn what_others_named_does_not_steer_the_terminal() {
        let text = block(&UserError::new("unknown `\u{1b}]0;x\u{7}`").at(Some("a\u{9b}2J.toml".into())).into());
        assert_eq!(text, "error: unknown `\\u001b]0;x\\u0007`\n  at:      a\\u009b2J.toml");
    }

    #[test]
    fn what_is_endless_is_cut() {
        let text = block(&UserError::new("ü".repeat(1_000_000)).into());
        assert!(
            text.chars().count() < 4100 && text.ends_with("ü… (1992000 bytes more)"),
            "{}",
            &text[text.len() - 40..]
        );
    }

    #[test]
    fn causes_are_listed_once() {
        let cause: Result<(), _> = Err(std::io::Error::other("disk full"));
        let error = cause.context("cannot write runs/a").expect_err("an error");
        assert_eq!(block(&error), "error: cannot write runs/a\n  because: disk full");
        let doubled: anyhow::Result<()> = Err(anyhow::anyhow!("disk full")).context("cannot write: disk full");
        assert_eq!(block(&doubled.expect_err("an error")), "error: cannot write: disk full");
    }
}
