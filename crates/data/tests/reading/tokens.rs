//! Token ids: the wrapper's own rules on a tiny tokenizer. Real ones are in `real.rs`.

use std::path::Path;

use bonfire_data::{Classified, Tokenizer};

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

#[test]
fn pairs_go_through_the_tokenizers_own_template() {
    // As BERT has it: [CLS] first [SEP] second [SEP], of which the second and its [SEP] have type 1.
    const BERT: &str = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
      "pre_tokenizer":{"type":"WhitespaceSplit"},"decoder":null,
      "post_processor":{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[CLS]",0]},
      "model":{"type":"WordLevel","vocab":{"[CLS]":0,"[SEP]":1,"a":2,"b":3,"c":4,"?":5},"unk_token":"?"}}"###;
    let tokenizer = Tokenizer::from_bytes(BERT.as_bytes(), "tokenizer.json").unwrap();
    let one = |first, second, longest| tokenizer.classified(&[(first, second)], longest).unwrap().remove(0);
    let of = |ids: &[u32], second, cut| Classified { ids: ids.to_vec(), second, cut };
    assert_eq!(one("a b", Some("c"), 9), of(&[0, 2, 3, 1, 4, 1], 4, false));
    assert_eq!(one("a b", None, 9), of(&[0, 2, 3, 1], 4, false));
    assert_eq!(one("", Some(""), 9), of(&[0, 1, 1], 2, false));
    // The longer one is cut first, then both.
    assert_eq!(one("a b c a b", Some("c"), 6), of(&[0, 2, 3, 1, 4, 1], 4, true));
    assert_eq!(one("c", Some("a b c a b"), 6), of(&[0, 4, 1, 2, 3, 1], 3, true));
    assert_eq!(one("a a a a", Some("b b b b"), 7), of(&[0, 2, 2, 1, 3, 3, 1], 4, true));
    assert_eq!(one("a b c", None, 4), of(&[0, 2, 3, 1], 4, true));
    let error = tokenizer.classified(&[("a", Some("b"))], 3).unwrap_err().to_string();
    assert!(error.contains("adds 3 special tokens to every pair"), "{error}");
}
