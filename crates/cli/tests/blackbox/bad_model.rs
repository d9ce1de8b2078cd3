//! Model folders that cannot be used.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::Room;

const TRAIN: [&str; 5] = ["train", "--out", "run", "--set", "model.path=model"];

/// Changes a JSON file in place.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

#[test]
fn a_missing_folder_is_named() {
    let room = Room::new();
    room.refuse(2, &["model", "no such file or folder"], &TRAIN);
    let train = |path: &str| ["train", "--out", "run", "--set", path].map(String::from);
    let refused = |path: &str, words: &[&str]| {
        let args = train(&format!("model.path={path}"));
        room.refuse(2, words, &args.each_ref().map(String::as_str));
    };
    refused("google-bert/bert-base-uncased", &["\"hf:google-bert/bert-base-uncased\""]);
    fs::write(room.path("weights.safetensors"), "x").expect("written");
    refused("weights.safetensors", &["weights.safetensors", "is a file", "folder"]);
    assert!(!room.path("run").exists());
}

#[test]
fn files_in_other_formats_are_named_with_the_way_out() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let room = Room::new();
        fs::write(room.model().join(name), pointer).expect("written");
        room.refuse(1, &[name, "Git LFS", "git lfs pull"], &TRAIN);
    }
    let room = Room::new();
    let model = room.model();
    fs::rename(model.join("tokenizer.json"), model.join("vocab.txt")).expect("renamed");
    room.refuse(1, &["vocab.txt", "AutoTokenizer.from_pretrained('model').save_pretrained('model')"], &TRAIN);
    let room = Room::new();
    let model = room.model();
    fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).expect("renamed");
    room.refuse(1, &["pytorch_model.bin", "from_pretrained('model').save_pretrained('model')"], &TRAIN);
}

#[test]
fn a_missing_file_is_named() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let room = Room::new();
        let model = room.model();
        fs::remove_file(model.join(name)).expect("removed");
        room.refuse(1, &[name], &TRAIN);
    }
}

#[test]
fn truncated_weights_are_refused() {
    let room = Room::new();
    let weights = room.model().join("model.safetensors");
    let bytes = fs::read(&weights).expect("readable");
    for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&weights, &bytes[..length]).expect("written");
        room.refuse(1, &["model.safetensors"], &TRAIN);
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let room = Room::new();
    edit(&room.model().join("config.json"), |config| config["intermediate_size"] = json!(256));
    room.refuse(1, &["intermediate.dense.weight", "256", "512"], &TRAIN);
}

#[test]
fn a_missing_tensor_is_named() {
    let room = Room::new();
    edit(&room.model().join("config.json"), |config| config["num_hidden_layers"] = json!(9));
    room.refuse(1, &["encoder.layer.4"], &TRAIN);
}

#[test]
fn surplus_tensors_are_named() {
    let room = Room::new();
    edit(&room.model().join("config.json"), |config| config["num_hidden_layers"] = json!(1));
    room.refuse(1, &["encoder.layer.1"], &TRAIN);
}

#[test]
fn another_kind_of_model_is_refused() {
    let room = Room::new();
    edit(&room.model().join("config.json"), |config| config["model_type"] = json!("t5"));
    room.refuse(1, &["config.json", "t5", "roberta"], &TRAIN);
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused() {
    let room = Room::new();
    edit(&room.model().join("tokenizer.json"), |tokenizer| {
        let tokens = tokenizer["model"]["vocab"].as_object_mut().expect("tokens");
        for (_, id) in tokens.iter_mut() {
            *id = json!(id.as_u64().expect("an id") + 5000);
        }
    });
    room.refuse(1, &["tokenizer.json", "config.json", "token 5", "1200"], &TRAIN);
}

#[test]
fn a_token_that_no_text_gives_needs_no_embedding() {
    let room = Room::new();
    edit(&room.model().join("tokenizer.json"), |tokenizer| tokenizer["model"]["vocab"]["zzzz"] = json!(5000));
    room.succeed(&crate::support::short(&TRAIN, &["--set", "train.rounds=1"]));
}

#[test]
fn a_head_of_another_size_can_be_drawn_anew() {
    let room = Room::new();
    edit_weights(&room.model().join("model.safetensors"), |header, data| {
        let mut add = |name: &str, shape: &[usize]| {
            let (start, bytes) = (data.len(), 4 * shape.iter().product::<usize>());
            header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, start + bytes]});
            data.extend(vec![0; bytes]);
        };
        add("classifier.out_proj.weight", &[3, 128]);
        add("classifier.out_proj.bias", &[3]);
    });
    room.refuse(1, &["classifier.out_proj.weight", "[3, 128]", "model.new_head = true"], &TRAIN);
    room.succeed(&crate::support::short(&TRAIN, &["--set", "train.rounds=1", "--set", "model.new_head=true"]));
}

