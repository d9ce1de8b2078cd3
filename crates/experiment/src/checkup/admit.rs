//! Before the first training on a GPU a short check runs, once for each device, driver and version of this program, and for
//! each kind of model and precision; what it said is kept in the user's cache folder. A device that computes wrong is
//! refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use bonfire_kernels::runs_on_cpu;
use bonfire_kernels::runtime::cache_folder;
use serde::{Deserialize, Serialize};

use super::examine::{examine, verdict};
use super::finding::{Depth, Verdict};
use super::purpose::Purpose;
use crate::device::Opened;
use crate::log::note;
use crate::run_folder::replace;
use crate::user_error::UserError;
use crate::watch::Watch;

/// What was said of devices before, by [`key`].
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdicts {
    devices: BTreeMap<String, Verdict>,
}

/// Lets training for a purpose start on `opened`: GPUs that were not checked for it before are checked now. `purpose` is
/// asked where there is a GPU alone, since it may have to fetch the model's shape.
///
/// # Errors
/// A device computes wrong or fails, with what was found and the way out; what `purpose` says.
pub fn admit(
    opened: &[Opened],
    purpose: impl FnOnce(&mut dyn Watch) -> Result<Purpose>,
    watch: &mut dyn Watch,
) -> Result<()> {
    let gpus: Vec<&Opened> = opened.iter().filter(|opened| !runs_on_cpu(&opened.device)).collect();
    if gpus.is_empty() {
        return Ok(());
    }
    let purpose = purpose(watch)?;
    for device in gpus {
        let said = match remembered(&device.name, purpose) {
            Some(said) => said,
            None => first_time(device, purpose, watch)?,
        };
        refuse(&device.name, &said)?;
    }
    Ok(())
}

/// Checks and remembers.
fn first_time(device: &Opened, purpose: Purpose, watch: &mut dyn Watch) -> Result<Verdict, UserError> {
    watch.note(&format!("the first such training on {}: checking that it computes {purpose} right", device.name));
    let found = examine(device, Depth::Short(purpose), &|_| ())?;
    let said = verdict(&found, Some(purpose), device.software);
    remember(&device.name, &[(purpose, said.clone())]);
    Ok(said)
}

/// An error where training must not start; its cause is the verdict.
fn refuse(name: &str, said: &Verdict) -> Result<()> {
    if said.is_fit() {
        return Ok(());
    }
    const WAY_OUT: &str = "`bonfire doctor` checks it again, all of it; `bonfire doctor --forget` also lets it be tuned anew; --device cpu trains on the CPU";
    Err(anyhow!("{said}").context(format!("nothing is trained on {name}; {WAY_OUT}")))
}

/// What was said of the device before, for this purpose, with this driver and this program.
pub fn remembered(name: &str, purpose: Purpose) -> Option<Verdict> {
    let path = file()?;
    read(&path).devices.remove(&key(name, purpose))
}

/// Of what was said of the device for any of these purposes, the first thing that speaks against it, else that it is fit.
pub fn remembered_of(name: &str, purposes: &[Purpose]) -> Option<Verdict> {
    let mut verdicts = read(&file()?).devices;
    let mut said: Vec<Verdict> = purposes.iter().filter_map(|&p| verdicts.remove(&key(name, p))).collect();
    let worst = said.iter().position(|verdict| !verdict.is_fit()).unwrap_or(0);
    (!said.is_empty()).then(|| said.swap_remove(worst))
}

/// Keeps verdicts for the next training. A device that failed may answer the next time, so that is not kept.
pub fn remember(name: &str, said: &[(Purpose, Verdict)]) {
    let Some(path) = file() else { return };
    // Whoever asked before was told of damage.
    let mut verdicts = parse(&path).unwrap_or_default();
    for (purpose, said) in said {
        match said {
            Verdict::Silent { .. } => verdicts.devices.remove(&key(name, *purpose)),
            _ => verdicts.devices.insert(key(name, *purpose), said.clone()),
        };
    }
    if let Err(error) = write(&path, &verdicts) {
        note(format!("{error:#}; the device will be checked again"));
    }
}

/// Deletes all verdicts; gives how many there were.
///
/// # Errors
/// The file cannot be deleted.
pub fn forget() -> Result<usize> {
    let Some(path) = file().filter(|path| path.exists()) else { return Ok(0) };
    let known = parse(&path).unwrap_or_default().devices.len();
    fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
    Ok(known)
}

