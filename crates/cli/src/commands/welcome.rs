//! `bonfire` alone: what to do next.

use crate::console::say;

const TEXT: &str = "\
Bonfire trains adapters for language models on data that stays with many clients, all of them side by side on one device.

  bonfire train                 see it work: ten clients, no download, no GPU, half a minute or so
  bonfire new my-federation     begin with your own rows: a configuration, a sample and what to do next
  bonfire doctor                which devices are here, and whether they compute right
  bonfire --help                all commands";

/// Prints it.
pub fn run() {
    say(TEXT);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn what_it_proposes_are_commands() {
        let lines: Vec<&str> = TEXT.lines().filter(|line| line.starts_with("  bonfire ")).collect();
        assert_eq!(lines.len(), 4);
        for line in lines {
            let words = line.trim_start().split("   ").next().unwrap_or_default().trim().split(' ');
            let help = line.contains("--help");
            assert!(Cli::try_parse_from(words).is_ok() != help, "{line}");
        }
    }
}
