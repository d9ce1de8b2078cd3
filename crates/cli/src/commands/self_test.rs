//! `bonfire self-test`: whether a device computes right, more thoroughly than `doctor`: every operation against loops in f64
//! on the host, forward and gradients, on small awkward shapes and on those of real models, in f32 and in half the bits; small
//! models against PyTorch's numbers; training steps against the CPU's. It reads no file and compiles nothing but kernels.

mod args;
mod check;
mod checks;
mod torch;

use std::time::Instant;

use anyhow::{Result, bail};
use bonfire_experiment::checkup::answer;
use bonfire_experiment::device::Opened;
use bonfire_experiment::format::table::three;
use bonfire_experiment::log::note;
use serde::Serialize;

use self::check::Check;
use crate::common::Common;
use crate::console::{put, say};
pub use args::SelfTestArgs;

/// What a check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Near enough.
    Ok,
    /// Too far off.
    Wrong,
    /// Nothing came back.
    Failed,
}

/// One check and what it said.
#[derive(Clone, Debug, Serialize)]
struct Line {
    verdict: Verdict,
    /// What was computed.
    what: String,
    /// On which shape.
    shape: String,
    /// In which format.
    format: &'static str,
    /// The tensor that is furthest off.
    furthest: String,
    /// How far; `None`: not a number, or nothing came back.
    off: Option<f64>,
    /// How far it may be.
    allowed: f64,
    /// What the device said where nothing came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// Reference included.
    seconds: f64,
}

/// Why not all checks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Cut {
    /// The seconds asked for are over.
    TimeUp,
    /// So many failures in a row.
    Failures,
}

/// One device's lines.
#[derive(Debug, Serialize)]
struct DeviceReport {
    device: String,
    checks: usize,
    wrong: usize,
    /// Why it ended before all checks were made, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<Cut>,
    seconds: f64,
    lines: Vec<Line>,
}

/// The whole of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    bonfire: &'static str,
    tokens: usize,
    seed: u32,
    devices: Vec<DeviceReport>,
}

/// Runs the command.
///
/// # Errors
/// A device that cannot be opened, or that computes something wrong.
pub fn run(args: &SelfTestArgs, common: &Common) -> Result<()> {
    common.refuse_sets("self-test", "leave it out")?;
    let opened = common.device.clone().unwrap_or_default().open()?;
    let shown = !args.json && !common.quiet;
    let mut report =
        Report { bonfire: env!("CARGO_PKG_VERSION"), tokens: args.tokens, seed: args.seed, devices: Vec::new() };
    for device in &opened {
        report.devices.push(one(args, device, shown));
    }
    if args.json {
        put(serde_json::to_string_pretty(&report)?);
    } else {
        report.devices.iter().for_each(|device| say(device.words()));
    }
    match report.devices.iter().filter(|device| !device.is_good()).count() {
        0 => Ok(()),
        n => bail!("{n} of {} devices computed something wrong", report.devices.len()),
    }
}

/// After so many failures in a row a device is not asked again: it may hang.
const FAILURES: usize = 3;

fn one(args: &SelfTestArgs, opened: &Opened, shown: bool) -> DeviceReport {
    let start = Instant::now();
    if shown {
        say(format!("device: {}", opened.name));
    }
    let checks = checks::all(args, &opened.device);
    let (mut lines, mut cut): (Vec<Line>, _) = (Vec::new(), None);
    for check in &checks {
        if args.seconds.is_some_and(|seconds| start.elapsed().as_secs_f64() >= f64::from(seconds)) {
            cut = Some(Cut::TimeUp);
            break;
        }
        if !shown {
            note(format!("{} {}, {}", check.what, check.format, check.shape));
        }
        let line = ask(check, opened);
        if shown {
            say(line.words());
        }
        lines.push(line);
        let failures = lines.iter().rev().take_while(|line| line.verdict == Verdict::Failed).count();
        if failures == FAILURES && lines.len() < checks.len() {
            cut = Some(Cut::Failures);
            break;
        }
    }
    DeviceReport {
        device: opened.name.clone(),
        checks: checks.len(),
        wrong: lines.iter().filter(|line| line.verdict != Verdict::Ok).count(),
        cut,
        seconds: start.elapsed().as_secs_f64(),
        lines,
    }
}

