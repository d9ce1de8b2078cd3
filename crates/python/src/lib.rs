//! Bonfire for Python: the engine, the strategies and the ledger behind typed classes. What is computed lives in the library
//! crates; here values cross, the interpreter is released while devices work, and errors become exceptions.

mod arrays;
mod comparison;
mod config_input;
mod errors;
mod interruptible;
mod messages;
mod predictions;
mod runs;
mod server;
mod site;

use pyo3::prelude::*;

/// As in the program: tensors come and go by the megabyte.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule]
fn _bonfire(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("BonfireError", errors::base(py)?)?;
    module.add("ConfigError", errors::config(py)?)?;
    module.add("StaleError", errors::stale(py)?)?;
    module.add_class::<messages::Plan>()?;
    module.add_class::<messages::Download>()?;
    module.add_class::<messages::Upload>()?;
    module.add_class::<site::Site>()?;
    module.add_class::<server::Server>()?;
    module.add_class::<runs::Run>()?;
    module.add_function(wrap_pyfunction!(runs::train, module)?)?;
    module.add_function(wrap_pyfunction!(runs::compare, module)?)?;
    module.add_function(wrap_pyfunction!(predictions::predict, module)?)
}
