//! A server for tests of trackers that send: it keeps what it is asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// Path and body of a request.
pub type Asked = (String, Value);

/// Answers on a port of its own to so many requests.
pub struct Fake {
    pub address: String,
    asked: Arc<Mutex<Vec<(String, Asked)>>>,
    thread: JoinHandle<()>,
}

impl Fake {
    /// `answer` gives status and body by the path.
    pub fn on(
        listener: TcpListener,
        requests: usize,
        answer: impl Fn(&str) -> (&'static str, Value) + Send + 'static,
    ) -> Fake {
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<(String, Asked)>>> = Arc::default();
        let kept = Arc::clone(&asked);
        let serve = move || {
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().expect("a caller");
                let (head, asked) = request(&mut stream);
                let (status, said) = answer(&asked.0);
                kept.lock().expect("whole").push((head, asked));
                let said = said.to_string();
                let length = said.len();
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}")
                    .expect("answered");
            }
        };
        Fake { address, asked, thread: thread::spawn(serve) }
    }

    /// What was asked, once all of it has come.
    pub fn asked(self) -> Vec<Asked> {
        self.whole().into_iter().map(|(_, asked)| asked).collect()
    }

    /// The same after the requests' heads, in small letters.
    pub fn whole(self) -> Vec<(String, Asked)> {
        self.thread.join().expect("served");
        Arc::try_unwrap(self.asked).expect("nobody else").into_inner().expect("whole")
    }
}

/// Reads one request.
fn request(stream: &mut TcpStream) -> (String, Asked) {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut part).expect("a request");
        assert!(count > 0, "it broke off");
        bytes.extend(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.expect("a length") {
            let path = head.split(' ').nth(1).expect("a path").to_owned();
            return (head.to_lowercase(), (path, serde_json::from_str(body).expect("JSON")));
        }
    }
}
