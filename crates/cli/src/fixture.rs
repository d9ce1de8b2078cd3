//! A round's row for tests of what shows one.

use bonfire_federation::RoundMetrics;

/// A round of a classifier with this accuracy.
pub fn round(round: usize, accuracy: f64) -> RoundMetrics {
    let row = format!(
        r#"{{"round": {round}, "phase": "B", "train_loss": 1.0, "test_loss": 1.0, "test_accuracy": {accuracy},
        "upload_params": 20, "upload_head_params": 0, "upload_index_bytes": 4, "upload_bytes": 100, "download_params": 30,
        "download_bytes": 120, "in_flight": 2, "seconds": 2.0, "train_seconds": 1.5, "tokens": 300}}"#
    );
    serde_json::from_str(&row).expect("a row")
}
