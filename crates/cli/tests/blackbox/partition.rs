//! `bonfire partition`: the table, the picture and the row lists.

use std::collections::BTreeSet;

use crate::support::Room;

#[test]
fn the_table_the_picture_and_the_rows_agree() {
    let room = Room::new();
    let all = ["--set", "clients.count=12", "--set", "data.labels=30"];
    let said = room.succeed(&[&["partition", "--json", "rows.json"][..], &all].concat());
    assert!(said.out.lines().next().is_some_and(|line| line.starts_with("client train test")), "{}", said.out);
    assert!(said.out.contains("12 clients, 2400 training texts"), "{}", said.out);
    let svg = room.read("partition.svg");
    assert!(svg.starts_with("<svg") && svg.contains("dirichlet, alpha 0.1"));

    let rows: Vec<Vec<usize>> = serde_json::from_value(room.json("rows.json")).expect("lists of rows");
    let all: BTreeSet<usize> = rows.iter().flatten().copied().collect();
    assert_eq!((rows.len(), all.len()), (12, 2400));
    for (client, shard) in rows.iter().enumerate() {
        let line = said.out.lines().nth(client + 1).expect("a line a client");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[..2], [client.to_string(), shard.len().to_string()]);
    }
}

#[test]
fn the_row_lists_are_a_partition_again() {
    let room = Room::new();
    room.succeed(&["partition", "--no-svg", "--json", "rows.json", "--quiet"]);
    assert!(!room.path("partition.svg").exists());
    let file = "data.partition={ kind = \"file\", path = \"rows.json\" }";
    room.succeed(&["partition", "--no-svg", "--json", "again.json", "--set", file]);
    assert_eq!(room.read("rows.json"), room.read("again.json"));
}

#[test]
fn clients_of_a_column_are_called_by_its_values() {
    let room = Room::new();
    let natural = [
        "--set",
        "data.partition={ kind = \"natural\", column = \"branch\" }",
        "--set",
        "clients.count=20",
        "--set",
        "data.min_shard=1",
    ];
    let said = room.succeed(&[&["partition", "--no-svg", "--set", "data.labels=4"][..], &natural].concat());
    let second: Vec<&str> = said.out.lines().nth(1).expect("a client").split_whitespace().collect();
    assert!(second[0] == "0" && second[1].parse::<usize>().is_err(), "{}", said.out);
    let name = second[1].to_owned();
    room.succeed(
        &[&["train", "--quiet", "--out", "run", "--set", "train.rounds=1", "--set", "data.labels=4"][..], &natural]
            .concat(),
    );
    let clients = room.json("run/partition.json")["clients"].clone();
    assert!(clients.as_array().is_some_and(|names| names.len() == 20), "{clients}");
    assert!(clients[0].as_str().is_some_and(|first| first.starts_with(&name)), "{clients}");
    let few = [&["partition", "--no-svg"][..], &natural[..2], &["--set", "clients.count=3"]].concat();
    room.refuse(2, &["makes 20 clients of its values: ", &name, "clients.count = 20"], &few);
    let slip = ["partition", "--no-svg", "--set", "data.partition={ kind = \"natural\", column = \"brunch\" }"];
    room.refuse(2, &["brunch"], &slip);
}

#[test]
fn few_labels_show_the_whole_matrix() {
    let room = Room::new();
    let said = room.succeed(&["partition", "--svg", "a.svg", "--set", "data.labels=5"]);
    assert!(said.out.contains("0 renew_loan  1 "), "{}", said.out);
    assert!(room.path("a.svg").is_file());
}
