//! Data sets, tokenizers and chat templates that a stranger made: whatever their files hold, reading and using them ends
//! in tokens or in an error that names a file, and no size is believed.
#![allow(clippy::unwrap_used)]

#[path = "../../../tests/support/hostile.rs"]
mod hostile;
#[path = "support/packed.rs"]
mod packed;
#[path = "../../../tests/support/watched.rs"]
mod watched;

use std::fs;

use bonfire_data::{
    CausalTokenizer, ChatTemplate, Content, Conversation, DataError, Dataset, Example, Message, Partition, Reading,
    Score, SplitShares, Tokenizer, TokenizerFiles, Wording,
};
use hostile::{config, mutated, mutated_json};
use proptest::prelude::*;

/// More than any of these files can need: 64 MiB.
const MODEST: usize = 1 << 26;

const WORDS: &str = r###"{"version":"1.0","truncation":{"direction":"Left","max_length":8,"strategy":"LongestFirst","stride":0},
  "padding":{"strategy":{"Fixed":8},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"?"},
  "added_tokens":[{"id":6,"content":"<e>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
  "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"_"},
    {"type":"Replace","pattern":{"Regex":" +"},"content":"_"},{"type":"Lowercase"},{"type":"NFKD"}]},
  "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},
    {"type":"Split","pattern":{"Regex":"(?=b)"},"behavior":"Isolated","invert":false}]},
  "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<e>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
    "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
    "special_tokens":{"<e>":{"id":"<e>","ids":[6],"tokens":["<e>"]}}},
  "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"Fuse"},
    {"type":"Strip","content":" ","start":1,"stop":0}]},
  "model":{"type":"WordLevel","vocab":{"?":0,"a":1,"b":2,"c":3,"end":4,"_ab":5},"unk_token":"?"}}"###;
const PAIRS: &str = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
  "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
  "post_processor":{"type":"RobertaProcessing","sep":["c",3],"cls":["a",1],"trim_offsets":true,"add_prefix_space":true},
  "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
  "model":{"type":"BPE","dropout":null,"unk_token":"?","continuing_subword_prefix":"##","end_of_word_suffix":"","fuse_unk":false,
    "byte_fallback":false,"ignore_merges":false,"vocab":{"?":0,"a":1,"##b":2,"c":3,"end":4,"ab":5,"abb":6},
    "merges":[["a","##b"],["ab","##b"]]}}"###;
const PIECES: &str = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
  "normalizer":{"type":"Precompiled","precompiled_charsmap":"CAAAAACEAAAAAACAAQAAgMz8AgC4BQAAhyIAgMzkAgC4PQAA"},
  "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
  "post_processor":null,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
  "model":{"type":"Unigram","unk_id":0,"vocab":[["?",0.0],["▁",-1.0],["a",-2.0],["b",-2.5],["▁a",-1.5],["end",-3.0]],
    "byte_fallback":false}}"###;
const WORD_PIECES: &str = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
  "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
  "pre_tokenizer":{"type":"BertPreTokenizer"},
  "post_processor":{"type":"BertProcessing","sep":["c",3],"cls":["a",1]},
  "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
  "model":{"type":"WordPiece","unk_token":"?","continuing_subword_prefix":"##","max_input_chars_per_word":100,
    "vocab":{"?":0,"a":1,"##b":2,"c":3,"end":4}}}"###;

const TEXTS: [&str; 6] = ["", "a b c", "ab abb  end", "é\u{301}\u{0}\u{feff} 中", "<e> a", "_ab ?"];

/// Reads and uses a tokenizer.
fn tokenize(json: &[u8]) {
    let named = |error: DataError| assert!(error.to_string().contains("tokenizer.json"), "{error}");
    match Tokenizer::from_bytes(json, "tokenizer.json") {
        Err(error) => named(error),
        Ok(tokenizer) => {
            assert!(tokenizer.vocab_size() >= 1);
            match tokenizer.encode(&TEXTS, 8) {
                Ok(ids) => assert!(ids.iter().all(|ids| ids.len() <= 8)),
                // A setting that cannot be names the file too.
                Err(error) => named(error),
            }
            let eos = TokenizerFiles { model_eos: Some(4), ..Default::default() };
            if let Ok(causal) = CausalTokenizer::new(tokenizer, &eos) {
                let pair = |text: &str| Content::Pair { prompt: text.into(), response: "a b".into() };
                let rows = TEXTS.map(|text| Example {
                    content: pair(text),
                    label: 0,
                    labels: Vec::new(),
                    value: 0.0,
                    group: None,
                });
                if let Ok(tokens) = causal.encode(&rows, "train", 8, Score::All) {
                    assert!(tokens.ids.iter().zip(&tokens.scored).all(|(ids, scored)| {
                        ids.len() <= 8
                            && scored
                                .iter()
                                .all(|range| 0 < range.start && range.start < range.end && range.end <= ids.len())
                    }));
                    let _ = causal.continuation(&tokens.ids[1], &[1, 2, u32::MAX]);
                }
            }
        }
    }
    watched::assert_modest(MODEST);
}

