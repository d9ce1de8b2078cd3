//! The files and folders of a run, by name.

/// The configuration of the run, all defaults written out.
pub const CONFIG: &str = "config.toml";
/// A JSON line a round.
pub const METRICS: &str = "metrics.jsonl";
/// A JSON line for each upload.
pub const ROWS_OF_CLIENTS: &str = "clients.jsonl";
/// Held by the process that writes a folder.
pub(super) const LOCK: &str = ".lock";
/// The global adapter in PEFT layout.
pub const ADAPTER: &str = "adapter";
/// The adapter of the best round, where `evaluate.best` asks for one.
pub const BEST_ADAPTER: &str = "adapter-best";
/// In place of an adapter the fine-tuned model in Hugging Face layout, where every weight trained.
pub const MODEL: &str = "model";
/// The model of the best round, likewise.
pub const BEST_MODEL: &str = "model-best";
/// Where clients keep a part of the model for themselves: their own adapters in PEFT layout, a folder a client.
pub const CLIENTS: &str = "clients";
/// The clients' own adapters of the best round, likewise.
pub const BEST_CLIENTS: &str = "clients-best";
/// The run in one object.
pub const SUMMARY: &str = "summary.json";
/// What the model of the last evaluation took for what.
pub const CLASSES: &str = "classes.json";
/// How many examples of each label every client holds.
pub const PARTITION: &str = "partition.json";
/// The labels' names, which the server of a federation across machines leaves: it sees no partition.
pub const LABELS: &str = "labels.json";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// What the run said.
pub const LOG: &str = "run.log";
/// The file of `track.csv`.
pub const CSV: &str = "metrics.csv";
/// The folder of `track.tensorboard`.
pub const TENSORBOARD: &str = "tensorboard";
/// The folder of `track.wandb`.
pub const WANDB: &str = "wandb";
/// Which run of an MLflow server it is, with `track.mlflow`.
pub const MLFLOW: &str = "mlflow.json";
/// Which run of a Trackio server it is, with `track.trackio`.
pub const TRACKIO: &str = "trackio.json";

/// All of them.
pub(super) const ALL: [&str; 21] = [
    CONFIG,
    METRICS,
    ROWS_OF_CLIENTS,
    LOCK,
    ADAPTER,
    BEST_ADAPTER,
    MODEL,
    BEST_MODEL,
    CLIENTS,
    BEST_CLIENTS,
    SUMMARY,
    PARTITION,
    LABELS,
    CLASSES,
    CHECKPOINTS,
    LOG,
    CSV,
    TENSORBOARD,
    WANDB,
    MLFLOW,
    TRACKIO,
];
