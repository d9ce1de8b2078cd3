//! A disk that fails, for tests: loaded before the program's own libc (`LD_PRELOAD`), it counts the calls that change what lies
//! under a folder, and lets one of them go wrong.
//!
//! `BONFIRE_FAULT=KIND:N:FOLDER` says how and which, from 1: `eio` fails that call alone; `full` writes half of what it was given
//! and lets every later write fail (ENOSPC); `kill` ends the process before the call, `killed` after it, by SIGKILL; `count` lets all
//! go well. `BONFIRE_FAULT_REPORT` names a file with the number of calls so far when that happened; for `count`, of all.
#![allow(unsafe_code)]
#![cfg(target_os = "linux")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_void};
use std::mem::transmute;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
}

const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const SIGKILL: c_int = 9;
const O_ACCMODE: c_int = 3;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Eio,
    Full,
    Kill,
    Killed,
    Count,
}

struct Order {
    kind: Kind,
    at: usize,
    folder: PathBuf,
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static FULL: AtomicBool = AtomicBool::new(false);

fn order() -> Option<&'static Order> {
    static ORDER: OnceLock<Option<Order>> = OnceLock::new();
    let read = || {
        let text = std::env::var("BONFIRE_FAULT").ok()?;
        let mut parts = text.splitn(3, ':');
        let kind = match parts.next()? {
            "eio" => Kind::Eio,
            "full" => Kind::Full,
            "kill" => Kind::Kill,
            "killed" => Kind::Killed,
            "count" => Kind::Count,
            _ => return None,
        };
        Some(Order { kind, at: parts.next()?.parse().ok()?, folder: parts.next()?.into() })
    };
    ORDER.get_or_init(read).as_ref()
}

/// Whether a path is under the folder.
fn under(path: &Path) -> Option<&'static Order> {
    let order = order()?;
    let whole = if path.is_absolute() { path.to_path_buf() } else { std::env::current_dir().ok()?.join(path) };
    whole.starts_with(&order.folder).then_some(order)
}

fn at_path(path: *const c_char) -> Option<&'static Order> {
    // SAFETY: callers hand on what they were given, a C string.
    under(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes())))
}

fn at_file(fd: c_int) -> Option<&'static Order> {
    order()?;
    under(&std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?)
}

fn fail(errno: c_int) {
    // SAFETY: the calling thread's own errno.
    unsafe { *__errno_location() = errno }
}

fn end() {
    // SAFETY: ends this process.
    unsafe { kill(getpid(), SIGKILL) };
}

/// What a call does: `real` calls the next library's function; `half` writes half, where it writes.
fn call<T: From<i8>>(concerned: Option<&Order>, real: impl Fn() -> T, half: Option<&dyn Fn() -> T>) -> T {
    let Some(order) = concerned else { return real() };
    if FULL.load(Ordering::SeqCst) && half.is_some() {
        fail(ENOSPC);
        return T::from(-1);
    }
    let number = CALLS.fetch_add(1, Ordering::SeqCst) + 1;
    if number != order.at && order.kind != Kind::Count {
        return real();
    }
    if let Some(report) = std::env::var_os("BONFIRE_FAULT_REPORT") {
        let _ = std::fs::write(report, number.to_string());
    }
    match order.kind {
        Kind::Count => return real(),
        Kind::Kill => end(),
        Kind::Killed => {
            real();
            end();
        }
        Kind::Full => {
            FULL.store(true, Ordering::SeqCst);
            if let Some(half) = half {
                return half();
            }
            fail(ENOSPC);
            return T::from(-1);
        }
        Kind::Eio => fail(EIO),
    }
    T::from(-1)
}

/// The function of this name in the library after this one.
fn next(name: &'static CStr) -> *mut c_void {
    // SAFETY: -1 is RTLD_NEXT; the name ends in 0.
    unsafe { dlsym(usize::MAX as *mut c_void, name.as_ptr()) }
}

/// A function of libc's that is one call: its name, its parameters, what it gives, and which of them says where.
macro_rules! call {
    ($name:ident, $text:literal, ($($arg:ident: $kind:ty),*), $gives:ty, $where:expr) => {
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> $gives {
            // SAFETY: the function of this name has these parameters.
            let real: unsafe extern "C" fn($($kind),*) -> $gives = unsafe { transmute(next($text)) };
            // SAFETY: called with what it was to be called with.
            call($where, || unsafe { real($($arg),*) }, None)
        }
    };
}

/// The same of one that writes `count` bytes.
macro_rules! write_call {
    ($name:ident, $text:literal, ($fd:ident, $data:ident, $count:ident $(, $more:ident: $kind:ty)?)) => {
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($fd: c_int, $data: *const c_void, $count: usize $(, $more: $kind)?) -> isize {
            // SAFETY: the function of this name has these parameters.
            let real: unsafe extern "C" fn(c_int, *const c_void, usize $(, $kind)?) -> isize =
                unsafe { transmute(next($text)) };
            // SAFETY: called with what it was to be called with, or less of it.
            let write = |count: usize| unsafe { real($fd, $data, count $(, $more)?) };
            call(at_file($fd), || write($count), Some(&|| write($count.div_ceil(2))))
        }
    };
}

write_call!(write, c"write", (fd, data, count));
write_call!(pwrite64, c"pwrite64", (fd, data, count, offset: i64));
call!(fsync, c"fsync", (fd: c_int), c_int, at_file(fd));
call!(fdatasync, c"fdatasync", (fd: c_int), c_int, at_file(fd));
call!(ftruncate64, c"ftruncate64", (fd: c_int, length: i64), c_int, at_file(fd));
call!(rename, c"rename", (from: *const c_char, to: *const c_char), c_int, at_path(to));
call!(unlink, c"unlink", (path: *const c_char), c_int, at_path(path));
call!(rmdir, c"rmdir", (path: *const c_char), c_int, at_path(path));
call!(mkdir, c"mkdir", (path: *const c_char, mode: u32), c_int, at_path(path));
// Variadic in C; a mode is passed in the same place.
call!(
    open64,
    c"open64",
    (path: *const c_char, flags: c_int, mode: c_long),
    c_int,
    if flags & O_ACCMODE == 0 { None } else { at_path(path) }
);
