//! What is counted as sent, on RoBERTa-base's shape: against the totals of the LoRA-A² paper (table 1) and its
//! bounds. No weights are needed: the model here has the shapes and a loss that touches every adapter.

use bonfire_data::Shards;
use bonfire_engine::{Split, TokenizedData};
use bonfire_federation::{Choice, Event, RoundMetrics, Run, forecast};
use bonfire_models::{
    Adapter, ClientAdapter, DeviceBatch, HeadTensor, Matrix, Model, ModelInfo, NamedWeight, Target, TargetKind, Task,
};
use bonfire_tests::toy;
use burn::tensor::{Device, Tensor};
use std::ops::ControlFlow;

/// RoBERTa-base's shapes without its weights.
#[derive(Clone)]
struct Shapes {
    info: ModelInfo,
    targets: Vec<Target>,
    head: Vec<HeadTensor>,
    device: Device,
}

fn roberta_base() -> Shapes {
    let json = br#"{"model_type":"roberta","hidden_size":768,"num_hidden_layers":12,"num_attention_heads":12,
        "intermediate_size":3072,"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1,"pad_token_id":1}"#;
    let info = ModelInfo::parse(json, "config.json").unwrap();
    let targets = info.targets(&TargetKind::all());
    let head = vec![HeadTensor { name: "classifier.out_proj.weight".into(), value: Matrix::zeros(768, 77) }];
    Shapes { info, targets, head, device: bonfire_tests::device().autodiff() }
}

impl Model for Shapes {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn device(&self) -> &Device {
        &self.device
    }
    fn targets(&self) -> &[Target] {
        &self.targets
    }
    fn head(&self) -> &[HeadTensor] {
        &self.head
    }
    fn task(&self) -> Task {
        Task::Classify(77)
    }
    fn folded(&self, _: &Adapter) -> Box<dyn Model> {
        Box::new(self.clone())
    }
    fn noisy(&self, _: &Adapter, _: &mut dyn FnMut(usize) -> Vec<f32>) -> Box<dyn Model> {
        Box::new(self.clone())
    }
    fn weights(&self) -> Vec<NamedWeight> {
        Vec::new()
    }
    fn pooler(&self) -> Vec<NamedWeight> {
        Vec::new()
    }
    fn with_weights(&self, _: Vec<Tensor<2>>, _: bool) -> Box<dyn Model> {
        Box::new(self.clone())
    }
    fn layer_states(&self, _: &ClientAdapter, _: &DeviceBatch) -> Vec<Tensor<2>> {
        Vec::new()
    }
    fn logits(&self, _: &ClientAdapter, batch: &DeviceBatch) -> Tensor<2> {
        Tensor::zeros([batch.client_sequences.rows(), 77], &self.device)
    }
    /// A sum over every adapter of the client: `[C]`.
    fn loss(&self, adapter: &ClientAdapter, batch: &DeviceBatch) -> Tensor<1> {
        let clients = batch.client_sequences.len();
        let sum = |t: &Tensor<3>| t.clone().sum_dim(2).sum_dim(1).squeeze_dim::<2>(2).squeeze_dim::<1>(1);
        let updates = adapter.updates.iter().flatten();
        let parts = updates.flat_map(|u| [sum(&u.a), sum(&u.b)]).chain(adapter.head.iter().map(sum));
        parts.fold(Tensor::zeros([clients], &self.device), |x, y| x + y)
    }
}

