//! Which device a run uses: what the user may ask for, what is compiled in, what answers.
//! `auto` takes a real GPU if one answers, never a software rasteriser, else the CPU.

mod choice;
mod drivers;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
mod gpu;
mod list;
mod open;
mod opened;

pub use choice::DeviceChoice;
pub use drivers::hush_drivers;
pub use list::{Devices, names};
pub use open::{Tried, every, open};
pub use opened::Opened;
