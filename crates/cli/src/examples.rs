//! What `--help` shows as examples; a test reads every line of them as the program would.

/// After `bonfire --help`.
pub const ALL: &str = "\
Examples:
  bonfire train                                 the built-in federation: no download, no GPU
  bonfire new my-federation                     a configuration and rows to begin with, for your own
  bonfire config --init classifier run.toml     a configuration to begin with: or llm, cross-silo, planning, full
  bonfire train run.toml --device wgpu          run it on a GPU
  bonfire evaluate runs/NAME                    judge what it learnt
  bonfire export runs/NAME --out adapter        for PEFT, vLLM and others
  bonfire doctor                                check that the devices compute right";

/// After `bonfire new --help`.
pub const NEW: &str = "\
Examples:
  bonfire new my-federation
  bonfire new work/support-tickets";

/// After `bonfire train --help`.
pub const TRAIN: &str = "\
Examples:
  bonfire train
  bonfire train --out runs/first --set train.rounds=3 --set clients.count=4
  bonfire train configs/banking77.toml --set model.path=DIR --set data.path=DIR
  bonfire train configs/pfl-alpaca.toml --device cuda:0,cuda:1
  bonfire train configs/llama-quickstart.toml --set strategy.name=fedit --tui
  bonfire train --resume runs/NAME";

/// After `bonfire compare --help`.
pub const COMPARE: &str = "\
Examples:
  bonfire compare --strategies lora-a2,fedit,ffa-lora --seeds 0,1,2
  bonfire compare --strategies lora-a2,fedit:train.lr_b=5x --ranks 8,1 --alphas 0.1,0.01
  bonfire compare configs/compare-banking77.toml --set model.path=DIR --set data.path=DIR --out compare/banking";

/// After `bonfire sweep --help`.
pub const SWEEP: &str = "\
Examples:
  bonfire sweep --set train.lr_a=1e-4,3e-4,1e-3 --seeds 0,1,2
  bonfire sweep --strategies fedit,ffa-lora,lora-a2 --set train.lr_a=3e-4,1e-3 --halving 2,5
  bonfire sweep --set 'adapter.targets=[\"query\"],[\"query\",\"value\"]' --ranks 2,8
  bonfire sweep configs/banking77.toml --set model.path=DIR --set data.path=DIR --set train.lr_a=1e-4,3e-4";

/// After `bonfire evaluate --help`.
pub const EVALUATE: &str = "\
Examples:
  bonfire evaluate runs/NAME
  bonfire evaluate runs/NAME --json --predictions answers.jsonl
  bonfire evaluate --model DIR --data DIR
  bonfire evaluate --model builtin-llama --data DIR --set model.task=causal-lm";

/// After `bonfire predict --help`.
pub const PREDICT: &str = "\
Examples:
  bonfire predict runs/NAME --text 'Where is my card?'
  bonfire predict runs/NAME --rows questions.jsonl --json";

/// After `bonfire generate --help`.
pub const GENERATE: &str = "\
Examples:
  bonfire generate runs/NAME --prompt 'The library' --max-tokens 40
  bonfire generate runs/NAME --prompt 'What is a federation?' --chat --temperature 0.7 --seed 1
  bonfire generate runs/NAME --instruction 'Name a colour' --top-p 0.9 --temperature 0.7 --base
  bonfire generate runs/NAME --rows test.jsonl --stop '###' --json";

/// After `bonfire cost --help`.
pub const COST: &str = "\
Examples:
  bonfire cost
  bonfire cost configs/paper/table1-banking77.toml --set model.path=DIR --ranks 8,1 --strategies full,fedit,lora-a2
  bonfire cost --up 5 --down 50 --json
  bonfire cost configs/hospitals.toml --strategies fedit,lora-a2 --price-per-gb 0.09";

/// After `bonfire plan --help`.
pub const PLAN: &str = "\
Examples:
  bonfire plan configs/hospitals.toml --strategies fedit,lora-a2,lora-a2:wire.upload=int8 --ranks 8,4
  bonfire plan CONFIG --strategies fedit,lora-a2 --runs compare/NAME --reach 0.8 --max-hours 24 --svg plan.svg";

