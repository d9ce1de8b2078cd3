//! Barriers stand where all units of a workgroup come: Tint, which reads shaders in Chromium and refuses what it cannot
//! prove, must accept every kernel as CubeCL writes it. It writes buffers as writable here, read or not, which makes the
//! proof harder than in a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use burn_cubecl::cubecl::dry_run::DryRun;

use super::*;
use crate::cube::attention::{Qkv, attend};
use crate::cube::attention_backward::attend_backward;
use crate::cube::dropout::dropped;
use crate::cube::factors::Factors;
use crate::cube::gather::gather;
use crate::cube::gelu::{gelu, gelu_backward};
use crate::cube::glu::{glu, glu_backward, turn};
use crate::cube::loss::loss_and_slopes;
use crate::cube::lowrank::{down, up_add, up_gelu, up_through_gelu};
use crate::cube::norm::{add_norm, add_norm_backward, rms, rms_backward};
use crate::cube::optimizer::{clip, optimizer_step, square_sums};
use crate::cube::outer::{Gradient, outer};
use crate::cube::scores::slot_scores;
use crate::cube::tiles::{RankTable, TileTable};
use crate::{AdamW, Bend, DropMask, FlatLayout, RowKeys, Sgd, StepRule};

/// The kernels of this folder, as their shaders are named.
const KERNELS: [&str; 23] = [
    "optimizer_kernel",
    "add_norm_kernel",
    "attend_kernel",
    "backward_kernel",
    "clip_kernel",
    "dkv_kernel",
    "down_kernel",
    "dq_kernel",
    "dropout_kernel",
    "gather_kernel",
    "gelu_backward_kernel",
    "gelu_kernel",
    "glu_backward_kernel",
    "glu_kernel",
    "outer_kernel",
    "rms_backward_kernel",
    "rms_kernel",
    "scores_kernel",
    "slopes_kernel",
    "squares_kernel",
    "stats_kernel",
    "turn_kernel",
    "up_kernel",
];
/// What must be refused: a barrier behind a number that another unit may write.
const REFUSED: &str = "
@group(0) @binding(0) var<storage, read_write> bounds: array<u32>;
@compute @workgroup_size(64) fn refused(@builtin(workgroup_id) id: vec3<u32>) {
    for (var i = 0u; i < bounds[id.x]; i++) { workgroupBarrier(); }
}";
/// Hands every shader to Tint and sends back what it thinks of them.
const PAGE: &str = "<!doctype html><script>
(async () => {
    const said = [];
    try {
        const adapter = await navigator.gpu?.requestAdapter();
        const device = await adapter?.requestDevice();
        if (!device) said.push('NO ADAPTER');
        for (const shader of device ? document.querySelectorAll('script.shader') : []) {
            const module = device.createShaderModule({ code: shader.textContent });
            const found = (await module.getCompilationInfo()).messages.filter(m => m.type != 'info');
            said.push((found.length ? 'REFUSED ' : 'ACCEPTED ') + shader.id);
            said.push(...found.map(m => '    line ' + m.lineNum + ': ' + m.message));
        }
    } catch (error) { said.push('FAILED ' + error); }
    fetch('/', { method: 'POST', body: said.join('\\n') });
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

/// Compiles every kernel in its forms without running it.
#[test]
#[ignore = "run by `browsers_accept_every_kernel`, in a process of its own"]
fn every_kernel() {
    let (Some(log), Some(device)) = (std::env::var_os(LOG).map(PathBuf::from), device()) else { return };
    let _nothing_runs = DryRun::new();
    let zeros = |shape: &[usize]| to_device(&vec![0.0; shape.iter().product()], shape, &device);
    let rows = Segments::from_lengths([3, 2]);
    for (slots, tile) in [(1, 16), (20, 32), (70, 32)] {
        let table = TileTable::new(&rows, tile, &device);
        // One adapter; three on the same columns; three on their own, of which clients have part.
        let whole = || (zeros(&[2, slots, 9]), 0..9);
        let own = |i: usize| (zeros(&[1, slots, 3]), 3 * i..3 * i + 3);
        let ranks = RankTable::new(&[1; 6], &device);
        for (parts, ranks) in [
            (vec![whole()], None),
            (vec![whole(), whole(), whole()], None),
            (vec![own(0), own(1), own(2)], Some(ranks)),
        ] {
            let (adapters, factors) = (parts.len(), Factors::new(parts, ranks.clone()));
            let h = down(zeros(&[5, 9]), &factors, &table);
            up_add(zeros(&[5, 9]), h.clone(), &factors, 1.0, None, &table);
            up_add(zeros(&[6, 9]), h.clone(), &factors, 1.0, Some(zeros(&[9])), &table);
            up_gelu(zeros(&[6, 9]), h.clone(), &factors, 1.0, None, &table);
            if adapters == 1 {
                up_gelu(zeros(&[6, 9]), h.clone(), &factors, 1.0, Some(zeros(&[9])), &table);
            }
            up_through_gelu(zeros(&[6, 9]), h.clone(), &factors, 1.0, zeros(&[6, 9]), &table);
            let pairs = [[h.clone(), zeros(&[5, 9])], [h, zeros(&[5, 9])]];
            let one = |i: usize| Gradient { pair: i % 2, slots: 0..slots, columns: 0..9, shared: i == 0, adapter: 0 };
            let wanted: Vec<Gradient> = (0..adapters).map(one).collect();
            outer(&pairs[..adapters.min(2)], &wanted, 1.0, &table, ranks.as_ref());
        }
    }
    let widths = [8, 100, 256].into_iter().flat_map(|width| [(width, 1, false), (width, 1, true), (width, 2, true)]);
    for (width, heads, causal) in widths {
        let table = rows.tables().for_sequences(&rows, &device);
        let qkv = Qkv::fused(zeros(&[5, (heads + 2) * width]), heads, 1, causal);
        let (out, lse) = attend(&qkv, 5, &table);
        attend_backward(&qkv, out, lse, zeros(&[5, heads * width]), &table);
    }
    add_norm(zeros(&[2, 9]), zeros(&[2, 9]), zeros(&[9]), zeros(&[9]), 1e-5);
    add_norm_backward(zeros(&[2, 9]), zeros(&[9]), zeros(&[2, 9]), 1e-5);
    loss_and_slopes(zeros(&[2, 9]), zeros(&[2]));
    slot_scores(zeros(&[1, 2, 9]), zeros(&[2, 2, 9]));
    gather(zeros(&[2, 9]), zeros(&[3, 2, 4]), zeros(&[2]), 1);
    dropped(zeros(&[2, 9]), &DropMask::new(&RowKeys::new([1, 2]), 1, 0.5));
    gelu_backward(&zeros(&[2, 9]), gelu(&zeros(&[2, 9])));
    for bend in [Bend::Silu, Bend::Gelu, Bend::GeluTanh] {
        glu_backward(&zeros(&[2, 8]), glu(&zeros(&[2, 8]), bend), bend);
    }
    turn(zeros(&[2, 9]), zeros(&[2, 2]), zeros(&[2, 2]), 2, false);
    for residual in [None, Some(zeros(&[2, 9]))] {
        rms_backward(&zeros(&[2, 9]), zeros(&[9]), rms(&zeros(&[2, 9]), zeros(&[9]), 0.0, 1e-5), residual, 0.0, 1e-5);
    }
    let adam = AdamW { betas: [0.9, 0.9], eps: 1e-8, weight_decay: 0.1 };
    let sgd = |momentum, nesterov| StepRule::Sgd(Sgd { momentum, nesterov, weight_decay: 0.1 });
    let sgds = [sgd(0.0, false), sgd(0.9, false), sgd(0.9, true)];
    let rules = [StepRule::AdamW(adam), StepRule::Adam(adam)].into_iter().chain(sgds);
    for (rule, folded) in rules.flat_map(|rule| [(rule, true), (rule, false)]) {
        let layout = FlatLayout::new([([3, 4], 0, folded), ([1, 4], 0, true)]);
        let state = [0; 3].map(|_| zeros(&[2, layout.width()]));
        let grads = vec![zeros(&[2, 3, 4]), zeros(&[2, 1, 4])];
        let rates = clip(zeros(&[1, 2, 4]), square_sums(grads.clone(), &layout), 1.0);
        for rates in [rates, zeros(&[1, 2, 3])] {
            optimizer_step(&rule, &layout, state.clone(), zeros(&[1, layout.width()]), grads.clone(), rates);
        }
    }
    // Everything before this read is compiled, and the log is written by a thread of its own.
    values(zeros(&[1]));
    let written =
        |kernel: &&str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&format!("fn {kernel}")));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) && !KERNELS.iter().all(&written) {
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The shaders that CubeCL makes in [`every_kernel`].
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
    let all = log.split("```wgsl\n").skip(1).filter_map(|rest| rest.split_once("\n```\n")).map(|(shader, _)| shader);
    all.filter(|shader| KERNELS.iter().any(|kernel| shader.contains(&format!("fn {kernel}")))).map(Into::into).collect()
}

