//! The small backbones that come with the program, so that the first run needs no download: a RoBERTa-style encoder and
//! a LLaMA-style decoder, pretrained on the built-in corpus by `scripts/fixtures/pretrain_tiny.py` and
//! `scripts/fixtures/pretrain_tiny_llama.py`.

/// The built-in encoder's files.
pub const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// The built-in decoder's files.
pub const LLAMA_FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// One of the built-in encoder's files.
///
/// # Panics
/// For a name that is not in [`FILES`].
pub fn file(name: &str) -> &'static [u8] {
    match name {
        "config.json" => include_bytes!("../assets/tiny-roberta/config.json"),
        "model.safetensors" => include_bytes!("../assets/tiny-roberta/model.safetensors"),
        "tokenizer.json" => include_bytes!("../assets/tiny-roberta/tokenizer.json"),
        "tokenizer_config.json" => include_bytes!("../assets/tiny-roberta/tokenizer_config.json"),
        _ => panic!("the built-in encoder has no file {name}"),
    }
}

/// One of the built-in decoder's files.
///
/// # Panics
/// For a name that is not in [`LLAMA_FILES`].
pub fn llama_file(name: &str) -> &'static [u8] {
    match name {
        "config.json" => include_bytes!("../assets/tiny-llama/config.json"),
        "model.safetensors" => include_bytes!("../assets/tiny-llama/model.safetensors"),
        "tokenizer.json" => include_bytes!("../assets/tiny-llama/tokenizer.json"),
        "tokenizer_config.json" => include_bytes!("../assets/tiny-llama/tokenizer_config.json"),
        _ => panic!("the built-in decoder has no file {name}"),
    }
}