/// After `bonfire partition --help`.
pub const PARTITION: &str = "\
Examples:
  bonfire partition
  bonfire partition --no-svg --set data.partition={kind=\"iid\"}
  bonfire partition configs/banking77.toml --set model.path=DIR --set data.path=DIR --json rows.json";

/// After `bonfire export --help`.
pub const EXPORT: &str = "\
Examples:
  bonfire export runs/NAME --out adapter --verify
  bonfire export runs/NAME --format merged --out model
  bonfire export runs/NAME --format gguf --layout compact --out gguf
  bonfire export runs/NAME --clients --out adapters";

/// After `bonfire report --help`.
pub const REPORT: &str = "\
Examples:
  bonfire report runs/NAME
  bonfire report runs/FIRST runs/SECOND --out compared.html";

/// After `bonfire bench --help`.
pub const BENCH: &str = "\
Examples:
  bonfire bench
  bonfire bench kernels --device wgpu
  bonfire bench ceiling gemm step --shape llama-1b --precision bf16 --tokens 4096 --peak-tflops 990 --device cuda
  bonfire bench step scale --shape minilm --clients 20 --devices cpu,wgpu --json bench.json --svg bench.svg";

/// After `bonfire doctor --help`.
pub const DOCTOR: &str = "\
Examples:
  bonfire doctor
  bonfire doctor --device cuda:0
  bonfire doctor --list
  bonfire doctor --json --quiet";

/// After `bonfire self-test --help`.
pub const SELF_TEST: &str = "\
Examples:
  bonfire self-test --device cuda
  bonfire self-test --device wgpu:1 --quick
  bonfire self-test --device cuda --real --seed 7
  bonfire self-test --device cuda --json";

/// After `bonfire config --help`.
pub const CONFIG: &str = "\
Examples:
  bonfire config --init llm
  bonfire config --init classifier run.toml
  bonfire config run.toml --set train.rounds=30
  bonfire config --schema

With Taplo, an editor checks and completes a configuration whose first line is
  #:schema bonfire.schema.json
where that file holds what --schema prints.";

/// After `bonfire completions --help`.
pub const COMPLETIONS: &str = "\
Examples:
  bonfire completions bash
  bonfire completions zsh

bash:  bonfire completions bash > ~/.local/share/bash-completion/completions/bonfire
zsh:   bonfire completions zsh > a folder of $fpath, as _bonfire
fish:  bonfire completions fish > ~/.config/fish/completions/bonfire.fish";

/// After `bonfire man --help`.
pub const MAN: &str = "\
Examples:
  bonfire man
  bonfire man --out ~/.local/share/man/man1";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, Parser};

    use crate::args::Cli;

    /// A line as a shell splits it; quotes hold words together where they begin one.
    fn words(line: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = line.trim();
        while !rest.is_empty() {
            let (word, after) = match rest.strip_prefix('\'') {
                Some(quoted) => quoted.split_once('\'').expect("a closing quote"),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            found.push(word.to_string());
            rest = after.trim_start();
        }
        found
    }

    /// The lines of the examples, without what is said beside them.
    fn lines(help: &str) -> Vec<String> {
        let examples = help.lines().filter_map(|line| line.strip_prefix("  bonfire"));
        examples.map(|rest| format!("bonfire{}", rest.split("   ").next().unwrap_or_default())).collect()
    }

    #[test]
    fn every_command_has_examples_that_it_takes() {
        let cli = Cli::command();
        let all = std::iter::once(&cli).chain(cli.get_subcommands());
        for command in all.filter(|command| command.get_name() != "help") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n"), "{} has none", command.get_name());
            let lines = lines(&help);
            assert!(!lines.is_empty());
            for line in lines {
                let words = words(&line);
                Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(command.get_name() == "bonfire" || words[1] == command.get_name(), "{line}");
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
                for file in words.iter().filter(|word| word.starts_with("configs/")) {
                    assert!(root.join(file).is_file(), "{line}: no {file}");
                }
            }
            let wide = help.lines().find(|line| line.chars().count() > 120);
            assert!(wide.is_none(), "{wide:?}");
        }
    }

    #[test]
    fn lines_are_split_as_a_shell_does() {
        assert_eq!(words("a --b 'c d'  e"), ["a", "--b", "c d", "e"]);
        assert_eq!(lines("Examples:\n  bonfire x y     why\nno\n"), ["bonfire x y"]);
    }
}
