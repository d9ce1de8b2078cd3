use std::net::TcpListener;

use super::*;
use crate::summary::tests;
use crate::track::fake_server::Fake;
use crate::track::scalars::COLUMNS;

/// Answers as a tracking server does.
fn server(listener: TcpListener, requests: usize, status: &'static str) -> Fake {
    Fake::on(listener, requests, move |path| match path.trim_start_matches("/api/2.0/mlflow/") {
        "experiments/search" => ("200 OK", json!({})),
        "experiments/create" => ("200 OK", json!({ "experiment_id": "7" })),
        "runs/create" => ("200 OK", json!({ "run": { "info": { "run_id": "abc" } } })),
        _ if status.starts_with("500") => {
            (status, json!({ "error_code": "INTERNAL_ERROR", "message": "the disk is full" }))
        }
        _ => (status, json!({})),
    })
}

fn fake(requests: usize) -> Fake {
    server(TcpListener::bind("127.0.0.1:0").expect("a port"), requests, "200 OK")
}

/// What was asked, by the endpoint's own name.
fn asked(fake: Fake) -> Vec<(String, Value)> {
    let short = |(path, body): (String, Value)| (path.trim_start_matches("/api/2.0/mlflow/").to_owned(), body);
    fake.asked().into_iter().map(short).collect()
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
    let fake = fake(7);
    let mut run = open(folder.path(), &format!("{}/", fake.address), None).expect("begun");
    for (number, loss) in [(1, 2.5), (2, f64::NAN), (3, 1.5)] {
        run.round(&round(number), &scalars(loss));
        run.send();
    }
    run.finish(true);
    let asked = asked(fake);
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
    let fake = fake(4);
    let mut run = open(folder.path(), &fake.address, None).expect("begun");
    let at = fake.address.trim_start_matches("http://").to_owned();
    fake.asked();
    run.round(&round(1), &scalars(3.0));
    run.send();
    // One that cannot write says why.
    let fake = server(TcpListener::bind(&at).expect("the port again"), 1, "500 Internal Server Error");
    run.round(&round(2), &scalars(2.0));
    run.send();
    fake.asked();
    let fake = server(TcpListener::bind(&at).expect("the port again"), 2, "200 OK");
    run.round(&round(3), &scalars(1.0));
    run.send();
    run.finish(false);
    let asked = asked(fake);
    assert_eq!(steps(&asked[0].1), [1, 2, 3]);
    assert_eq!(asked[1].1["status"], "KILLED");
}

#[test]
fn a_run_that_goes_on_is_the_same_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = fake(4 + 2 + 1 + 1 + 1);
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
    let asked = asked(fake);
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
