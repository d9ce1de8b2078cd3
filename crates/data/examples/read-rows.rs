//! Reads a file of rows and says how many there were: what `scripts/measurements/read_rows.py` measures.

use std::error::Error;
use std::path::Path;

use bonfire_data::{Dataset, Reading, SplitShares};

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: read-rows FILE")?;
    let shares = Some(SplitShares { test: 0.1, validation: 0.0 });
    let data = Dataset::read(Path::new(&file), &Reading { shares, ..Reading::default() })?;
    println!("{} train, {} test, {} labels", data.train.len(), data.test.len(), data.labels.len());
    Ok(())
}