fn turns() -> Conversation {
    let turn = Message::new;
    let talk =
        [turn("system", "s"), turn("assistant", "so"), turn("user", "what?\n{{ 1 }}"), turn("assistant", "that")];
    talk.to_vec().into()
}

const CHATML: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message.content | trim }}\
    {% if loop.last %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}\
    {% macro m(x, y=3) %}{{ x.split('a')[0] ~ y | tojson(indent=2) }}{% endmacro %}{{ m('abc') }}{{ 'x'|indent(width=4) }}";

/// Reads what a folder with these files holds, in every way there is.
fn read(files: &[(&str, &[u8])]) {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    let wording = Wording::parse("{text}", "{label}").unwrap();
    let who = || Some("who".to_owned());
    let shares = Some(SplitShares { test: 0.5, validation: 0.0 });
    let plain = Reading::default;
    let readings = [
        plain(),
        Reading { group: who(), ..plain() },
        Reading { text: vec!["text".to_owned(), "who".to_owned()], label: Some("label".to_owned()), ..plain() },
        Reading { causal: true, ..plain() },
        Reading { numbers: true, ..plain() },
        Reading { causal: true, shares, group: who(), ..plain() },
        Reading { causal: true, wording: Some(wording), ..plain() },
    ];
    let read = readings.iter().map(|reading| Dataset::read(dir.path(), reading));
    for outcome in read {
        match outcome {
            Err(DataError::Setting { key: "split", .. }) => {}
            Err(error) => assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}"),
            Ok(data) => {
                assert!(!data.train.is_empty());
                let all = data.train.iter().chain(&data.test).chain(&data.validation);
                assert!(all.into_iter().all(|row| row.label < data.labels.len().max(1)));
            }
        }
    }
    watched::assert_modest(MODEST);
}

const LABELLED: &[u8] = b"{\"text\": \"hello \\u00e9\", \"label\": 0, \"who\": \"x\"}\n\n{\"text\": \"there\", \"label\": 12, \"who\": 3}\n";
const SAID: &[u8] = b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}], \"who\": \"x\"}\n{\"messages\": [{\"role\": \"assistant\", \"content\": \"b\"}], \"who\": true}\n";
const ALPACA: &[u8] = b"{\"instruction\": \"do\", \"input\": \"\", \"output\": \"done\", \"label\": \"x\"}\n{\"instruction\": \"do\", \"output\": \"done\", \"label\": \"y\"}\n";
const TABLE: &[u8] = b"text,label,who\n\"hello, \"\"you\"\"\",0,x\nthere,1,y\n";

