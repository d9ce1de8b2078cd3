//! The small backbone that comes with the program, so that the first run needs no download. A RoBERTa-style masked
//! language model pretrained on the built-in corpus by `scripts/pretrain_tiny.py`.

/// One of the built-in model's files: `config.json`, `model.safetensors` or `tokenizer.json`.
///
/// # Panics
/// For any other name.
pub fn file(name: &str) -> &'static [u8] {
    match name {
        "config.json" => include_bytes!("../assets/tiny-roberta/config.json"),
        "model.safetensors" => include_bytes!("../assets/tiny-roberta/model.safetensors"),
        "tokenizer.json" => include_bytes!("../assets/tiny-roberta/tokenizer.json"),
        _ => panic!("the built-in model has no file {name}"),
    }
}
