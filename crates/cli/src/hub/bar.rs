//! A download's bar.

use indicatif::{ProgressBar, ProgressStyle};

use crate::console::draws_bars;

/// How far a file has come, drawn where somebody watches.
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// Of `name` with `size` bytes, of which `from` are there.
    pub fn new(name: &str, from: u64, size: u64) -> Bar {
        let draw = || {
            let bar = ProgressBar::new(size);
            let style =
                ProgressStyle::with_template("{msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left");
            bar.set_style(style.expect("a template of this file").progress_chars("█▉▊▋▌▍▎▏ "));
            bar.set_message(name.to_owned());
            bar.set_position(from);
            bar
        };
        Bar(draws_bars().then(draw))
    }

    /// So many bytes more.
    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
