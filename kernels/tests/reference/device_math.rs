//! The mathematical functions that kernels for CUDA use where there is no toolkit, against f64 on the CPU.
//!
//! `device_math/math.c` is plain C: the machine's C compiler makes a program of it that prints the largest errors. What a GPU computes from the same operations is the same: f32 and f64 additions, products,
//! divisions, square roots and fused multiply-adds are rounded alike everywhere.

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("device_math")
}

/// POSIX's `cksum`.
fn cksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: u8| {
        (0..8).fold(sum ^ (u32::from(byte) << 24), |s, _| (s << 1) ^ if s >> 31 == 1 { 0x04C1_1DB7 } else { 0 })
    };
    let length = (0..).map(|i| bytes.len() >> (8 * i)).take_while(|&rest| rest > 0).map(|rest| rest as u8);
    !bytes.iter().copied().chain(length).fold(0, step)
}

#[test]
fn the_bitcode_was_made_from_the_source() {
    let source = std::fs::read(folder().join("math.c")).expect("there");
    let noted = std::fs::read_to_string(folder().join("math.sum")).expect("there");
    let found = format!("{} {}", cksum(&source), source.len());
    assert_eq!(noted.trim(), found, "math.c changed; run kernels/device_math/build.sh");
}

#[test]
fn every_function_that_cubecl_links_is_there() {
    let bitcode = std::fs::read(folder().join("math.bc")).expect("there");
    let names = "sin cos tan asin acos atan atan2 sinh cosh tanh exp exp2 exp10 log log2 log10 pow cbrt erf";
    for name in names.split(' ') {
        let symbol = format!("__nv_{name}f");
        assert!(bitcode.windows(symbol.len()).any(|part| part == symbol.as_bytes()), "{symbol}");
    }
}

/// The largest error in units in the last place over floats of all sizes, and over products of them where there are two
/// arguments; special values on the way.
const PROGRAM: &str = r#"
#include "math.c"
#include <math.h>
#include <stdio.h>
static double ulps(float found, double right) {
  if (isnan(right)) return isnan(found) ? 0 : 1e9;
  if (found == (float)right) return 0;
  if (!isfinite(found) || !isfinite((float)right)) return 1e9;
  int e;
  frexp(right, &e);
  return fabs(found - right) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}
static double tens(double x) { return pow(10, x); }
#define ONE(name, right) { \
    double worst = 0; \
    for (u64 b = 0; b < 0x100000000ull; b += 3989) { float x = number((u32)b); worst = fmax(worst, ulps(__nv_##name##f(x), right((double)x))); } \
    for (int i = -4000; i <= 4000; i++) { float x = i / 256.0f; worst = fmax(worst, ulps(__nv_##name##f(x), right((double)x))); } \
    printf(#name " %.3f\n", worst); }
#define TWO(name) { \
    double worst = 0; \
    u64 s = 88172645463325252ull; \
    const float odd[] = {0.0f, -0.0f, 1.0f, -1.0f, 2.0f, -3.0f, 0.5f, INFINITY, -INFINITY, NAN, 1e-40f, -1e-40f, 3e38f}; \
    for (int i = 0; i < 13 * 13; i++) worst = fmax(worst, ulps(__nv_##name##f(odd[i / 13], odd[i % 13]), name(odd[i / 13], odd[i % 13]))); \
    for (int i = 0; i < 1000000; i++) { \
      s ^= s << 13; s ^= s >> 7; s ^= s << 17; \
      float x = number((u32)s), y = number((u32)(s >> 32)); \
      worst = fmax(worst, ulps(__nv_##name##f(x, y), name(x, y))); \
      x = 1 + (float)(s & 0xffff) / 3000.0f; y = (float)((int)(s >> 40) % 2000 - 1000) / 37.0f; \
      worst = fmax(worst, ulps(__nv_##name##f(x, y), name(x, y))); } \
    printf(#name " %.3f\n", worst); }
int main(void) {
  ONE(exp, exp) ONE(exp2, exp2) ONE(exp10, tens) ONE(log, log) ONE(log2, log2) ONE(log10, log10) ONE(tanh, tanh) ONE(erf, erf)
  ONE(sin, sin) ONE(cos, cos) ONE(tan, tan) ONE(asin, asin) ONE(acos, acos) ONE(atan, atan) ONE(sinh, sinh) ONE(cosh, cosh)
  ONE(cbrt, cbrt) TWO(pow) TWO(atan2)
  return 0;
}
"#;

#[test]
fn functions_agree_with_f64() {
    let room = std::env::temp_dir().join(format!("bonfire-device-math-{}", std::process::id()));
    std::fs::create_dir_all(&room).expect("a folder");
    let (source, program) = (room.join("check.c"), room.join("check"));
    std::fs::write(&source, PROGRAM).expect("written");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let made = Command::new(&compiler)
        .args(["-O2", "-ffp-contract=off", "-I"])
        .arg(folder())
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .arg("-lm")
        .output();
    let Ok(made) = made else {
        println!("SKIPPED: no C compiler `{compiler}`; the device's mathematical functions were not computed");
        return;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = Command::new(&program).output().expect("it runs").stdout;
    std::fs::remove_dir_all(&room).expect("removed");
    let said = String::from_utf8(said).expect("text");
    assert_eq!(said.lines().count(), 19, "{said}");
    for line in said.lines() {
        let (name, off) = line.split_once(' ').expect("two words");
        let off: f64 = off.parse().expect("a number");
        // Units in the last place; a quotient of two for the tangent.
        let allowed = if name == "tan" { 4.0 } else { 2.0 };
        assert!(off <= allowed, "{name} is off by {off} units in the last place, allowed are {allowed}");
    }
}
