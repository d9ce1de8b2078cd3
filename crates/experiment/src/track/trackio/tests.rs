use std::net::TcpListener;

use super::*;
use crate::summary::tests;
use crate::track::fake_server::Fake;
use crate::track::scalars::COLUMNS;

/// A server that answers so to so many requests.
fn fake(requests: usize, status: &'static str, said: Value) -> Fake {
    Fake::on(TcpListener::bind("127.0.0.1:0").expect("a port"), requests, move |_| (status, said.clone()))
}

fn takes(requests: usize) -> Fake {
    fake(requests, "200 OK", json!({ "data": null }))
}

fn open(folder: &Path, address: &str, last: Option<usize>) -> Result<Trackio> {
    Trackio::open(folder, &crate::config::load(None, &[]).expect("the quickstart").config, address, last)
}

fn add(run: &mut Trackio, round: usize, loss: f64) {
    let scalars: Vec<Option<f64>> = COLUMNS.iter().map(|column| (column.tag == "train/loss").then_some(loss)).collect();
    run.round(&tests::round(round, 0.5), &scalars);
}

fn logs(asked: &(String, Value)) -> Vec<Value> {
    assert_eq!(asked.0, "/api/bulk_log");
    asked.1["kwargs"]["logs"].as_array().expect("a list").clone()
}

fn steps(asked: &(String, Value)) -> Vec<u64> {
    logs(asked).iter().map(|log| log["step"].as_u64().expect("a step")).collect()
}

#[test]
fn rounds_get_there_as_they_end_the_settings_with_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = takes(3);
    let mut run = open(folder.path(), &format!("{}/", fake.address), None).expect("begun");
    for (round, loss) in [(1, 2.5), (2, f64::NAN)] {
        add(&mut run, round, loss);
        run.send();
    }
    run.finish();
    let asked = fake.asked();
    // First whether it may write.
    assert!(logs(&asked[0]).is_empty());
    let first = &logs(&asked[1])[0];
    assert_eq!((first["metrics"]["train/loss"].as_f64(), first["step"].as_u64()), (Some(2.5), Some(1)));
    assert_eq!((first["project"].as_str(), first["config"]["train.rounds"].as_str()), (Some("bonfire"), Some("10")));
    let second = &logs(&asked[2])[0];
    assert!(second["config"].is_null() && second["metrics"].as_object().expect("an object").is_empty());
    assert!(first["run_id"].as_str().is_some_and(|id| !id.is_empty()) && first["run_id"] == second["run_id"]);
}

#[test]
fn the_token_goes_with_every_request_and_stays_out_of_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = takes(2);
    let mut run = open(folder.path(), &fake.address, None).expect("begun");
    run.token = Some("between-us".into());
    add(&mut run, 1, 3.0);
    run.finish();
    let heads: Vec<String> = fake.whole().into_iter().map(|(head, _)| head).collect();
    assert!(heads[1].contains("x-trackio-write-token: between-us"), "{}", heads[1]);
    let kept = std::fs::read_to_string(folder.path().join(TRACKIO)).expect("kept");
    assert!(kept.contains("\"sent\":1") && !kept.contains("between-us"), "{kept}");
}

#[test]
fn a_server_that_is_away_for_a_while_gets_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = takes(1);
    let mut run = open(folder.path(), &fake.address, None).expect("begun");
    let at = fake.address.trim_start_matches("http://").to_owned();
    fake.asked();
    add(&mut run, 1, 3.0);
    run.send();
    let fake = Fake::on(TcpListener::bind(&at).expect("the port again"), 1, |_| {
        ("500 Internal Server Error", json!({ "error": "the disk is full" }))
    });
    add(&mut run, 2, 2.0);
    run.send();
    fake.asked();
    let fake = Fake::on(TcpListener::bind(&at).expect("the port again"), 1, |_| ("200 OK", json!({ "data": null })));
    add(&mut run, 3, 1.0);
    run.finish();
    assert_eq!(steps(&fake.asked()[0]), [1, 2, 3]);
}

#[test]
fn a_run_that_goes_on_is_the_same_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = takes(1 + 2 + 1 + 1);
    let mut run = open(folder.path(), &fake.address, None).expect("begun");
    for round in 1..=2 {
        add(&mut run, round, 3.0);
        run.send();
    }
    drop(run);
    // Round 2 is trained again.
    let mut run = open(folder.path(), &fake.address, Some(1)).expect("found");
    (1..=2).for_each(|round| add(&mut run, round, 2.0));
    run.finish();
    let asked = fake.asked();
    assert_eq!(steps(&asked[4]), [2]);
    assert_eq!(logs(&asked[4])[0]["run_id"], logs(&asked[1])[0]["run_id"]);
    assert!(logs(&asked[4])[0]["config"].is_null());
}

#[test]
fn a_server_that_does_not_let_us_write_and_an_address_where_nobody_is_are_said_before_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |address: &str, words: &[&str]| {
        let said = crate::user_error::block(&open(folder.path(), address, None).expect_err("refused"));
        assert!(words.iter().all(|word| said.contains(word)) && said.contains("`track.trackio`"), "{said}");
    };
    let away = fake(1, "400 Bad Request", json!({ "error": "A write_token is required" }));
    refused(&away.address, &["A write_token is required", "TRACKIO_WRITE_TOKEN"]);
    let other = fake(1, "200 OK", json!({ "hello": 1 }));
    refused(&other.address, &["what no Trackio does"]);
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    refused(&format!("http://{free}"), &["trackio show"]);
}