/// Makes one check, which may panic inside a driver.
fn ask(check: &Check, opened: &Opened) -> Line {
    let start = Instant::now();
    let found = answer(|| (check.run)(&opened.device));
    let (verdict, off, furthest, failure) = match found {
        Err(why) => (Verdict::Failed, None, String::new(), Some(why)),
        Ok(parts) => {
            let start = (String::new(), -1.0);
            let (name, off) = parts.into_iter().fold(start, |most, one| if one.1 > most.1 { one } else { most });
            let good = (0.0..=check.allowed).contains(&off);
            let verdict = if good { Verdict::Ok } else { Verdict::Wrong };
            (verdict, Some(off).filter(|off| off.is_finite()), name, None)
        }
    };
    Line {
        verdict,
        what: check.what.clone(),
        shape: check.shape.clone(),
        format: check.format,
        furthest,
        off,
        allowed: check.allowed,
        failure,
        seconds: start.elapsed().as_secs_f64(),
    }
}

impl Line {
    fn words(&self) -> String {
        let Line { what, shape, format, furthest, allowed, .. } = self;
        let said = match (&self.failure, self.off) {
            (Some(why), _) => why.lines().next().unwrap_or_default().to_string(),
            (None, Some(off)) => format!("{furthest} off {} of {}", three(off), three(*allowed)),
            (None, None) => format!("{furthest} is not a number"),
        };
        let verdict = match self.verdict {
            Verdict::Ok => "ok    ",
            Verdict::Wrong => "WRONG ",
            Verdict::Failed => "FAILED",
        };
        format!("{verdict}  {what} in {format}, {shape}: {said}")
    }
}

impl DeviceReport {
    fn is_good(&self) -> bool {
        self.wrong == 0 && !self.lines.is_empty()
    }

    /// The end line.
    fn words(&self) -> String {
        let (device, made, seconds) = (&self.device, self.lines.len(), self.seconds);
        let left = self.checks - made;
        let rest = match self.cut {
            Some(Cut::Failures) => format!("; given up after {FAILURES} failures in a row, {left} not made"),
            Some(Cut::TimeUp) => format!("; the time was up, {left} not made"),
            None => String::new(),
        };
        match self.wrong {
            0 => format!("self-test of {device}: {made} checks in {seconds:.0} s, all ok{rest}"),
            wrong => format!("self-test of {device}: {wrong} of {made} checks WRONG or failed, {seconds:.0} s{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(off: f64) -> Check {
        Check {
            what: "norm".into(),
            shape: "[5, 7]".into(),
            format: "f32",
            allowed: 0.5,
            run: Box::new(move |_| {
                let parts = vec![("result".into(), 0.25), ("gradient".into(), off)];
                if off < 0.0 { Err("the device failed: lost".into()) } else { Ok(parts) }
            }),
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_furthest_part_decides() {
        let opened = bonfire_experiment::device::open(bonfire_experiment::device::DeviceChoice::Cpu).expect("the CPU");
        let said = |off| ask(&check(off), &opened);
        assert_eq!((said(0.3).verdict, said(0.6).verdict), (Verdict::Ok, Verdict::Wrong));
        assert_eq!(said(0.6).words(), "WRONG   norm in f32, [5, 7]: gradient off 0.600 of 0.500");
        assert_eq!(said(0.1).furthest, "result");
        let nothing = said(f64::INFINITY);
        assert_eq!((nothing.verdict, nothing.off), (Verdict::Wrong, None));
        assert_eq!(said(-1.0).words(), "FAILED  norm in f32, [5, 7]: the device failed: lost");
    }
}
