//! How long a model takes to load, and what memory at most.
//!
//!     cargo build --release --workspace --example load && target/release/examples/load DIR

use std::path::PathBuf;
use std::time::Instant;

use bonfire_models::{Model, ModelSource, TargetKind, Task, Transformer};
use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a model folder"));
    let (begun, mut rng) = (Instant::now(), ChaCha8Rng::seed_from_u64(1));
    let source = ModelSource::Folder(folder);
    let model = Transformer::load(&source, Task::Causal, &TargetKind::all(), &mut rng, &Device::flex().autodiff())
        .unwrap_or_else(|error| panic!("{error}"));
    let bytes = 4 * model.info().backbone_params();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim();
    println!("{:.1} s, {} MB of weights in f32, {most} at the peak", begun.elapsed().as_secs_f64(), bytes / 1_000_000);
}
