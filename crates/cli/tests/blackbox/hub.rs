//! Models and data from the Hub: out of its cache, and over HTTP from a small server of our own.

mod hostile;
mod server;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Room, Said};
use server::{COMMIT, Sent, Server};

/// `train` for a second on a model and data from the Hub.
const TRAIN: [&str; 6] = ["train", "--quiet", "--out", "run", "--set", "model.path=hf:some/model"];

const CONFIG: &str = r#"
[model]
path = "builtin"
[data]
path = "data"
partition = { kind = "iid" }
[clients]
count = 2
[adapter]
rank = 2
[train]
rounds = 1
[strategy]
name = "fedit"
"#;

fn assets() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/assets/tiny-roberta"))
}

const FILES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

/// A room with data, a configuration, and no network but what `envs` name.
fn room() -> Room {
    let room = Room::new();
    room.data(&[], &[]);
    room.write("run.toml", CONFIG);
    room
}

fn run(room: &Room, args: &[&str], envs: &[(&str, &str)]) -> Said {
    let args = [&[args[0], "run.toml"][..], &args[1..]].concat();
    command(room, &args, envs).output().expect("the binary starts").into()
}

/// The binary, as if the machine had no settings for the Hub and no proxy.
fn command(room: &Room, args: &[&str], envs: &[(&str, &str)]) -> Command {
    let mut command = room.command(args);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_TOKEN", "HF_TOKEN_PATH"] {
        command.env_remove(name);
    }
    // Port 9 takes no connections.
    command.env("HF_HOME", room.path("hf")).env("HF_ENDPOINT", "http://127.0.0.1:9").envs(envs.iter().copied());
    command
}

fn refused(said: &Said, words: &[&str]) {
    assert!(said.code != Some(0), "{said:?}");
    for word in words {
        assert!(said.err.contains(word), "no {word:?} in: {}", said.err);
    }
    assert!(!said.err.contains("panicked") && !said.err.contains("internal error"), "{}", said.err);
}

/// Puts files into the cache as the Hub's clients lay it out.
fn cache(room: &Room, hub: &str, repo: &str, files: &[(&str, Vec<u8>)]) {
    let folder = room.path(hub).join(repo);
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).expect("made");
    fs::create_dir_all(folder.join("refs")).expect("made");
    fs::write(folder.join("refs/main"), COMMIT).expect("written");
    files.iter().for_each(|(name, bytes)| fs::write(snapshot.join(name), bytes).expect("written"));
}

fn model_files() -> Vec<(&'static str, Vec<u8>)> {
    FILES.map(|name| (name, fs::read(assets().join(name)).expect("readable"))).to_vec()
}

#[test]
fn what_is_in_the_cache_needs_no_network() {
    let room = room();
    cache(&room, "hf/hub", "models--some--model", &model_files());
    let rows = ["train", "test"].map(|split| (format!("{split}.jsonl"), room.read(&format!("data/{split}.jsonl"))));
    let rows = rows.iter().map(|(name, text)| (name.as_str(), text.clone().into_bytes())).collect::<Vec<_>>();
    cache(&room, "elsewhere", "datasets--some--data", &rows);
    cache(&room, "elsewhere", "models--some--model", &model_files());
    let said = run(&room, &TRAIN, &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(room.read("run/config.toml").contains("path = \"hf:some/model\""));
    assert_eq!(room.json("run/adapter/adapter_config.json")["base_model_name_or_path"], "some/model");
    // A commit needs no reference; HF_HUB_CACHE goes before HF_HOME.
    let elsewhere = room.path("elsewhere");
    let envs = [("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", elsewhere.to_str().expect("a path"))];
    let data = format!("data.path=hf:some/data@{COMMIT}");
    let said = run(&room, &["partition", "--no-svg", "--set", &data], &envs);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("40 training texts"), "{}", said.out);
}

#[test]
fn what_is_not_in_the_cache_is_said() {
    let room = room();
    let said = run(&room, &TRAIN, &[]);
    refused(&said, &["the model hf:some/model", "not whole in the cache", "connect to a network"]);
    let said = run(&room, &TRAIN, &[("HF_HUB_OFFLINE", "1")]);
    refused(&said, &["the model hf:some/model", "HF_HUB_OFFLINE forbids the network"]);
    assert!(!said.err.contains("fetching"), "{}", said.err);
    let said = run(&room, &["partition", "--no-svg", "--set", "data.path=hf:some/data@v2"], &[]);
    refused(&said, &["the data set hf:some/data@v2"]);
    // Without its weights a model is not whole.
    cache(&room, "hf/hub", "models--some--model", &model_files()[..1]);
    refused(&run(&room, &TRAIN, &[("HF_HUB_OFFLINE", "1")]), &["not whole"]);
    assert!(!room.path("run").exists());
}

#[test]
fn names_that_are_none_are_refused() {
    let room = room();
    for name in ["foo", "../model", "a/b/c", "a/b@../x", ""] {
        let set = format!("model.path=hf:{name}");
        let said = run(&room, &["train", "--out", "run", "--set", &set], &[]);
        refused(&said, &["`model.path` must be \"hf:org/name\"", "--set model.path"]);
        assert_eq!(said.code, Some(2));
    }
}

