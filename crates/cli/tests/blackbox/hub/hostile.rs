//! A Hub that means harm: nothing outside the cache is written, nothing goes on without end, the token stays at home.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::server::{Asked, Sent, Server, file, listing, reply, tag};
use super::{COMMIT, FILES, TRAIN, command, model_files, refused, room, run};
use crate::support::{Room, Said};

const NEVER: Duration = Duration::from_secs(3600);

/// A Hub that answers as it should, but where `answer` has another answer.
fn hub(answer: impl Fn(&Asked) -> Option<Sent> + Send + Sync + 'static) -> Server {
    let files = model_files();
    Server::start(move |asked| {
        answer(asked).unwrap_or_else(|| {
            if asked.is_listing() {
                return Sent::Once(listing(asked, &FILES));
            }
            let found = asked.file().and_then(|name| files.iter().find(|(of, _)| *of == name));
            Sent::Once(match found {
                Some((name, bytes)) => file(asked, name, bytes),
                None => reply(asked, "404 Not Found", "", b""),
            })
        })
    })
}

/// Trains on what `hub` gives, in a room with something precious; little patience.
fn train(room: &Room, hub: &Server, envs: &[(&str, &str)]) -> Said {
    room.write("precious", "mine");
    let envs = [&[("HF_ENDPOINT", hub.address.as_str()), ("HF_HUB_DOWNLOAD_TIMEOUT", "1")], envs].concat();
    let begin = Instant::now();
    let said = run(room, &TRAIN, &envs);
    assert!(begin.elapsed() < Duration::from_secs(60), "it took {:?}", begin.elapsed());
    assert_eq!(room.read("precious"), "mine");
    said
}

/// Everything below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { below(&path) } else { vec![path] }).collect()
}

/// Nothing of a file whose tag is not taken is anywhere; no blob is larger than `most`.
fn assert_clean(room: &Room, most: u64) {
    let mut all = below(&room.path("."));
    all.retain(|path| !path.starts_with(room.path("./data")));
    for path in all {
        let name = path.strip_prefix(room.path(".")).expect("below").to_string_lossy().into_owned();
        let known = ["precious", "run.toml"].contains(&name.as_str()) || name.starts_with("hf/hub/");
        assert!(known, "{name} was written");
        assert!(!name.contains("/refs/"), "{name}: not whole");
        assert!(fs::symlink_metadata(&path).expect("there").len() <= most, "{name}");
    }
}