fn rows() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![mutated(LABELLED), mutated(SAID), mutated(ALPACA)]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_tokenizer_of_words(json in mutated_json(WORDS)) {
        tokenize(&json);
    }

    #[test]
    fn any_tokenizer_of_merged_pairs(json in mutated_json(PAIRS)) {
        tokenize(&json);
    }

    #[test]
    fn any_tokenizer_of_pieces(json in mutated_json(PIECES)) {
        tokenize(&json);
    }

    #[test]
    fn any_tokenizer_of_word_pieces(json in mutated_json(WORD_PIECES)) {
        tokenize(&json);
    }

    #[test]
    fn any_files_beside_a_tokenizer(
        config in mutated_json(r#"{"bos_token":"a","eos_token":{"content":"end"},"chat_template":[{"name":"default","template":"{{ messages }}"}]}"#),
        generation in mutated_json(r#"{"eos_token_id":[4,3],"max_new_tokens":3}"#),
        template in prop::option::of(mutated(CHATML)),
    ) {
        let tokenizer = Tokenizer::from_bytes(WORD_PIECES.as_bytes(), "tokenizer.json").unwrap();
        let files = TokenizerFiles {
            tokenizer_config: Some((config, "tokenizer_config.json".into())),
            generation_config: Some((generation, "generation_config.json".into())),
            chat_template: template.map(|bytes| (bytes, "chat_template.jinja".into())),
            model_eos: None,
        };
        if let Err(error) = CausalTokenizer::new(tokenizer, &files) {
            let text = error.to_string();
            prop_assert!(["config.json", "chat_template.jinja", "eos_token_id"].iter().any(|name| text.contains(name)), "{}", text);
        }
    }

    #[test]
    fn any_chat_template(bytes in mutated(CHATML)) {
        let named = |error: DataError| assert!(error.to_string().starts_with("chat.jinja: "), "{error}");
        match ChatTemplate::parse(&String::from_utf8_lossy(&bytes), "chat.jinja", &[("eos_token", "</s>")]) {
            Err(error) => named(error),
            Ok(template) => match template.scored(&turns(), Score::All) {
                Err(error) => named(error),
                Ok(rendered) => assert!(rendered.scored.iter().all(|span| rendered.text.get(span.clone()).is_some())),
            },
        }
    }

    #[test]
    fn any_rows(train in rows(), test in rows()) {
        read(&[("train.jsonl", &train), ("test.jsonl", &test)]);
    }

    #[test]
    fn any_table(train in mutated(TABLE), test in mutated(TABLE)) {
        read(&[("train.csv", &train), ("test.csv", &test)]);
    }

    #[test]
    fn any_text_and_any_labels(text in mutated("one\ntwo\n\n\u{feff}three \u{e9}\n"), names in mutated_json(r#"["yes", "no"]"#)) {
        read(&[("train.txt", &text), ("test.txt", &text)]);
        read(&[("train.jsonl", LABELLED), ("test.jsonl", LABELLED), ("labels.json", &names)]);
        read(&[("train.jsonl", LABELLED), ("test.jsonl", LABELLED), ("labels.txt", &text)]);
    }

    #[test]
    fn any_array_and_any_object(train in mutated_json(r#"[{"text": "a", "label": 0, "who": {"x": [1]}}, {"text": "b", "label": "c"}]"#),
                                test in mutated_json(r#"{"data": [{"text": "a", "label": 0.0}], "version": 1}"#)) {
        read(&[("train.json", &train), ("test.json", &test)]);
    }

    #[test]
    fn any_tabs(train in mutated("text\tlabel\n\"a\"\tx\n\"b\ty\n"), test in mutated("text;label\na;x\n")) {
        read(&[("train.tsv", &train), ("test.csv", &test)]);
    }

    #[test]
    fn any_packed_file(gz in mutated(packed::gzip(LABELLED)), zst in mutated(packed::ZSTD)) {
        read(&[("train.jsonl.gz", &gz), ("test.jsonl.zst", &zst)]);
        read(&[("train.jsonl.zst", &zst), ("test.jsonl.gz", &gz)]);
    }

    #[test]
    fn any_parquet(which in 0..packed::PARQUET.len(), train in prop::sample::select(&packed::PARQUET[..]).prop_flat_map(mutated)) {
        read(&[("train.parquet", &train), ("test.parquet", packed::PARQUET[which])]);
    }

    #[test]
    fn any_partition_file(json in mutated_json("[[0, 2], [1, 3]]")) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("parts.json");
        fs::write(&path, json).unwrap();
        let row = |i: usize| Example::labelled("a", i % 2, None);
        let data = Dataset {
            name: "x".into(),
            labels: vec!["a".into(), "b".into()],
            train: (0..6).map(row).collect(),
            test: (0..4).map(row).collect(),
            ..Dataset::default()
        };
        match (Partition::File { path: path.clone() }).split(&data, 2, 1, 1) {
            Ok(shards) => prop_assert!(shards.train.iter().flatten().all(|row| *row < 6)),
            Err(DataError::ShardTooSmall { .. }) => {}
            Err(error) => prop_assert!(error.to_string().contains(&path.display().to_string()), "{}", error),
        }
        watched::assert_modest(MODEST);
    }

    #[test]
    fn any_wording(prompt in "\\PC{0,20}", response in "[{}a é]{0,12}") {
        if let Err(error) = Wording::parse(&prompt, &response) {
            prop_assert!(error.to_string().starts_with("prompt: ") || error.to_string().starts_with("response: "));
        }
    }
}

/// What a classifier's folder with one training file is told.
fn refused(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    fs::write(dir.path().join("test.jsonl"), LABELLED).unwrap();
    let error = Dataset::read(dir.path(), &Reading::default()).unwrap_err();
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| cause.to_string());
    format!("{error}: {cause}")
}

#[test]
fn bombs_are_refused_early() {
    // One line of a billion blanks, as 1 MB of gzip, and as some kilobytes of Zstandard.
    let gzip = refused("train.jsonl.gz", &packed::gzip_bomb(1 << 30));
    assert!(gzip.contains("train.jsonl.gz") && gzip.contains("more than 200 times its size"), "{gzip}");
    let zstd = refused("train.jsonl.zst", &packed::zstd_bomb(1 << 30));
    assert!(zstd.contains("train.jsonl.zst") && zstd.contains("more than 200 times its size"), "{zstd}");
    // 20 million rows of one text, which Parquet writes down once.
    let parquet = refused("train.parquet", &packed::parquet_bomb(20_000_000));
    assert!(parquet.contains("train.parquet, row") && parquet.contains("more than 200 times its size"), "{parquet}");
    watched::assert_modest(4 * MODEST);
}

#[test]
fn the_samples_themselves_can_be_used() {
    for sample in packed::PARQUET {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train.parquet"), sample).unwrap();
        fs::write(dir.path().join("test.jsonl.zst"), packed::ZSTD).unwrap();
        assert!(Dataset::read(dir.path(), &Reading::default()).is_ok());
    }
    for json in [WORDS, PAIRS, WORD_PIECES] {
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), "tokenizer.json").unwrap();
        assert!(tokenizer.encode(&TEXTS, 8).is_ok(), "{json}");
    }
    let chat = ChatTemplate::parse(CHATML, "chat.jinja", &[("eos_token", "</s>")]).unwrap();
    assert!(chat.scored(&turns(), Score::All).is_ok() || chat.render(&turns(), true).is_ok());
}