#[test]
fn labels_go_by_the_rows_of_a_head_that_names_them() {
    let room = Room::new();
    fs::create_dir(room.path("data")).expect("made");
    let names = ["travel", "billing", "food"];
    for split in ["train", "test"] {
        let row =
            |i: usize| json!({"text": format!("number {i} of {}", names[i % 3]), "label": names[i % 3]}).to_string();
        fs::write(room.path(&format!("data/{split}.jsonl")), (0..24).map(row).collect::<Vec<_>>().join("\n"))
            .expect("written");
    }
    let model = room.model();
    let order = |id2label: Value| {
        edit(&model.join("config.json"), |config| config["id2label"] = id2label);
        let _ = fs::remove_dir_all(room.path("run"));
        let sets = [
            "--set",
            "data.path=data",
            "--set",
            "data.labels=3",
            "--set",
            "data.min_shard=1",
            "--set",
            "clients.count=2",
            "--set",
            "data.partition={ kind = \"iid\" }",
        ];
        room.succeed(&[&TRAIN[..], &sets, &["--set", "train.rounds=1"]].concat());
        room.json("run/partition.json")["labels"].clone()
    };
    assert_eq!(order(json!({"0": "Travel", "1": "billing", "2": "food"})), json!(["travel", "billing", "food"]));
    assert_eq!(order(json!({"0": "x", "1": "billing", "2": "food"})), json!(["billing", "food", "travel"]));
}

#[test]
fn a_broken_tokenizer_is_refused() {
    let room = Room::new();
    fs::write(room.model().join("tokenizer.json"), "{}").expect("written");
    room.refuse(1, &["tokenizer.json"], &TRAIN);
}

#[test]
fn a_copy_of_the_built_in_model_trains_like_it() {
    let room = Room::new();
    room.model();
    let run = |out: &str, path: &str| {
        let model = format!("model.path={path}");
        let args =
            crate::support::short(&["train", "--quiet", "--out", out, "--set", &model], &["--set", "train.rounds=1"]);
        room.succeed(&args);
        room.json(&format!("{out}/summary.json"))["final_accuracy"].clone()
    };
    assert_eq!(run("a", "builtin"), run("b", "model"));
}

/// Changes the header of a safetensors file and the bytes after it.
fn edit_weights(path: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let bytes = fs::read(path).expect("readable");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let mut data = bytes[8 + length..].to_vec();
    change(&mut header, &mut data);
    let header = header.to_string();
    let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(path, whole).expect("written");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (tensor, number, word) in [
        ("roberta.encoder.layer.1.attention.self.key.weight", f32::NAN, "NaN"),
        ("roberta.embeddings.word_embeddings.weight", f32::INFINITY, "infinity"),
        ("roberta.encoder.layer.0.output.LayerNorm.bias", f32::NEG_INFINITY, "infinity"),
        ("roberta.encoder.layer.0.output.dense.bias", f32::NAN, "NaN"),
    ] {
        let room = Room::new();
        edit_weights(&room.model().join("model.safetensors"), |header, data| {
            let ends = |at: usize| header[tensor]["data_offsets"][at].as_u64().expect("an offset") as usize;
            // Half precision or single: the last number either way.
            let end = ends(1);
            match header[tensor]["dtype"].as_str() {
                Some("F32") => data[end - 4..end].copy_from_slice(&number.to_le_bytes()),
                Some("F16") => {
                    data[end - 2..end].copy_from_slice(&if number.is_nan() { 0x7e00_u16 } else { 0x7c00 }.to_le_bytes())
                }
                Some("BF16") => data[end - 2..end].copy_from_slice(&number.to_le_bytes()[2..]),
                other => panic!("{other:?}"),
            }
        });
        room.refuse(1, &["model.safetensors", tensor, word, "damaged"], &TRAIN);
        assert!(!room.path("run").exists());
    }
}

#[test]
fn an_endless_name_of_a_tensor_is_cut() {
    let room = Room::new();
    edit_weights(&room.model().join("model.safetensors"), |header, data| {
        let end = data.len();
        header[format!("roberta.encoder.layer.9.{}", "\u{1b}[2J".repeat(100_000))] =
            json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
        data.extend([0; 4]);
    });
    let said = room.refuse(1, &["model.safetensors", "belongs to no layer"], &TRAIN);
    assert!(said.err.len() < 3000 && !said.err.contains('\u{1b}'), "{} bytes", said.err.len());
}
