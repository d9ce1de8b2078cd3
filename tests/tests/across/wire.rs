//! Short messages: what is forecast is what is counted, and what they cost in accuracy has the size that rounding has.

use bonfire_federation::{Choice, Forecast, RoundMetrics, Settings, forecast};
use bonfire_models::Model;
use bonfire_models::Task;
use bonfire_tests::toy;

/// Three rounds with a section `[wire]`.
fn settings(strategy: &str, wire: &str) -> Settings {
    toy::settings(&format!(
        "{strategy}\n[train]\nrounds = 3\nlr_a = 2e-3\nbatch_size = 4\n[adapter]\nrank = 4\nhead = \"trained\"\n[wire]\n{wire}"
    ))
}

/// What is forecast of it, and the rows of its rounds.
fn told_and_counted(settings: Settings) -> (Forecast, Vec<RoundMetrics>) {
    let info = toy::model(&settings).info().clone();
    let told = forecast(&settings, &info, Task::Classify(toy::CLASSES), Choice::Widest).unwrap();
    (told, toy::finish(&mut toy::run(settings)).0)
}

const STRATEGIES: [&str; 4] = [
    "[strategy]\nname = \"fedit\"",
    "[strategy]\nname = \"lora-a2\"\n[clients]\nbudget = 4",
    "[strategy]\nname = \"replication\"\n[clients]\nbudget = [1, 4, 2, 3]",
    "[strategy]\nname = \"fedlada\"",
];

#[test]
fn a_forecast_counts_short_messages_to_the_byte() {
    for strategy in STRATEGIES {
        for wire in
            ["upload = \"int8\"", "upload = \"int4\"\ndownload = \"int8\"\nhead = \"f32\"", "download = \"bf16\""]
        {
            let (told, rounds) = told_and_counted(settings(strategy, wire));
            let sum = |of: fn(&RoundMetrics) -> u64| rounds.iter().map(of).sum::<u64>();
            assert_eq!(told.upload_bytes, sum(|r| r.upload_bytes), "{strategy} {wire}");
            assert_eq!(told.upload_params, sum(|r| r.upload_params), "{strategy} {wire}");
            assert_eq!(told.download_bytes, sum(|r| r.download_bytes), "{strategy} {wire}");
        }
    }
}

#[test]
fn what_has_no_length_beforehand_is_forecast_from_above() {
    for strategy in STRATEGIES {
        for wire in
            ["upload = \"int8\"\ntop_k = 0.1", "upload = \"int4\"\ndeflate = true", "top_k = 0.02\ndeflate = true"]
        {
            let (told, rounds) = told_and_counted(settings(strategy, wire));
            let bytes: u64 = rounds.iter().map(|r| r.upload_bytes).sum();
            let params: u64 = rounds.iter().map(|r| r.upload_params).sum();
            assert!(
                bytes <= told.upload_bytes && 2 * bytes > told.upload_bytes / 8,
                "{bytes} of {}",
                told.upload_bytes
            );
            assert_eq!(params, told.upload_params, "{strategy} {wire}");
            assert!(
                rounds.iter().all(|r| wire.contains("top_k") == (r.upload_index_bytes > 0) || strategy.contains("a2"))
            );
        }
    }
}

/// The adapter after three rounds, beside that of f32: as far off as the coding is coarse, and no farther.
#[test]
fn coarser_messages_lead_farther_away() {
    let end = |wire: &str| {
        let models = toy::finish(&mut toy::run(settings(STRATEGIES[0], wire))).2;
        models.last().unwrap().adapter.b.iter().flat_map(|m| m.data.clone()).map(f64::from).collect::<Vec<_>>()
    };
    let exact = end("");
    let size = exact.iter().map(|v| v * v).sum::<f64>().sqrt();
    let off = |wire: &str| {
        let found = end(wire);
        found.iter().zip(&exact).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt() / size
    };
    assert_eq!(off("deflate = true"), 0.0);
    let [f16, bf16, int8, int4] =
        ["f16", "bf16", "int8", "int4"].map(|coding| off(&format!("upload = \"{coding}\"\nerror_feedback = false")));
    assert!(f16 > 0.0 && f16 < 2e-3 && bf16 < 2e-2 && f16 < bf16, "{f16} {bf16}");
    assert!(int8 < 5e-2 && int4 < 0.8 && bf16 < int4 && int8 < int4, "{int8} {int4}");
    let down = off("download = \"bf16\"");
    assert!(down > 0.0 && down < 5e-2, "{down}");
}

#[test]
fn what_cannot_go_together_is_refused_by_its_key() {
    let problem =
        |text: &str| toy::settings(text).problem().map(|p| format!("{}: {}", p.key, p.what)).unwrap_or_default();
    for (text, key) in [
        ("[wire]\ntop_k = 0.0", "wire.top_k"),
        ("[wire]\ntop_k = 1.5", "wire.top_k"),
        ("[strategy]\nname = \"fedask\"\n[wire]\nupload = \"int8\"", "wire"),
        ("[strategy]\nname = \"hetlora\"\n[wire]\ndeflate = true", "wire.deflate"),
        ("[strategy]\nname = \"flora\"\n[wire]\nupload = \"int8\"\nerror_feedback = true", "wire.error_feedback"),
        ("[strategy]\nname = \"flora\"\n[wire]\ndownload = \"bf16\"", "wire.download"),
        ("[strategy]\nname = \"fedsa-lora\"\n[wire]\ndownload = \"bf16\"", "wire.download"),
        ("[wire]\nupload = \"bf16\"\n[privacy]\nkind = \"gaussian\"\nclip = 1.0\nnoise = 0.5", "wire"),
    ] {
        assert!(problem(text).starts_with(key), "{text}: {}", problem(text));
    }
    for fine in [
        "[strategy]\nname = \"flora\"\n[wire]\nupload = \"int8\"",
        "[strategy]\nname = \"local\"\n[wire]\nupload = \"int8\"",
        "[wire]\nupload = \"int4\"\n[privacy]\nkind = \"laplace\"\nepsilon = 5.0\nclip = 1.0",
    ] {
        assert_eq!(problem(fine), "", "{fine}");
    }
}
