//! Helpers of the cross-crate tests: devices, small models and data, fixtures.

pub mod faulty;
pub mod toy;

use std::path::{Path, PathBuf};

use bonfire_models::{ModelSource, TargetKind, Task, Transformer};
use burn::tensor::Device;
use rand::SeedableRng;

/// The device that tests run on: the CPU backend, or what `BONFIRE_TEST_DEVICE` names (`cpu`, `wgpu`, `cuda`).
pub fn device() -> Device {
    bonfire_kernels::runtime::prepare();
    match std::env::var("BONFIRE_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        Ok(other) => panic!("BONFIRE_TEST_DEVICE={other}; expected cpu, wgpu or cuda, compiled in"),
    }
}

/// A fixture's path in the repository.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The folder with real models, data and reference numbers: `BONFIRE_SHARED`, else `../shared` beside the project.
/// `None` (and a line that says so) where there is none.
pub fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("BONFIRE_SHARED").map_or_else(beside, PathBuf::from);
    let found = folder.join("models").is_dir();
    if !found {
        println!("SKIPPED: no folder with real models (set BONFIRE_SHARED)");
    }
    found.then_some(folder)
}

/// A classifier from a folder, on the test device with autodiff.
pub fn load(folder: &Path, classes: usize, kinds: &[TargetKind]) -> Transformer {
    load_for(Task::Classify(classes), folder, kinds)
}

/// A model from a folder, on the test device with autodiff.
pub fn load_for(task: Task, folder: &Path, kinds: &[TargetKind]) -> Transformer {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let source = ModelSource::Folder(folder.to_path_buf());
    Transformer::load(&source, task, kinds, &mut rng, &device().autodiff()).expect("the model loads")
}
