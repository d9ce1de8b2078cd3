//! What drivers print by themselves.

/// Keeps graphics drivers from printing lines of their own among a run's: the Vulkan loader about drivers that it cannot use, and
/// Wayland's library, asked for a screen by one of them, about a session that is not there. What cannot be used is said by the
/// program itself. Variables that are set keep their values.
///
/// For the beginning of a program, before it has threads: the environment is the whole process's.
#[allow(unsafe_code)]
pub fn hush_drivers() {
    let folder = std::env::temp_dir();
    for (name, value) in [("VK_LOADER_DEBUG", "none".as_ref()), ("XDG_RUNTIME_DIR", folder.as_os_str())] {
        if std::env::var_os(name).is_none() {
            // SAFETY: no other thread is there yet that could read the environment.
            unsafe { std::env::set_var(name, value) }
        }
    }
}
