//! Checks a device, and what is made of the findings.

use bonfire_kernels::check::{self, Case, Way};
use burn::tensor::Device;

use super::finding::{Depth, Finding, Verdict, answer};
use super::model;
use super::purpose::Purpose;
use crate::device::Opened;
use crate::format::table::three;
use crate::user_error::UserError;

/// The verdict on a device of which these are all the findings: for one purpose, or for all.
pub fn verdict(findings: &[Finding], purpose: Option<Purpose>, software: bool) -> Verdict {
    let counts = |finding: &&Finding| match (purpose, finding.purpose) {
        (Some(purpose), Some(found)) => finding.used && purpose.asks(found),
        _ => finding.used,
    };
    let deciding = || findings.iter().filter(counts);
    if let Some((finding, why)) = deciding().find_map(|f| Some((f, f.failure.as_ref()?))) {
        return Verdict::Silent { because: format!("{}: {why}", finding.what) };
    }
    let wrong: Vec<&Finding> = deciding().filter(|finding| !finding.is_good()).collect();
    match wrong.first() {
        None if software => Verdict::Slow,
        None => Verdict::Good,
        Some(first) => {
            let more = match wrong.len() {
                1 => String::new(),
                n => format!("; {} more checks fail", n - 1),
            };
            let (what, part, allowed) = (&first.what, &first.furthest, three(first.allowed));
            Verdict::Wrong {
                because: format!("{what}: {part} differs by {}, allowed are {allowed}{more}", first.off_words()),
            }
        }
    }
}

/// Checks a device; `progress` hears what comes next.
///
/// # Errors
/// This build has no CPU backend, which is the reference.
pub fn examine(opened: &Opened, depth: Depth, progress: &dyn Fn(&str)) -> Result<Vec<Finding>, UserError> {
    let cpu = reference()?;
    let mut findings = Vec::new();
    for case in check::cases().iter().filter(|case| depth == Depth::Full || case.short) {
        progress(case.operation);
        findings.push(Finding { used: case.used, ..operation(case, &opened.device, &cpu) });
        // A device that failed once may hang at the next question.
        if findings.iter().any(|finding| finding.used && finding.failure.is_some()) {
            return Ok(findings);
        }
    }
    model::examine(&opened.device, &cpu, depth, progress, &mut findings);
    Ok(findings)
}

/// The device that all others are held against.
fn reference() -> Result<Device, UserError> {
    #[cfg(feature = "flex")]
    return Ok(Device::flex());
    #[cfg(not(feature = "flex"))]
    Err(UserError::new("this build has no CPU backend to check devices against")
        .help("build it with the Cargo feature `flex`"))
}

/// One operation against its reference on the CPU.
fn operation(case: &Case, device: &Device, cpu: &Device) -> Finding {
    let what = format!("{} ({})", case.operation, case.shape);
    let found = answer(|| case.outcome(device, Way::Operation));
    let expected = answer(|| case.outcome(cpu, Way::Reference));
    match (found, expected) {
        (Ok(found), Ok(expected)) => Finding::new(what, check::largest(&found, &expected), check::ALLOWED),
        (Err(why), _) => Finding::failed(what, check::ALLOWED, why),
        (_, Err(why)) => Finding::failed(what, check::ALLOWED, format!("the reference on the CPU: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use bonfire_kernels::check::Part;

    use bonfire_models::Precision;

    use super::super::Small;
    use super::*;

    #[test]
    fn wrong_numbers_are_a_wrong_device() {
        let part = |name: &str, value| Part { name: name.into(), values: vec![value] };
        let expected = [part("result", 0.5), part("gradient of A 0", 0.25)];
        let found = [part("result", 0.5), part("gradient of A 0", 0.75)];
        let right = Finding::new("norm", check::largest(&expected, &expected), check::ALLOWED);
        let wrong = Finding::new("linear", check::largest(&found, &expected), check::ALLOWED);
        assert!(right.is_good() && !wrong.is_good());
        assert_eq!(verdict(std::slice::from_ref(&right), None, false), Verdict::Good);
        assert_eq!(verdict(std::slice::from_ref(&right), None, true), Verdict::Slow);
        let said = verdict(&[right.clone(), wrong], None, true);
        assert!(!said.is_fit());
        assert_eq!(said.to_string(), "WRONG: linear: gradient of A 0 differs by 0.500, allowed are 1.0e-4");

        let nothing = Finding::new(
            "linear",
            check::largest(&[part("result", f32::NAN), part("gradient of A 0", 0.25)], &expected),
            check::ALLOWED,
        );
        assert!(verdict(&[nothing], None, false).to_string().contains("result differs by not a number"));
        let failed = Finding::failed("norm", check::ALLOWED, "the device failed: lost".into());
        let aside = Finding { used: false, ..failed.clone() };
        assert_eq!(verdict(&[right.clone(), aside], None, false), Verdict::Good);
        assert_eq!(
            verdict(&[right, failed], None, false).to_string(),
            "does not answer: norm: the device failed: lost"
        );
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_is_found_good() {
        let opened = crate::device::open(crate::device::DeviceChoice::Cpu).expect("the CPU");
        let full = examine(&opened, Depth::Full, &|_| ()).expect("compiled in");
        assert_eq!(verdict(&full, None, false), Verdict::Good, "{full:?}");
        for purpose in Purpose::every(&opened.device) {
            let short = examine(&opened, Depth::Short(purpose), &|_| ()).expect("compiled in");
            assert!(short.len() < full.len());
            let of: Vec<Purpose> = short.iter().filter_map(|finding| finding.purpose).collect();
            assert_eq!(of, [purpose], "the model of the run and no other");
        }
    }

    #[test]
    fn what_is_wrong_in_one_purpose_is_no_verdict_on_another() {
        let of = |model, precision| Purpose { model, precision };
        let finding = |purpose: Purpose, off: f64| Finding {
            purpose: Some(purpose),
            ..Finding::new(purpose.to_string(), (off, "gradients".into()), 0.1)
        };
        let findings = [
            finding(of(Small::Roberta, Precision::F32), 0.0),
            finding(of(Small::Roberta, Precision::Bf16), 0.5),
            finding(of(Small::Llama, Precision::F32), 0.5),
            finding(of(Small::Llama, Precision::Bf16), 0.0),
        ];
        let good = |model, precision| verdict(&findings, Some(of(model, precision)), false) == Verdict::Good;
        assert!(good(Small::Roberta, Precision::F32) && !good(Small::Roberta, Precision::Bf16));
        // Half precision needs f32 beside it.
        assert!(!good(Small::Llama, Precision::F32) && !good(Small::Llama, Precision::Bf16));
        assert!(!verdict(&findings, None, false).is_fit());
        // What is no model's is everybody's.
        let common = [Finding::new("AdamW", (0.5, "movement".into()), 0.1)];
        assert!(!verdict(&common, Some(of(Small::Bert, Precision::F32)), false).is_fit());
    }
}