/// Two rounds of two clients; the paper's run is 50 rounds of 30.
fn rounds(text: &str) -> Vec<RoundMetrics> {
    let data = TokenizedData {
        train: toy::texts(8, 1),
        validation: Split::default(),
        test: Split::default(),
        task: Task::Classify(77),
        triggered: None,
    };
    let shards = Shards { train: vec![(0..4).collect(), (4..8).collect()], test: vec![vec![], vec![]] };
    let settings = toy::settings(&format!("{text}\n[train]\nrounds = 2"));
    let mut run = Run::new(settings, vec![Box::new(roberta_base())], data, shards).unwrap();
    let mut rows = Vec::new();
    run.train(&mut |event| {
        if let Event::RoundEnded { metrics, .. } = event {
            rows.push(metrics.clone());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// Uploaded scalars of the paper's whole run.
fn whole_run(rows: &[RoundMetrics]) -> u64 {
    rows.iter().map(|r| r.upload_params).sum::<u64>() * 1500 / 4
}

const CLIENTS: &str = "[clients]\ncount = 2";

#[test]
fn full_fine_tuning_and_lora_match_table_1() {
    assert_eq!(roberta_base().info.backbone_params() * 1500, 186_082_560_000);
    for (rank, total) in [(8, 1_990_656_000u64), (4, 995_328_000), (2, 497_664_000), (1, 248_832_000)] {
        let rounds_of =
            |name: &str| rounds(&format!("{CLIENTS}\n[adapter]\nrank = {rank}\n[strategy]\nname = \"{name}\""));
        let fedit = rounds_of("fedit");
        assert_eq!(whole_run(&fedit), total, "FL+LoRA at rank {rank}");
        assert_eq!(whole_run(&rounds_of("ffa-lora")), total / 2, "FFA-LoRA at rank {rank}");
        assert_eq!(whole_run(&rounds_of("rolora")), total / 2, "RoLoRA at rank {rank}");
        assert_eq!(fedit[0].upload_bytes, 2 * (20 + 4 * 165_888 * rank), "a header of 20 bytes and f32 numbers");
        assert_eq!(fedit[0].upload_index_bytes, 0);
    }
}

#[test]
fn lora_a2_stays_within_its_bounds() {
    for (budget, low, high) in [(1u64, 0.083, 0.332), (2, 0.166, 0.664), (4, 0.332, 0.995), (8, 0.664, 1.327)] {
        let rows =
            rounds(&format!("{CLIENTS}\nbudget = {budget}\n[adapter]\nrank = 16\n[strategy]\nname = \"lora-a2\""));
        let total = whole_run(&rows) as f64 / 1e9;
        assert!((low - 5e-4..=high + 5e-4).contains(&total), "budget {budget}: {total} B, bounds {low} to {high} B");
        for row in &rows {
            assert_eq!(row.upload_index_bytes, 2 * 72 * 16 / 8, "one bit for each slot and client");
            assert_eq!(row.upload_bytes, 2 * 20 + row.upload_index_bytes + 4 * row.upload_params);
        }
    }
}

#[test]
fn downloads_hold_what_changed_and_nothing_else() {
    let rows = rounds(&format!("{CLIENTS}\n[adapter]\nrank = 16\n[strategy]\nname = \"lora-a2\""));
    let factor = 82_944 * 16;
    assert_eq!(rows[0].download_params, 2 * factor, "round 1 sends A; B is known to be zero");
    assert_eq!(rows[1].download_params, 2 * factor, "round 2 sends the B of round 1");
    let rows = rounds(&format!("{CLIENTS}\n[adapter]\nrank = 16\nhead = \"trained\"\n[strategy]\nname = \"fedit\""));
    assert_eq!(rows[1].download_params, 2 * (2 * factor + 768 * 77), "both factors and the head");
    assert_eq!(rows[1].download_bytes, 2 * 12 + 4 * rows[1].download_params);
    assert_eq!(rows[1].upload_head_params, 2 * 768 * 77);
}

/// Billions of uploaded scalars of the paper's run of 50 rounds and 30 clients, from shapes alone.
fn forecast_of(name: &str, rank: usize, budget: &str, choice: Choice) -> u64 {
    let text = format!(
        "[clients]\ncount = 30\nbudget = {budget}\n[adapter]\nrank = {rank}\n[train]\nrounds = 50\n[strategy]\nname = \"{name}\""
    );
    forecast(&toy::settings(&text), &roberta_base().info, Task::Classify(77), choice).unwrap().upload_params
}

#[test]
fn a_forecast_reproduces_the_papers_totals_to_the_digit() {
    let whole = |name, rank| forecast_of(name, rank, "\"full\"", Choice::Widest);
    assert_eq!(whole("full", 8), 186_082_560_000);
    for (rank, total) in [(8, 1_990_656_000u64), (4, 995_328_000), (2, 497_664_000), (1, 248_832_000)] {
        for name in ["fedit", "flexlora", "flora"] {
            assert_eq!(whole(name, rank), total, "{name} at rank {rank}");
        }
        for name in ["ffa-lora", "rolora", "fedsvd"] {
            assert_eq!(whole(name, rank), total / 2, "{name} at rank {rank}");
        }
    }
    for (budget, low, high) in [
        (1, 82_944_000u64, 331_776_000u64),
        (2, 165_888_000, 663_552_000),
        (4, 331_776_000, 995_328_000),
        (8, 663_552_000, 1_327_104_000),
    ] {
        let forecast_for = |choice| forecast_of("lora-a2", 16, &budget.to_string(), choice);
        assert_eq!((forecast_for(Choice::Narrowest), forecast_for(Choice::Widest)), (low, high), "budget {budget}");
    }
    // Table 8: what rank-heterogeneous clients send follows from the sum of their ranks.
    for (name, rank, total) in [("uniform", 32, 372u64), ("heavy-tail", 16, 128), ("normal", 16, 161)] {
        assert_eq!(forecast_of("hetlora", rank, &format!("\"{name}\""), Choice::Widest), 50 * 165_888 * total);
    }
}
