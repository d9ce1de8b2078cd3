//! What loading a model takes: its weights, once. An allocator counts what is held at a time.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use bonfire_models::{
    Model, ModelInfo, ModelSource, NamedWeight, Precision, TargetKind, Task, Transformer, Wanted, checkpoint,
};
use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counted;

fn took(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const CONFIG: &str = r#"{"model_type":"llama","hidden_size":192,"num_hidden_layers":24,"num_attention_heads":6,
    "num_key_value_heads":2,"intermediate_size":512,"vocab_size":8000,"max_position_embeddings":128,"rms_norm_eps":1e-5,
    "tie_word_embeddings":true,"eos_token_id":2}"#;

#[test]
fn a_model_is_in_memory_once_while_it_is_read() {
    let (dir, device, kinds) = (tempfile::tempdir().unwrap(), Device::flex().autodiff(), TargetKind::all());
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    let info = ModelInfo::parse(CONFIG.as_bytes(), "config.json").unwrap();
    let made = Transformer::random(info.clone(), Task::Causal, &kinds, rng, &device).unwrap();
    let weights = made.weights();
    checkpoint::write(&dir.path().join("model.safetensors"), weights.iter().map(NamedWeight::parts)).unwrap();
    drop((made, weights));
    let source = ModelSource::Folder(dir.path().to_path_buf());
    for (precision, each) in [(Precision::F32, 4.0), (Precision::Bf16, 2.0)] {
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let wanted = Wanted { precision, ..Wanted::default() };
        let model = Transformer::load_as(&source, Task::Causal, &kinds, wanted, rng, &device).unwrap();
        let most = MOST.load(Ordering::Relaxed) - before;
        let share = most as f64 / (each * info.backbone_params() as f64);
        assert!(share < 1.3, "{precision:?}: {share:.2} times the weights");
        assert_eq!(model.info(), &info);
        println!("{precision:?}: {share:.2} times the weights at most");
    }
}
