//! What machine and what build this is.

use bonfire_experiment::checkup::admit::drivers;
use bonfire_experiment::format::table::size;
use serde::Serialize;

use crate::commands::bench::{BURN, Machine, machine};

/// The machine and the build.
#[derive(Debug, Serialize)]
pub struct System {
    /// Version of this program.
    pub bonfire: &'static str,
    /// Version of Burn.
    pub burn: &'static str,
    /// What the system says of itself.
    pub machine: Machine,
    /// Backends of this build.
    pub backends: Vec<&'static str>,
    /// Backends that it could have been built with.
    pub missing_backends: Vec<&'static str>,
    /// Why operations are not fused.
    pub fusion: &'static str,
    /// Whether CubeCL tries several kernels and keeps the fastest.
    pub autotune: &'static str,
    /// What the system tells of its drivers.
    pub drivers: String,
    /// What stands against CUDA here, or where its kernels take mathematical functions from; absent in builds without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
}

/// Every backend by its Cargo feature.
const BACKENDS: [(&str, bool); 4] = [
    ("flex", cfg!(feature = "flex")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("cuda", cfg!(feature = "cuda")),
];

const FUSION: &str = "not compiled in: with autotune it computes wrong on wgpu (burn#5257)";

#[cfg(feature = "cuda")]
fn cuda() -> Option<String> {
    use bonfire_kernels::{cuda_driver, runtime};
    let math = || runtime::device_math().map(|math| format!("mathematical functions: {math}"));
    Some(cuda_driver().map_err(|fault| fault.to_string()).and_then(|()| math()).unwrap_or_else(|why| why))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Option<String> {
    None
}

impl System {
    /// Asks.
    pub fn ask() -> System {
        let backends = |wanted| BACKENDS.iter().filter(|(_, has)| *has == wanted).map(|(name, _)| *name).collect();
        let gpus = BACKENDS[1..].iter().any(|(_, has)| *has);
        System {
            bonfire: env!("CARGO_PKG_VERSION"),
            burn: BURN,
            machine: machine(),
            backends: backends(true),
            missing_backends: backends(false),
            fusion: FUSION,
            autotune: if gpus { "on, on GPUs; products are checked with it and without" } else { "not compiled in" },
            drivers: drivers(),
            cuda: cuda(),
        }
    }

    /// A line each.
    pub fn words(&self) -> String {
        let m = &self.machine;
        let cpu = m.cpu.as_deref().unwrap_or("not known");
        let missing = match &self.missing_backends[..] {
            [] => String::new(),
            missing => format!("; not {}", missing.join(", ")),
        };
        let rows = [
            ("bonfire", format!("{} with Burn {}", self.bonfire, self.burn)),
            ("system", format!("{} on {}", m.os, m.arch)),
            ("cpu", format!("{cpu}, {} threads", m.threads)),
            ("memory", size(m.memory_bytes)),
            ("backends", format!("{}{missing}", self.backends.join(", "))),
            ("fusion", self.fusion.into()),
            ("autotune", self.autotune.into()),
        ];
        let mut lines: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:<10}{value}")).collect();
        // Each Vulkan driver by its file, `lvp_icd.x86_64.json 1679480297`: the name says enough.
        let (vulkan, others): (Vec<&str>, Vec<&str>) = self.drivers.split(", ").partition(|d| d.contains(".json "));
        let name = |file: &&str| file.split("_icd").next().unwrap_or_default().to_string();
        let vulkan: Vec<String> = vulkan.iter().map(name).collect();
        lines.push(format!("{:<10}{}", "drivers", others.join(", ")));
        if !vulkan.is_empty() {
            lines.push(format!("{:<10}Vulkan: {}", "", vulkan.join(", ")));
        }
        lines.extend(self.cuda.iter().map(|cuda| format!("{:<10}{cuda}", "cuda")));
        lines.join("\n")
    }
}
