use std::path::{Path, PathBuf};

use bonfire_experiment::compare::Grid;
use clap::Parser;

use crate::args::{Cli, Command};

/// Every configuration file of the project.
fn shipped() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("readable").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}
/// The `bonfire compare` command lines in the comments of a configuration, lines that end in `\\` joined.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix('#')).collect::<Vec<_>>().join("\n");
    let joined = lines.replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| line.starts_with("bonfire compare ")).map(String::from).collect()
}

#[test]
fn the_commands_in_shipped_configurations_make_grids() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seen = 0;
    for path in shipped() {
        let text = std::fs::read_to_string(&path).expect("readable");
        for line in commands(&text) {
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
            let Command::Compare(args) = &cli.command else { panic!("{line}") };
            let config = root.join(args.config.as_ref().expect("a file"));
            assert_eq!(config.canonicalize().expect("there"), path.canonicalize().expect("there"), "{line}");
            let variants = args.variants();
            let asked = args.axes.asked(variants);
            Grid::new(Some(&config), &cli.common.sets, cli.common.device.as_ref(), &asked)
                .unwrap_or_else(|error| panic!("{line}: {error:?}"));
            seen += 1;
        }
    }
    assert!(seen >= 18, "only {seen} commands found");
}