#[test]
fn tags_that_are_paths_write_nothing() {
    let victim = room();
    let absolute = victim.path("precious").to_string_lossy().into_owned();
    let tags = [absolute.as_str(), "../../../../../precious", "..", ".hidden", "a/b", "", "a\\b", "C:x"];
    for header in ["ETag", "X-Linked-ETag"] {
        for tag in tags {
            let (header, text) = (header.to_owned(), tag.to_owned());
            let hub = hub(move |asked| {
                let headers = format!("{header}: \"{text}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
                asked.file().map(|_| Sent::Once(reply(asked, "200 OK", &headers, b"harm")))
            });
            let said = train(&victim, &hub, &[]);
            refused(&said, &["config.json of the model hf:some/model is not taken", "etag", "cannot name a file"]);
            assert_clean(&victim, 1000);
        }
    }
}

#[test]
fn commits_that_are_paths_write_nothing() {
    let room = room();
    for commit in ["../../../../x", "/tmp/x", "main"] {
        let commit = commit.to_owned();
        let hub = hub(move |asked| {
            let headers = format!("ETag: \"abc\"\r\nX-Repo-Commit: {commit}\r\n");
            asked.file().map(|_| Sent::Once(reply(asked, "200 OK", &headers, b"harm")))
        });
        refused(&train(&room, &hub, &[]), &["the answer is of commit"]);
        assert_clean(&room, 1000);
    }
    for sha in ["../../x", "/tmp/x", "", "a\\u001b]0;x"] {
        let body = format!("{{\"sha\": \"{sha}\", \"siblings\": [{{\"rfilename\": \"config.json\"}}]}}");
        let hub = hub(move |asked| asked.is_listing().then(|| Sent::Once(reply(asked, "200 OK", "", body.as_bytes()))));
        let said = train(&room, &hub, &[]);
        refused(&said, &["the commit is"]);
        assert!(!said.err.contains('\u{1b}'), "{}", said.err);
        assert_clean(&room, 1000);
    }
}

/// `config.json` announced with so many bytes.
fn announced(asked: &Asked, size: usize) -> Option<Sent> {
    let headers = format!("ETag: \"abc\"\r\nX-Linked-Size: {size}\r\n");
    (asked.head && asked.file() == Some("config.json")).then(|| Sent::Once(reply(asked, "200 OK", &headers, b"")))
}

#[test]
fn no_more_is_read_than_was_announced() {
    let room = room();
    // Without an end, in one piece or in chunks.
    for (transfer, part) in
        [("", "x".repeat(4096)), ("Transfer-Encoding: chunked\r\n", format!("1000\r\n{}\r\n", "x".repeat(4096)))]
    {
        let hub = hub(move |asked| {
            let first = format!("HTTP/1.1 200 OK\r\n{transfer}Connection: close\r\n\r\n").into_bytes();
            let body = || Sent::Again(first.clone(), part.clone().into_bytes(), Duration::ZERO);
            announced(asked, 1000).or_else(|| (asked.file() == Some("config.json")).then(body))
        });
        refused(&train(&room, &hub, &[]), &["config.json of", "more than the 1000 bytes came"]);
        assert_clean(&room, 1001);
    }
    // Another length than announced.
    for length in [999, 5000] {
        let hub = hub(move |asked| {
            let body = || Sent::Once(reply(asked, "200 OK", "", &vec![b'x'; length]));
            announced(asked, 1000).or_else(|| (asked.file() == Some("config.json")).then(body))
        });
        refused(&train(&room, &hub, &[]), &[&format!("the Hub tells of 1000 bytes, and then of {length}")]);
        assert_clean(&room, 1001);
    }
    // Fewer bytes than there are said to be.
    let hub = hub(|asked| {
        let body = || Sent::Once(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nxxx".to_vec());
        announced(asked, 1000).or_else(|| (asked.file() == Some("config.json")).then(body))
    });
    refused(&train(&room, &hub, &[]), &["config.json of", "3 of 1000 bytes"]);
    assert_clean(&room, 1000);
}

#[test]
fn contents_that_are_not_what_their_checksum_says_are_dropped() {
    let room = room();
    let hub = hub(|asked| {
        let weights = model_files()[1].1.clone();
        let wrong = move || {
            let tag = tag("model.safetensors", &weights);
            let mut bytes = weights;
            bytes[100] ^= 1;
            Sent::Once(reply(asked, "200 OK", &format!("ETag: \"{tag}\"\r\n"), &bytes))
        };
        (asked.file() == Some("model.safetensors")).then(wrong)
    });
    refused(&train(&room, &hub, &[]), &["model.safetensors of", "it came with the SHA-256", "try again"]);
    let blobs = below(&room.path("hf/hub/models--some--model/blobs"));
    assert_eq!(blobs.len(), 2, "configuration and tokenizer alone: {blobs:?}");
}

#[test]
fn redirects_have_an_end() {
    let room = room();
    let around = hub(|asked| {
        let next = format!("Location: {}x\r\n", asked.path);
        (asked.file().is_some()).then(|| Sent::Once(reply(asked, "302 Found", &next, b"")))
    });
    refused(&train(&room, &around, &[]), &["from one place to the next, more than 5 times"]);
    assert!(around.asked().len() < 10, "{}", around.asked().len());
    let nowhere = hub(|asked| asked.file().map(|_| Sent::Once(reply(asked, "302 Found", "", b""))));
    refused(&train(&room, &nowhere, &[]), &["answers 302 and does not say where to"]);
    for location in ["file:///etc/passwd", "gopher://x/", "http://", "http://u:hunter2@h/"] {
        let hub = hub(move |asked| {
            let next = format!("ETag: \"abc\"\r\nLocation: {location}\r\n");
            asked.file().map(|_| Sent::Once(reply(asked, "302 Found", &next, b"")))
        });
        let said = train(&room, &hub, &[]);
        refused(&said, &["leads to another place, but"]);
        assert!(!said.err.contains("hunter2"), "{}", said.err);
    }
    assert_clean(&room, 1000);
}

#[test]
fn the_token_stays_with_the_endpoint() {
    let room = room();
    let files = model_files();
    // As the real Hub does: the weights lie elsewhere.
    let hub = hub(move |asked| {
        let weights = &files[1].1;
        if let Some(port) = asked.path.strip_prefix("/elsewhere/") {
            assert!(port.parse::<u16>().is_ok());
            return Some(Sent::Once(file(asked, "model.safetensors", weights)));
        }
        let port = asked.authorization.as_deref()?.strip_prefix("Bearer hf_secret")?;
        let headers = format!(
            "X-Linked-ETag: \"{}\"\r\nX-Linked-Size: {}\r\nLocation: http://localhost:{port}/elsewhere/{port}\r\n",
            tag("model.safetensors", weights),
            weights.len()
        );
        (asked.file() == Some("model.safetensors")).then(|| Sent::Once(reply(asked, "302 Found", &headers, b"moved")))
    });
    // The server learns its own port from the token.
    let token = format!("hf_secret{}", hub.port);
    let said = train(&room, &hub, &[("HF_TOKEN", &token)]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let (away, home): (Vec<Asked>, Vec<Asked>) =
        hub.asked().into_iter().partition(|asked| asked.path.starts_with("/elsewhere"));
    assert!(!away.is_empty() && away.iter().all(|asked| asked.authorization.is_none()), "{away:?}");
    assert!(home.iter().all(|asked| asked.authorization.as_deref() == Some(&format!("Bearer {token}"))), "{home:?}");
    for path in below(&room.path(".")) {
        let bytes = fs::read(&path).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("hf_secret"), "{}", path.display());
    }
    fs::remove_dir_all(room.path("run")).expect("removed");
    // From the file that logging in writes, and from where HF_TOKEN_PATH says.
    fs::write(room.path("token"), "hf_other\n").expect("written");
    let elsewhere = room.path("token").to_string_lossy().into_owned();
    let hub = serve_nothing();
    train(&room, &hub, &[("HF_TOKEN_PATH", &elsewhere), ("HF_HUB_CACHE", "empty")]);
    assert_eq!(hub.asked()[0].authorization.as_deref(), Some("Bearer hf_other"));
    let said = train(&room, &hub, &[("HF_TOKEN", "hf\u{1b}]0;x"), ("HF_HUB_CACHE", "empty")]);
    refused(&said, &["HF_TOKEN holds no token of the Hub"]);
}

fn serve_nothing() -> Server {
    hub(|asked| Some(Sent::Once(reply(asked, "404 Not Found", "", b""))))
}

#[test]
fn nobody_is_waited_for_without_end() {
    let room = room();
    let begins = |text: &str| text.as_bytes().to_vec();
    // Silence, headers byte by byte, a listing and contents byte by byte.
    let silent = hub(|_| Some(Sent::Again(Vec::new(), Vec::new(), NEVER)));
    refused(&train(&room, &silent, &[]), &["timeout"]);
    let headers =
        hub(|_| Some(Sent::Again(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), b"x".to_vec(), Duration::from_millis(200))));
    refused(&train(&room, &headers, &[]), &["timeout"]);
    let list = hub(move |asked| {
        let body = || Sent::Again(begins("HTTP/1.1 200 OK\r\n\r\n"), b" ".to_vec(), Duration::from_millis(200));
        asked.is_listing().then(body)
    });
    refused(&train(&room, &list, &[]), &["the list of files comes too slowly"]);
    let contents = hub(move |asked| {
        let first = begins("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        let body = || Sent::Again(first, b" ".to_vec(), Duration::from_millis(200));
        announced(asked, 1000).or_else(|| (asked.file() == Some("config.json")).then(body))
    });
    refused(&train(&room, &contents, &[]), &["config.json of", "too slow"]);
    assert_clean(&room, 1000);
}

#[test]
fn a_listing_is_bounded_whatever_it_is() {
    let room = room();
    let endless = hub(|asked| {
        let first = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        asked.is_listing().then(|| Sent::Again(first, vec![b' '; 65536], Duration::ZERO))
    });
    refused(&train(&room, &endless, &[]), &["list of files has more than"]);
    // A deflate bomb's beginning: it is not unpacked at all.
    let packed = hub(|asked| {
        let body = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xec, 0xc1];
        asked.is_listing().then(|| Sent::Once(reply(asked, "200 OK", "Content-Encoding: gzip\r\n", &body)))
    });
    refused(&train(&room, &packed, &[]), &["list of files cannot be read"]);
    assert_clean(&room, 1000);
}

#[test]
fn what_other_clients_left_is_used() {
    let room = room();
    let files = model_files();
    let (weights, tokenizer) = (&files[1].1, &files[2].1);
    let blobs = room.path("hf/hub/models--some--model/blobs");
    fs::create_dir_all(&blobs).expect("made");
    // A beginning, as Python's client leaves it, and a whole file that no commit names yet.
    let tag = tag("model.safetensors", weights);
    fs::write(blobs.join(format!("{tag}.incomplete")), &weights[..1000]).expect("written");
    fs::write(blobs.join("tokenizer.json-etag"), tokenizer).expect("written");
    let server = hub(|_| None);
    let said = train(&room, &server, &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let asked = server.asked();
    let of = |name: &str| asked.iter().filter(|asked| !asked.head && asked.file() == Some(name)).collect::<Vec<_>>();
    assert_eq!(of("model.safetensors").iter().map(|asked| asked.from).collect::<Vec<_>>(), [Some(1000)]);
    assert!(of("tokenizer.json").is_empty());
    let snapshot = room.path("hf/hub/models--some--model/snapshots").join(COMMIT);
    assert_eq!(&fs::read(snapshot.join("model.safetensors")).expect("there"), weights);
    assert_eq!(fs::canonicalize(snapshot.join("model.safetensors")).ok(), fs::canonicalize(blobs.join(&tag)).ok());
    // A beginning of something else does no harm for longer than one try.
    let other = super::room();
    let blobs = other.path("hf/hub/models--some--model/blobs");
    fs::create_dir_all(&blobs).expect("made");
    fs::write(blobs.join(format!("{tag}.incomplete")), [7; 1000]).expect("written");
    refused(&train(&other, &server, &[]), &["it came with the SHA-256"]);
    assert_eq!(train(&other, &server, &[]).code, Some(0));
}

#[cfg(unix)]
#[test]
fn one_signal_ends_a_download() {
    use std::process::{Command, Stdio};
    for signal in ["-TERM", "-INT"] {
        let room = room();
        let hub = hub(|_| Some(Sent::Again(Vec::new(), Vec::new(), NEVER)));
        let args = ["train", "run.toml", "--out", "run", "--set", "model.path=hf:some/model"];
        let mut command = command(&room, &args, &[("HF_ENDPOINT", &hub.address)]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let begin = Instant::now();
        while hub.asked().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it never asks");
            std::thread::sleep(Duration::from_millis(10));
        }
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill is there");
        assert!(sent.success());
        let (begin, said) = (Instant::now(), Said::from(child.wait_with_output().expect("it ends")));
        assert!(begin.elapsed() < Duration::from_secs(20), "{said:?}");
        assert_eq!(said.code, Some(if signal == "-TERM" { 143 } else { 130 }), "{said:?}");
        assert!(said.err.contains("abandoned before the run began"), "{}", said.err);
        assert!(!room.path("run").exists());
    }
}
