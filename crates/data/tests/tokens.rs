//! Token ids: the wrapper's own rules on a tiny tokenizer. Real ones are in `real.rs`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bonfire_data::Tokenizer;

/// Five words between [CLS] and [SEP]; the file asks for padding and truncation, which must not happen.
const TINY: &str = r###"{
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
  "added_tokens": [
    {"id": 9, "content": "[MASK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
  ],
  "normalizer": {"type": "Lowercase"},
  "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
  "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5, "c": 6, "[MASK]": 9}, "unk_token": "[UNK]"}
}"###;

fn tiny() -> Tokenizer {
    Tokenizer::from_bytes(TINY.as_bytes(), "tiny").unwrap()
}

#[test]
fn texts_are_neither_padded_nor_cut_by_the_file() {
    let ids = tiny().encode(&["a B c a b", "", "dog"], 64).unwrap();
    assert_eq!(ids, [vec![1, 4, 5, 6, 4, 5, 2], vec![1, 2], vec![1, 3, 2]]);
    assert!(tiny().encode(&[], 64).unwrap().is_empty());
}

#[test]
fn the_length_counts_special_tokens() {
    assert_eq!(tiny().encode(&["a b c a b"], 5).unwrap(), [[1, 4, 5, 6, 2]]);
    let error = tiny().encode(&["a"], 2).unwrap_err().to_string();
    assert!(error.starts_with("max_length = 2 cannot work") && error.ends_with("at least 3"), "{error}");
}

#[test]
fn the_vocabulary_reaches_to_the_highest_id() {
    assert_eq!(tiny().vocab_size(), 10);
    assert_eq!((tiny().token_id("[MASK]"), tiny().token_id("dog")), (Some(9), None));
}

#[test]
fn errors_name_the_file() {
    let missing = Tokenizer::from_file(Path::new("no/tokenizer.json")).unwrap_err().to_string();
    assert!(missing.starts_with("no/tokenizer.json"), "{missing}");
    let wrong = Tokenizer::from_bytes(b"{}", "config.json").unwrap_err().to_string();
    assert!(wrong.starts_with("config.json: not a usable tokenizer"), "{wrong}");
}

/// BERT's kind of tokenizer: two words in two cases between [CLS] and [SEP], texts lower-cased.
const BERTS: &str = r###"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
  "decoder": null,
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
    "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "my": 4, "card": 5, "Card": 6, "cafe": 7, "café": 8}}
}"###;

/// What AutoTokenizer gives for BERTS with the same tokenizer_config.json, by Transformers 5.24.
#[test]
fn what_the_configuration_says_is_obeyed() {
    let of = |config: &str, text: &str, longest: usize| {
        let tokenizer = Tokenizer::from_bytes(BERTS.as_bytes(), "t").expect("a tokenizer");
        let tokenizer = tokenizer.obeying(config.as_bytes(), "c").expect("obeyed");
        tokenizer.encode(&[text], longest).expect("encoded").remove(0)
    };
    assert_eq!(of("{}", "my Card café", 9), [1, 4, 5, 7, 2]);
    assert_eq!(of(r#"{"do_lower_case": false}"#, "my Card café", 9), [1, 4, 6, 8, 2]);
    assert_eq!(of(r#"{"do_lower_case": true, "strip_accents": false}"#, "my Card café", 9), [1, 4, 5, 8, 2]);
    let fast = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": false, "truncation_side": "left"}"#;
    assert_eq!(of(fast, "my Card café", 9), [1, 4, 5, 7, 2], "another class takes tokenizer.json as it is");
    assert_eq!(of(fast, "my Card café", 4), [1, 5, 7, 2], "but for the side");
    let around = r#"{"tokenizer_class": "BertTokenizerFast", "cls_token": {"content": "[MASK]"}}"#;
    assert_eq!(of(around, "my card", 9), [3, 4, 5, 2]);
}

#[test]
fn configurations_that_cannot_be_obeyed_are_named() {
    let of = |config: &str| {
        let tokenizer = Tokenizer::from_bytes(BERTS.as_bytes(), "t").expect("a tokenizer");
        tokenizer.obeying(config.as_bytes(), "tokenizer_config.json").expect_err("refused").to_string()
    };
    for (config, word) in [
        ("{", "not a tokenizer's configuration"),
        (r#"{"truncation_side": "both"}"#, "\"both\""),
        (r#"{"cls_token": "<s>", "sep_token": "[SEP]"}"#, "<s>"),
    ] {
        let said = of(config);
        assert!(said.contains("tokenizer_config.json") && said.contains(word), "{said}");
    }
}
