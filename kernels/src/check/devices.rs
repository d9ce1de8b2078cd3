//! The device that a test is asked to run on.

use burn::tensor::Device;

/// The environment's name for it, as `--device` would have it: `cpu`, `wgpu`, `vulkan` or `cuda`, a GPU also with its number:
/// `cuda:1`. `None` where it is not set.
///
/// # Panics
/// A device that is not compiled in, or not there.
pub fn asked_for() -> Option<Device> {
    let name = std::env::var("BONFIRE_TEST_DEVICE").ok()?;
    crate::runtime::prepare();
    Some(named(&name).unwrap_or_else(|why| panic!("BONFIRE_TEST_DEVICE={name}: {why}")))
}

/// A device by its name.
///
/// # Errors
/// As [`asked_for`] panics, in words.
fn named(name: &str) -> Result<Device, String> {
    let (backend, number) = match name.split_once(':') {
        None => (name, None),
        Some((backend, number)) => (backend, Some(number.parse().map_err(|_| format!("{number} is no number"))?)),
    };
    match (backend, number) {
        #[cfg(feature = "flex")]
        ("cpu", None) => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        ("wgpu", None) => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "wgpu")]
        ("wgpu", Some(n)) => listed(burn::tensor::DeviceType::Wgpu, n),
        #[cfg(feature = "vulkan")]
        ("vulkan", None) => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        ("vulkan", Some(n)) => listed(burn::tensor::DeviceType::Vulkan, n),
        #[cfg(feature = "cuda")]
        ("cuda", n) => Ok(Device::cuda(n.unwrap_or(0))),
        _ => {
            let _: Option<usize> = number;
            Err("expected cpu, wgpu, vulkan or cuda, compiled in; a GPU also with its number: cuda:1".into())
        }
    }
}

#[cfg(any(feature = "wgpu", feature = "vulkan"))]
fn listed(kind: burn::tensor::DeviceType, n: usize) -> Result<Device, String> {
    let all = Device::enumerate(kind).into_vec();
    all.get(n).cloned().ok_or_else(|| format!("there are {} such devices, numbered from 0", all.len()))
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["gpu", "cpu:0", "wgpu:x", "", "cuda:"] {
            assert!(named(name).is_err(), "{name}");
        }
        #[cfg(feature = "flex")]
        assert!(named("cpu").is_ok());
    }
}