/// A Hub of one model; the first `breaks` times it sends only half of the weights.
fn serve(files: Vec<(&'static str, Vec<u8>)>, breaks: usize) -> Server {
    let breaks = AtomicUsize::new(breaks);
    Server::start(move |asked| {
        if asked.is_listing() {
            return Sent::Once(server::listing(asked, &files.iter().map(|(name, _)| *name).collect::<Vec<_>>()));
        }
        let Some((name, bytes)) = asked.file().and_then(|name| files.iter().find(|(of, _)| *of == name)) else {
            return Sent::Once(server::reply(asked, "404 Not Found", "", b""));
        };
        let mut answer = server::file(asked, name, bytes);
        let contents = !asked.head && name.ends_with(".safetensors");
        if contents && breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            answer.truncate(answer.len() - bytes.len() / 2);
        }
        Sent::Once(answer)
    })
}

#[test]
fn a_model_is_fetched_once() {
    let room = room();
    let hub = serve(model_files(), 0);
    let envs = [("HF_ENDPOINT", hub.address.as_str())];
    let said = run(&room, &TRAIN, &envs);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    let asked = hub.asked().len();
    assert!(asked >= 7, "{asked}");
    let snapshot = room.path("hf/hub/models--some--model/snapshots").join(COMMIT);
    for name in FILES {
        assert_eq!(fs::read(snapshot.join(name)).expect(name), fs::read(assets().join(name)).expect(name));
    }
    let again = run(&room, &["train", "--out", "again", "--set", "model.path=hf:some/model"], &envs);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(!again.err.contains("fetching"), "{}", again.err);
    assert_eq!(hub.asked().len(), asked, "the second run asked for the network");
}

#[test]
fn a_set_is_fetched_as_the_hub_lays_it_out() {
    let room = room();
    let row = |label: &str| format!("{{\"sentence\": \"it is {label}\", \"label\": \"{label}\"}}\n");
    let rows = (row("late") + &row("lost")).repeat(4).into_bytes();
    let files = vec![
        ("README.md", b"# A card".to_vec()),
        ("one/train-00000-of-00002.jsonl", rows.clone()),
        ("one/train-00001-of-00002.jsonl", rows.clone()),
        ("one/validation-00000-of-00001.jsonl", rows.clone()),
        ("two/train-00000-of-00001.jsonl", rows),
    ];
    let hub = serve(files, 0);
    let envs = [("HF_ENDPOINT", hub.address.as_str())];
    let said = run(&room, &["partition", "--no-svg", "--set", "data.path=hf:some/model"], &envs);
    refused(&said, &["holds several configurations: one, two", "hf:some/model/one"]);
    let set = ["partition", "--no-svg", "--set", "data.path=hf:some/model/one"];
    let said = run(&room, &set, &envs);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("splits of some/model/one: 16 train, 8 test"), "{}", said.out);
    assert!(said.err.contains("the validation split takes its place"), "{}", said.err);
    assert!(!hub.asked().iter().any(|asked| asked.path.contains("two/") || asked.path.contains("README")));
    let asked = hub.asked().len();
    assert_eq!(run(&room, &set, &envs).code, Some(0));
    assert_eq!(hub.asked().len(), asked, "the second time asked for the network");
}

#[test]
fn a_repository_that_is_not_there_is_said() {
    let room = room();
    let hub = serve(model_files(), 0);
    let said =
        run(&room, &["train", "--out", "run", "--set", "model.path=hf:some/other"], &[("HF_ENDPOINT", &hub.address)]);
    refused(&said, &["fetching the model hf:some/other", "the Hub does not give the model hf:some/other", "HF_TOKEN"]);
}

#[test]
fn pickles_are_not_fetched() {
    let room = room();
    let pickled =
        vec![("config.json", b"{}".to_vec()), ("tokenizer.json", b"{}".to_vec()), ("pytorch_model.bin", vec![1])];
    let hub = serve(pickled, 0);
    let said = run(&room, &TRAIN, &[("HF_ENDPOINT", &hub.address)]);
    refused(&said, &["has no model.safetensors", "pickles, which are not read"]);
    assert_eq!(hub.asked().len(), 1);
}

#[test]
fn a_download_that_breaks_off_is_not_taken_for_whole() {
    let room = room();
    let hub = serve(model_files(), 1);
    let envs = [("HF_ENDPOINT", hub.address.as_str())];
    refused(&run(&room, &TRAIN, &envs), &["model.safetensors of the model hf:some/model"]);
    let repo = room.path("hf/hub/models--some--model");
    assert!(!repo.join("snapshots").join(COMMIT).join("model.safetensors").exists());
    assert!(!repo.join("refs/main").exists());
    refused(&run(&room, &TRAIN, &[("HF_HUB_OFFLINE", "1")]), &["not whole"]);
    // The next run goes on where it broke off.
    let said = run(&room, &TRAIN, &envs);
    assert_eq!(said.code, Some(0), "{said:?}");
    let size = fs::metadata(assets().join("model.safetensors")).expect("there").len() as usize;
    let from: Vec<usize> = hub.asked().iter().filter_map(|asked| asked.from).collect();
    assert!(matches!(from.as_slice(), [from] if (size / 3..size).contains(from)), "{from:?} of {size}");
    let weights = fs::read(repo.join("snapshots").join(COMMIT).join("model.safetensors")).expect("readable");
    assert_eq!(weights, fs::read(assets().join("model.safetensors")).expect("readable"));
}