/// Gives the page to whoever asks for it, until somebody sends something back: that.
fn serve(listener: TcpListener, page: String) -> Option<String> {
    for stream in listener.incoming() {
        let mut stream = BufReader::new(stream.ok()?);
        let (mut first, mut length) = (String::new(), 0);
        stream.read_line(&mut first).ok()?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            if let Some(bytes) = line.to_lowercase().strip_prefix("content-length:") {
                length = bytes.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        if first.starts_with("POST") {
            let mut said = vec![0; length];
            stream.read_exact(&mut said).ok()?;
            return String::from_utf8(said).ok();
        }
        let page = if first.starts_with("GET / ") { page.as_str() } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}", page.len());
        write!(stream.get_mut(), "{head}\r\nConnection: close\r\n\r\n{page}").ok()?;
    }
    None
}

/// What Chromium says of the shaders, one after the other; nothing where there is none or it has no WebGPU.
fn verdicts(folder: &Path, shaders: &[String]) -> Option<String> {
    let scripts = shaders.iter().map(|shader| {
        let name = shader.split_once("fn ").and_then(|(_, rest)| rest.split_once('(')).unwrap().0;
        format!("<script class=shader type=text/plain id={name}>{shader}</script>\n")
    });
    // The shaders stand before what reads them.
    let page = PAGE.replacen("<script>", &format!("{}<script>", scripts.collect::<String>()), 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let mut chromium = Command::new(std::env::var_os("BONFIRE_CHROMIUM").unwrap_or("chromium".into()))
        .args(["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
        .args(["--enable-features=Vulkan", &format!("--user-data-dir={}", folder.join("profile").display()), &address])
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    std::thread::spawn(move || tell.send(serve(listener, page)));
    let said = told.recv_timeout(Duration::from_secs(120));
    chromium.kill().and_then(|()| chromium.wait()).unwrap();
    said.expect("Chromium opens a page").filter(|said| !said.contains("NO ADAPTER"))
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
    assert_eq!(said.matches("ACCEPTED").count(), shaders.len() - 1, "{said}");
    assert!(said.contains("REFUSED refused"), "Tint proves that barriers are reached together: {said}");
}
