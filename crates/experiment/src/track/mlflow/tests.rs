use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::*;
use crate::summary::tests;

/// Answers as a tracking server does, on a port of its own, to so many requests; keeps what was asked.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    thread: JoinHandle<()>,
}

impl Fake {
    fn new(requests: usize, status: &'static str) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Fake::on(listener, requests, status)
    }

    fn on(listener: TcpListener, requests: usize, status: &'static str) -> Fake {
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let kept = Arc::clone(&asked);
        let serve = move || {
            for _ in 0..requests {
                let (stream, _) = listener.accept().expect("a caller");
                answer(stream, status, &kept);
            }
        };
        Fake { address, asked, thread: thread::spawn(serve) }
    }

    /// What was asked, once all of it has come.
    fn asked(self) -> Vec<(String, Value)> {
        self.thread.join().expect("served");
        Arc::try_unwrap(self.asked).expect("nobody else").into_inner().expect("whole")
    }
}

/// Reads one request and closes the connection after the answer.
fn answer(mut stream: TcpStream, status: &str, asked: &Mutex<Vec<(String, Value)>>) {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let count = stream.read(&mut part).expect("a request");
        assert!(count > 0, "it broke off");
        bytes.extend(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.expect("a length") {
            break (head.to_owned(), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1).expect("a path").trim_start_matches("/api/2.0/mlflow/").to_owned();
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let said = match path.as_str() {
        "experiments/search" => json!({}),
        "experiments/create" => json!({ "experiment_id": "7" }),
        "runs/create" => json!({ "run": { "info": { "run_id": "abc" } } }),
        _ if status.starts_with("500") => json!({ "error_code": "INTERNAL_ERROR", "message": "the disk is full" }),
        _ => json!({}),
    };
    let status = if path.contains("create") || path.contains("search") { "200 OK" } else { status };
    asked.lock().expect("whole").push((path, body));
    let said = said.to_string();
    let length = said.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}")
        .expect("answered");
}

fn config() -> RunConfig {
    crate::config::load(None, &[]).expect("the quickstart").config
}

fn open(folder: &Path, address: &str, last: Option<usize>) -> Result<Mlflow> {
    Mlflow::open(folder, &config(), address, last)
}

fn round(number: usize) -> RoundMetrics {
    tests::round(number, 0.5)
}

fn scalars(loss: f64) -> Vec<Option<f64>> {
    COLUMNS.iter().map(|column| (column.tag == "train/loss").then_some(loss)).collect()
}

fn steps(batch: &Value) -> Vec<u64> {
    batch["metrics"]
        .as_array()
        .expect("metrics")
        .iter()
        .map(|metric| metric["step"].as_u64().expect("a step"))
        .collect()
}

#[test]
fn rounds_get_there_as_they_end() {
    let folder = tempfile::tempdir().expect("a folder");
    // Search, create, create, parameters, two rounds, the end.
    let fake = Fake::new(7, "200 OK");
    let mut run = open(folder.path(), &format!("{}/", fake.address), None).expect("begun");
    for (number, loss) in [(1, 2.5), (2, f64::NAN), (3, 1.5)] {
        run.round(&round(number), &scalars(loss));
        run.send();
    }
    run.finish(true);
    let asked = fake.asked();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    let batch = "runs/log-batch";
    let begun = ["experiments/search", "experiments/create", "runs/create", batch];
    assert_eq!(paths, [&begun[..], &[batch, batch, "runs/update"]].concat());
    assert_eq!((asked[1].1["name"].as_str(), asked[2].1["experiment_id"].as_str()), (Some("bonfire"), Some("7")));
    let params = asked[3].1["params"].as_array().expect("parameters");
    let rounds = params.iter().find(|param| param["key"] == "train.rounds").expect("every setting");
    assert_eq!((asked[3].1["run_id"].as_str(), rounds["value"].as_str()), (Some("abc"), Some("10")));
    // What is no number is left out, and a round of nothing is not sent.
    let sent = &asked[4].1["metrics"][0];
    assert_eq!(
        (sent["key"].as_str(), sent["value"].as_f64(), sent["step"].as_u64()),
        (Some("train/loss"), Some(2.5), Some(1))
    );
    assert_eq!(steps(&asked[5].1), [3]);
    assert_eq!(asked[6].1["status"], "FINISHED");
}

#[test]
fn a_server_that_is_away_for_a_while_gets_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = Fake::new(4, "200 OK");
    let mut run = open(folder.path(), &fake.address, None).expect("begun");
    let at = fake.address.trim_start_matches("http://").to_owned();
    fake.asked();
    run.round(&round(1), &scalars(3.0));
    run.send();
    // One that cannot write says why.
    let fake = Fake::on(TcpListener::bind(&at).expect("the port again"), 1, "500 Internal Server Error");
    run.round(&round(2), &scalars(2.0));
    run.send();
    fake.asked();
    let fake = Fake::on(TcpListener::bind(&at).expect("the port again"), 2, "200 OK");
    run.round(&round(3), &scalars(1.0));
    run.send();
    run.finish(false);
    let asked = fake.asked();
    assert_eq!(steps(&asked[0].1), [1, 2, 3]);
    assert_eq!(asked[1].1["status"], "KILLED");
}

#[test]
fn a_run_that_goes_on_is_the_same_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = Fake::new(4 + 2 + 1 + 1 + 1, "200 OK");
    let mut run = open(folder.path(), &fake.address, None).expect("begun");
    for number in 1..=2 {
        run.round(&round(number), &scalars(3.0));
        run.send();
    }
    drop(run);
    // Round 2 is trained again.
    let mut run = open(folder.path(), &fake.address, Some(1)).expect("found");
    for number in 1..=2 {
        run.round(&round(number), &scalars(2.0));
    }
    run.send();
    run.finish(true);
    let asked = fake.asked();
    assert_eq!((asked[6].0.as_str(), asked[6].1["status"].as_str()), ("runs/update", Some("RUNNING")));
    assert_eq!(asked[6].1["run_id"], "abc");
    assert_eq!(steps(&asked[7].1), [2]);
}

#[test]
fn an_address_where_nobody_is_is_said_before_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let said = open(folder.path(), &format!("http://{free}"), None).expect_err("nobody");
    let said = crate::user_error::block(&said);
    assert!(
        said.contains("`track.mlflow`") && said.contains(&free.to_string()) && said.contains("mlflow server"),
        "{said}"
    );
}
