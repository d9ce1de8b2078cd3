//! A Hub of our own, which answers what a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub head: bool,
    pub path: String,
    /// The first byte asked for.
    pub from: Option<usize>,
    pub authorization: Option<String>,
}

impl Asked {
    /// The file that is asked for.
    pub fn file(&self) -> Option<&str> {
        let path = self.path.strip_prefix("/datasets").unwrap_or(&self.path);
        path.strip_prefix(&format!("/some/model/resolve/{COMMIT}/"))
    }

    pub fn is_listing(&self) -> bool {
        ["models", "datasets"].iter().any(|kind| self.path == format!("/api/{kind}/some/model/revision/main"))
    }
}

/// What is sent: all of it, or bytes again and again, with a pause between.
pub enum Sent {
    Once(Vec<u8>),
    Again(Vec<u8>, Vec<u8>, Duration),
}

/// A listening server; it ends with the tests.
pub struct Server {
    pub address: String,
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Answers every request as `answer` says, one request a connection.
    pub fn start(answer: impl Fn(&Asked) -> Sent + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || drop(serve(stream, &log, &*answer)));
            }
        });
        Server { address: format!("http://127.0.0.1:{port}"), port, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Sent) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ');
    let mut asked = Asked { head: words.next() == Some("HEAD"), ..Asked::default() };
    asked.path = words.next().unwrap_or_default().to_owned();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "range" => {
                let first = value.strip_prefix("bytes=").and_then(|rest| rest.split('-').next());
                asked.from = first.and_then(|first| first.parse().ok());
            }
            "authorization" => asked.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    log.lock().expect("not poisoned").push(asked.clone());
    let mut stream = stream;
    match answer(&asked) {
        Sent::Once(bytes) => stream.write_all(&bytes),
        Sent::Again(first, then, pause) => {
            stream.write_all(&first)?;
            loop {
                stream.write_all(&then)?;
                sleep(pause);
            }
        }
    }
}

/// An answer with a body; for HEAD the body is left out and its length told.
pub fn reply(asked: &Asked, status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), if asked.head { &[] } else { body }].concat()
}

/// The listing of these files.
pub fn listing(asked: &Asked, names: &[&str]) -> Vec<u8> {
    let files: Vec<String> = names.iter().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
    let body = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", files.join(", "));
    reply(asked, "200 OK", "Content-Type: application/json\r\n", body.as_bytes())
}

/// The tag of a file as the Hub gives it: of large files the SHA-256.
pub fn tag(name: &str, bytes: &[u8]) -> String {
    if name.ends_with(".safetensors") {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    } else {
        format!("{}-etag", name.replace('/', "-"))
    }
}

/// A file, from where it is asked for.
pub fn file(asked: &Asked, name: &str, bytes: &[u8]) -> Vec<u8> {
    let tags = format!("ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", tag(name, bytes));
    match asked.from {
        None => reply(asked, "200 OK", &tags, bytes),
        Some(from) if from >= bytes.len() => reply(asked, "416 Range Not Satisfiable", "", b""),
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            reply(asked, "206 Partial Content", &format!("{tags}{range}"), &bytes[from..])
        }
    }
}
