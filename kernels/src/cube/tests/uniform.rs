//! Barriers stand where all units of a workgroup come: Tint, which reads shaders in Chromium and refuses what it cannot
//! prove, must accept every kernel as CubeCL writes it. It writes buffers as writable here, read or not, which makes the
//! proof harder than in a browser.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

/// The kernels of this folder, as their shaders are named.
const KERNELS: [&str; 11] = [
    "adamw_kernel",
    "add_norm_kernel",
    "attend_kernel",
    "backward_kernel",
    "dkv_kernel",
    "down_kernel",
    "dq_kernel",
    "outer_kernel",
    "scores_kernel",
    "stats_kernel",
    "up_kernel",
];
/// What must be refused: a barrier behind a number that another unit may write.
const REFUSED: &str = "
@group(0) @binding(0) var<storage, read_write> bounds: array<u32>;
@compute @workgroup_size(64) fn refused(@builtin(workgroup_id) id: vec3<u32>) {
    for (var i = 0u; i < bounds[id.x]; i++) { workgroupBarrier(); }
}";
/// Hands every shader to Tint and says what it thinks of it.
const PAGE: &str = "<!doctype html><body><pre id=out></pre><script>
(async () => {
    const out = document.getElementById('out');
    try {
        const adapter = await navigator.gpu?.requestAdapter();
        if (!adapter) { out.append('NO ADAPTER\\n'); return; }
        const device = await adapter.requestDevice();
        for (const shader of document.querySelectorAll('script.shader')) {
            const module = device.createShaderModule({ code: shader.textContent });
            const found = (await module.getCompilationInfo()).messages.filter(m => m.type != 'info');
            out.append((found.length ? 'REFUSED ' : 'ACCEPTED ') + shader.id + '\\n');
            for (const m of found) out.append('    line ' + m.lineNum + ': ' + m.message + '\\n');
        }
        out.append('DONE\\n');
    } catch (error) { out.append('FAILED ' + error + '\\n'); }
})()
</script>";

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("bonfire-shaders-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Where CubeCL writes shaders, in the process that [`every_kernel`] runs in.
const LOG: &str = "CUBECL_DEBUG_LOG";

#[test]
#[ignore = "run by `browsers_accept_every_kernel`, in a process of its own"]
fn every_kernel() {
    let log = PathBuf::from(std::env::var_os(LOG).unwrap());
    EVERY_KERNEL.into_iter().for_each(|test| test());
    // The log is written by a thread of its own.
    let size = || std::fs::metadata(&log).map_or(0, |file| file.len());
    let (mut last, begun) = (size(), Instant::now());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if size() == last || begun.elapsed() > Duration::from_secs(60) {
            return;
        }
        last = size();
    }
}

/// Runs [`every_kernel`]; the shaders that CubeCL made for it.
fn shaders(folder: &Path) -> Vec<String> {
    let log = folder.join("log");
    let test = concat!(module_path!(), "::every_kernel").split_once("::").unwrap().1;
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .env(LOG, &log)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let log = std::fs::read_to_string(log).unwrap();
    let all = log.split("```wgsl\n").skip(1).map(|rest| rest.split("\n```\n").next().unwrap().to_string());
    all.filter(|shader| KERNELS.iter().any(|kernel| shader.contains(&format!("fn {kernel}")))).collect()
}

/// What Chromium says of the shaders, one after the other; nothing where there is no Chromium or no adapter in it.
fn verdicts(folder: &Path, shaders: &[String]) -> Option<String> {
    let page = folder.join("page.html");
    let scripts = shaders.iter().map(|shader| {
        let name =
            shader.split_once("\nfn ").and_then(|(_, rest)| rest.split_once('(')).map_or("refused", |(name, _)| name);
        format!("<script class=shader type=text/plain id={name}>{shader}</script>\n")
    });
    // The shaders stand before what reads them.
    let scripts: String = scripts.collect();
    std::fs::write(&page, PAGE.replacen("<script>", &format!("{scripts}<script>"), 1)).unwrap();
    let chromium = std::env::var_os("BONFIRE_CHROMIUM").unwrap_or("chromium".into());
    let seen = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
        .args(["--enable-features=Vulkan", "--virtual-time-budget=60000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .ok()?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    let said = seen.split("<pre id=\"out\">").nth(1)?.split("</pre>").next()?.to_string();
    (!said.contains("NO ADAPTER")).then_some(said)
}

#[test]
fn browsers_accept_every_kernel() {
    if std::env::var("BONFIRE_TEST_DEVICE").as_deref() != Ok("wgpu") {
        println!("SKIPPED: set BONFIRE_TEST_DEVICE=wgpu");
        return;
    }
    let folder = Folder::new();
    let mut shaders = shaders(&folder.0);
    for kernel in KERNELS {
        assert!(shaders.iter().any(|shader| shader.contains(&format!("fn {kernel}"))), "no shader of {kernel}");
    }
    shaders.push(REFUSED.into());
    let Some(said) = verdicts(&folder.0, &shaders) else {
        println!("SKIPPED: no Chromium with WebGPU here; BONFIRE_CHROMIUM names one");
        return;
    };
    assert!(said.contains("DONE"), "Chromium stopped: {said}");
    assert_eq!(said.matches("ACCEPTED").count(), shaders.len() - 1, "{said}");
    assert!(said.contains("REFUSED refused"), "Tint proves that barriers are reached together: {said}");
}