#[test]
fn a_tokenizer_on_which_the_library_panics_is_an_error() {
    // The second part of a merge is shorter than the prefix that would be cut from it.
    let json = PAIRS.replace(r###"[["a","##b"],["ab","##b"]]"###, r#"[["a","c"]]"#);
    let error = Tokenizer::from_bytes(json.as_bytes(), "tokenizer.json").unwrap_err().to_string();
    assert!(error.starts_with("tokenizer.json: not a usable tokenizer (it contradicts itself: "), "{error}");
}

#[test]
fn a_text_that_would_grow_without_end_is_refused() {
    let double = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
    let steps = format!(r#"{{"type":"Sequence","normalizers":[{}]}}"#, vec![double; 60].join(","));
    let json = WORD_PIECES.replace(
        r#"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}"#,
        &steps,
    );
    let error = Tokenizer::from_bytes(json.as_bytes(), "tokenizer.json").unwrap_err().to_string();
    assert!(error.contains("times as long"), "{error}");
}

/// A template that would run for hours.
const LOOPS: &str = "{% set all = range(1000) | list %}{% for a in all %}{% for b in all %}{% for c in all %}{% for d in all %}\
                     {% endfor %}{% endfor %}{% endfor %}{% endfor %}";

#[test]
fn templates_that_ask_for_too_much_are_refused() {
    for (source, word) in [
        ("{{ 'x' | indent(width=1000000000000) }}", "an indent of"),
        ("{{ 'x' | indent(1000000000000) }}", "an indent of"),
        ("{{ messages | tojson(indent=1000000000000) }}", "an indent of"),
        ("{{ 'x' * 1000000000000 }}", "fuel"),
        ("{% for i in range(1000000000000) %}{% endfor %}", "range"),
        (LOOPS, "fuel"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ] {
        let template = ChatTemplate::parse(source, "chat.jinja", &[("eos_token", "</s>")]).unwrap();
        let error = template.render(&turns(), false).unwrap_err().to_string();
        assert!(error.contains(word), "{source}: {error}");
    }
}
