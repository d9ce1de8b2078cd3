//! The program `bonfire`.

/// Tensors come and go by the megabyte at every operation; the system allocator would give each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    bonfire::main(std::env::args_os()).into()
}
