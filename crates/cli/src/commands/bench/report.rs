//! Everything a benchmark found, as one JSON object with what the machine is.

use serde::Serialize;

use super::args::BenchArgs;
use super::ceiling::CeilingReport;
use super::chart::{Panel, draw};
use super::gemm::GemmReport;
use super::kernels::KernelsReport;
use super::round::RoundReport;
use super::scale::ScaleReport;
use super::step::StepReport;

/// The version of Burn that this program is built with.
pub const BURN: &str = "0.22.1";

/// The whole of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub bonfire: &'static str,
    /// Version of Burn.
    pub burn: &'static str,
    /// The command line, without the program's path.
    pub command: Vec<String>,
    /// What it was run on.
    pub machine: Machine,
    /// Every option with its value.
    pub options: BenchArgs,
    /// The model's sizes.
    pub model: ModelFacts,
    /// One entry a device.
    pub devices: Vec<DeviceReport>,
}

/// What the system says of itself.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Operating system.
    pub os: &'static str,
    /// Architecture.
    pub arch: &'static str,
    /// Name of the processor, where the system tells it.
    pub cpu: Option<String>,
    /// Threads that this process may use.
    pub threads: usize,
    /// Memory of the machine in bytes, where the system tells it.
    pub memory_bytes: Option<u64>,
    /// Work that the machine had just before, in processes that want to run; above 0, timings are disturbed.
    pub load_before: Option<f64>,
}

/// Sizes of the model and of the work.
#[derive(Debug, Serialize)]
pub struct ModelFacts {
    /// Layers.
    pub layers: usize,
    /// Features (D).
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Features inside the feed-forward block.
    pub intermediate: usize,
    /// Vocabulary (V).
    pub vocab: usize,
    /// Parameters of the backbone's products (N).
    pub matmul_params: u64,
    /// Classes (K); 0 for a language model.
    pub classes: usize,
    /// FLOPs that a step cannot do without, a real token.
    pub flops_a_token: f64,
    /// Real tokens of a step with all clients in flight.
    pub tokens_a_step: usize,
}

/// What was found on one device.
#[derive(Debug, Default, Serialize)]
pub struct DeviceReport {
    /// The device in words, or several that share the clients.
    pub device: String,
    /// How many they are.
    pub count: usize,
    /// What the device can do at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<CeilingReport>,
    /// The device's products.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gemm: Option<GemmReport>,
    /// Operations one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelsReport>,
    /// Local training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepReport>,
    /// Whole rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundReport>,
    /// Curves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleReport>,
}

impl Report {
    /// A report without devices yet.
    pub fn new(options: &BenchArgs, model: ModelFacts) -> Report {
        Report {
            bonfire: env!("CARGO_PKG_VERSION"),
            burn: BURN,
            command: std::env::args().skip(1).collect(),
            machine: machine(),
            options: options.clone(),
            model,
            devices: Vec::new(),
        }
    }

    /// The picture.
    ///
    /// # Errors
    /// None that a user can cause.
    pub fn picture(&self) -> anyhow::Result<String> {
        let gemm = self.each(|d| d.gemm.as_ref());
        let kernels = self.each(|d| d.kernels.as_ref());
        let step = self.each(|d| d.step.as_ref());
        let round = self.each(|d| d.round.as_ref());
        let scale = self.each(|d| d.scale.as_ref());
        let mut panels: Vec<Panel> =
            GemmReport::panel(&gemm).into_iter().chain(KernelsReport::panel(&kernels)).collect();
        panels.extend(StepReport::panel(&step).into_iter().chain(RoundReport::panel(&round)));
        panels.extend(ScaleReport::panels(&scale));
        draw(&self.caption(), &panels)
    }

    /// One part's report of every device that has it, with the device's name.
    fn each<'r, T>(&'r self, of: impl Fn(&'r DeviceReport) -> Option<&'r T>) -> Vec<(&'r str, &'r T)> {
        self.devices.iter().filter_map(|d| Some((d.device.as_str(), of(d)?))).collect()
    }

    fn caption(&self) -> String {
        let (o, m) = (&self.options, &self.model);
        let shape = std::path::Path::new(&o.shape.to_string()).file_name().map(|n| n.to_string_lossy().into_owned());
        format!(
            "bonfire {}: {} ({} layers of {}), {} clients, batch {}, rank {}, {} tokens a step",
            self.bonfire,
            shape.unwrap_or_default(),
            m.layers,
            m.hidden,
            o.clients,
            o.batch,
            o.rank,
            m.tokens_a_step
        )
    }
}

/// Asks the system.
pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    Machine {
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        cpu: read("/proc/cpuinfo").and_then(|text| after(&text, "model name")),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: read("/proc/meminfo").and_then(|text| {
            let kibibytes: u64 = after(&text, "MemTotal")?.strip_suffix(" kB")?.parse().ok()?;
            Some(kibibytes * 1024)
        }),
        load_before: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
    }
}

/// The value of the first `key : value` row.
fn after(text: &str, key: &str) -> Option<String> {
    let row = text.lines().find(|line| line.starts_with(key))?;
    Some(row.split_once(':')?.1.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_built_with() {
        let manifest = include_str!("../../../../../Cargo.toml");
        assert!(manifest.contains(&format!("burn = {{ version = \"={BURN}\"")));
    }

    #[test]
    fn rows_of_the_system_are_read() {
        assert_eq!(after("a: 1\nMemTotal:   5 kB\n", "MemTotal"), Some("5 kB".into()));
        assert_eq!(after("a: 1\n", "MemTotal"), None);
    }
}