/// Reads the file; one that is damaged counts as empty.
fn read(path: &Path) -> Verdicts {
    parse(path).unwrap_or_else(|error| {
        note(format!("{} is damaged ({error}) and is written anew", path.display()));
        Verdicts::default()
    })
}

/// Reads the file; one that is not there is empty.
fn parse(path: &Path) -> serde_json::Result<Verdicts> {
    fs::read_to_string(path).map_or_else(|_| Ok(Verdicts::default()), |text| serde_json::from_str(&text))
}

fn write(path: &Path, verdicts: &Verdicts) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    replace(path, serde_json::to_string_pretty(verdicts)?.as_bytes())
}

/// `doctor.json` in the user's cache folder, if there is such a folder.
fn file() -> Option<PathBuf> {
    Some(cache_folder()?.join("doctor.json"))
}

/// What a verdict holds for: program, device, drivers as far as the system tells, and what was checked.
fn key(name: &str, purpose: Purpose) -> String {
    format!("bonfire {}, {name}, {}; {purpose}", env!("CARGO_PKG_VERSION"), drivers())
}

/// The versions of what drives GPUs here: the kernel, NVIDIA's module, and the Vulkan drivers, of which no version can be
/// asked without opening them, by the time they were installed.
pub fn drivers() -> String {
    let line = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_string());
    let mut found =
        vec![line("/proc/sys/kernel/osrelease").map_or("system not known".into(), |v| format!("kernel {v}"))];
    found.extend(line("/sys/module/nvidia/version").map(|version| format!("NVIDIA {version}")));
    let folders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
    let mut vulkan: Vec<String> =
        folders.iter().flat_map(fs::read_dir).flatten().flatten().map(|e| stamp(&e)).collect();
    vulkan.sort();
    found.extend(vulkan);
    found.join(", ")
}

/// `lvp_icd.x86_64.json 1686000000`.
fn stamp(entry: &fs::DirEntry) -> String {
    let time = entry.metadata().and_then(|m| m.modified()).ok();
    let seconds = time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    format!("{} {seconds}", entry.file_name().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use bonfire_models::Precision;

    use super::super::Small;
    use super::*;

    #[test]
    fn a_wrong_device_is_refused_with_the_way_out() {
        let wrong = Verdict::Wrong { because: "linear: gradient of A 0 differs by 0.5, allowed are 1.0e-4".into() };
        let said = refuse("wgpu (Some GPU)", &wrong).expect_err("refused");
        let said = format!("{said:#}");
        for words in ["wgpu (Some GPU)", "gradient of A 0", "0.5", "bonfire doctor", "--device cpu"] {
            assert!(said.contains(words), "{said}");
        }
        assert!(refuse("x", &Verdict::Silent { because: "lost".into() }).is_err());
        assert!(refuse("x", &Verdict::Good).is_ok() && refuse("x", &Verdict::Slow).is_ok());
    }

    #[test]
    fn verdicts_are_kept_and_damage_counts_as_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/doctor.json");
        assert_eq!(read(&path), Verdicts::default());
        let wrong = Verdict::Wrong { because: "x".into() };
        let purpose = Purpose { model: Small::Llama, precision: Precision::Bf16 };
        let kept =
            Verdicts { devices: BTreeMap::from([(key("a", purpose), Verdict::Good), (key("b", purpose), wrong)]) };
        write(&path, &kept).expect("written");
        assert_eq!(read(&path), kept);
        fs::write(&path, "{ \"devices\": ").expect("written");
        assert_eq!(read(&path), Verdicts::default());
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_is_the_reference_and_not_checked() {
        let cpu = crate::device::open(crate::device::DeviceChoice::Cpu).expect("the CPU");
        assert!(admit(&[cpu], |_| panic!("no model is looked at"), &mut ()).is_ok());
    }

    #[test]
    fn a_verdict_names_what_was_checked() {
        let of = |model, precision| key("cuda (Some GPU)", Purpose { model, precision });
        let encoder = of(Small::Roberta, Precision::F32);
        assert!(encoder.ends_with("; tiny-roberta in f32"), "{encoder}");
        assert!(encoder.starts_with(&format!("bonfire {}, cuda (Some GPU), ", env!("CARGO_PKG_VERSION"))), "{encoder}");
        let others = [
            of(Small::Llama, Precision::F32),
            of(Small::LlamaClasses, Precision::F32),
            of(Small::Bert, Precision::F32),
            of(Small::Roberta, Precision::Bf16),
            of(Small::Roberta, Precision::Tf32),
        ];
        assert!(others.iter().all(|other| *other != encoder), "{others:?}");
    }
}
