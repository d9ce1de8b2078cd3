//! Speeds of devices that a benchmark has measured, in place of the `"bench:FILE"` that names it. The run's own configuration holds
//! the numbers.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use toml::Value;

use super::document::Document;
use super::key::path_of;
use crate::user_error::UserError;

/// What names a file of a benchmark.
const BENCH: &str = "bench:";

/// Of `bonfire bench round --json FILE`, what is read here.
#[derive(Deserialize)]
struct Bench {
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    round: Option<Round>,
}

#[derive(Deserialize)]
struct Round {
    in_flight: usize,
    rounds: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    warm_up: bool,
    tokens: u64,
    probe_seconds: f64,
    train_seconds: f64,
}

/// Puts what was measured in the place of every `"bench:FILE"` in `clients.devices`.
///
/// # Errors
/// A file that is not there, or none that a benchmark of rounds with one client wrote.
pub fn fill_in(document: &mut Document) -> Result<(), UserError> {
    let place = document.place_of(&path_of("clients.devices"));
    let kinds = document.table.get_mut("clients").and_then(|clients| clients.get_mut("devices"));
    for kind in kinds.and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(speed) = kind.get_mut("tokens_per_second") else { continue };
        let Some(text) = speed.as_str() else { continue };
        let file = text.strip_prefix(BENCH).ok_or_else(|| {
            UserError::new(format!("`clients.devices`: tokens_per_second = \"{text}\"")).at(Some(place.clone())).help(
                "give a number, or \"bench:FILE\" with a file that `bonfire bench round --clients 1 --json FILE` wrote",
            )
        })?;
        *speed = Value::Float(read(Path::new(file)).map_err(|error| error.at(Some(place.clone())))?);
    }
    Ok(())
}

/// Tokens a second of a client's training, probe included, over all rounds but those that warm up.
fn read(path: &Path) -> Result<f64, UserError> {
    let wrong = |what: String| {
        UserError::new(format!("`clients.devices`: {} {what}", path.display()))
            .help("on such a device: bonfire bench round --clients 1 --json FILE")
    };
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let bench: Bench = serde_json::from_str(&text).map_err(|error| wrong(format!("is no benchmark's: {error}")))?;
    let rounds: Vec<Round> = bench.devices.into_iter().filter_map(|device| device.round).collect();
    let [round] = &rounds[..] else {
        return Err(wrong(format!("holds rounds of {} devices; it must be one", rounds.len())));
    };
    if round.in_flight != 1 {
        let what = format!("was measured with {} clients at once, and a device trains its own", round.in_flight);
        return Err(wrong(what));
    }
    let timed = round.rounds.iter().filter(|row| !row.warm_up);
    let (tokens, seconds) = timed.fold((0, 0.0), |(tokens, seconds), row| {
        (tokens + row.tokens, seconds + row.probe_seconds + row.train_seconds)
    });
    let speed = tokens as f64 / seconds;
    if speed.is_finite() && speed > 0.0 { Ok(speed) } else { Err(wrong("holds no round that was timed".into())) }
}

#[cfg(test)]
mod tests {
    use crate::config::load::parse;
    use crate::config::run_config::QUICKSTART;

    fn speed(bench: &str) -> Result<f64, String> {
        let file = std::env::temp_dir().join(format!("bonfire-measured-{}.json", std::process::id()));
        std::fs::write(&file, bench).expect("written");
        let kinds = format!("[[clients.devices]]\ntokens_per_second = \"bench:{}\"\n", file.display());
        let found = parse("a.toml", &format!("{QUICKSTART}\n{kinds}"), &[]);
        std::fs::remove_file(&file).expect("removed");
        found.map(|loaded| loaded.config.clients.devices[0].tokens_per_second).map_err(|error| error.to_string())
    }

    #[test]
    fn a_benchmark_of_one_client_tells_a_devices_speed() {
        let row = |warm: bool, tokens: u64| {
            format!(r#"{{"warm_up":{warm},"tokens":{tokens},"seconds":9.0,"probe_seconds":0.5,"train_seconds":1.5}}"#)
        };
        let of = |in_flight: usize, rows: &[String]| {
            format!(r#"{{"devices":[{{"round":{{"in_flight":{in_flight},"rounds":[{}]}}}}]}}"#, rows.join(","))
        };
        // 1000 and 3000 tokens in 2 s each; the first only warms up.
        assert_eq!(speed(&of(1, &[row(true, 7), row(false, 1000), row(false, 3000)])), Ok(1000.0));
        let refused = |bench: &str, words: &str| {
            let said = speed(bench).expect_err(words);
            assert!(said.contains(words), "{said}");
        };
        refused(&of(8, &[row(false, 1000)]), "measured with 8 clients at once");
        refused(&of(1, &[row(true, 1000)]), "no round that was timed");
        refused(r#"{"devices":[{}]}"#, "holds rounds of 0 devices");
        refused("{}", "is no benchmark's");
    }
}
