//! LoRA-A² over four clients with shards of their own, in one process:
//!
//!     cargo run --release --example federate

use std::error::Error;
use std::ops::ControlFlow;

use bonfire_experiment::{RunConfig, Watch};
use bonfire_federation::{ClientMetrics, RoundMetrics};

const CONFIG: &str = r#"
    name = "four-shards"

    [model]
    path = "builtin"                     # or a Hugging Face folder, or "hf:org/name"

    [data]
    path = "builtin"                     # or a folder with train and test, or "hf:org/name"
    labels = 20
    max_length = 32
    partition = { kind = "dirichlet", alpha = 0.5 }

    [clients]
    count = 4
    budget = 2                           # slots that a client may upload, per target on average

    [adapter]
    rank = 8
    head = "trained"

    [train]
    rounds = 6
    lr_a = 2e-3

    [strategy]
    name = "lora-a2"
"#;

/// Prints a line a round; breaks off once it is good enough.
struct Printer;

impl Watch for Printer {
    fn round_ended(&mut self, round: &RoundMetrics, clients: &[ClientMetrics], uploaded: u64) -> ControlFlow<()> {
        let (accuracy, sent) = (round.test_accuracy.unwrap_or(0.0), uploaded / 1000);
        println!("round {}, {} trained by {}: {accuracy:.3}, {sent} kB sent", round.round, round.phase, clients.len());
        if accuracy > 0.9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut experiment = RunConfig::from_toml(CONFIG)?.load()?;
    let summary = experiment.train(&mut Printer)?;
    let folder = experiment.folder().join("adapter");
    println!("accuracy {:?}; PEFT opens {}", summary.final_accuracy, folder.display());
    Ok(())
}
