//! A federation whose clients live on several sites is the run that has them all in one process: the same uploads, the same
//! server, the same ledger, whatever the strategy, though only messages cross.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_engine::{Plan, Slots, TargetSlots, Trained, Upload};
use bonfire_federation::{
    Checkpoint, Coordinator, Download, DownloadError, Event, RoundMetrics, Run, Server, Settings, Site,
};
use bonfire_models::Matrix;
use bonfire_tests::toy::{self, STRATEGIES};
use proptest::prelude::*;

/// Besides every strategy: what else crosses.
const RUNS: &[&str] = &[
    "[strategy]\nname = \"hetlora\"\nweight = 5.0\n[clients]\ncount = 4\nbudget = [1, 4, 2, 3]\n[wire]\nupload = \"f16\"\n",
    "[strategy]\nname = \"full\"",
    "[strategy]\nname = \"fedit\"\n[wire]\ndownload = \"int8\"",
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2\n[wire]\nupload = \"bf16\"\ndownload = \"f16\"",
    "[strategy]\nname = \"hetlora\"\n[clients]\ncount = 4\nbudget = [1, 4, 2, 3]\n[wire]\ndownload = \"bf16\"",
    "[strategy]\nname = \"fslora\"\n[clients]\ncount = 4\nbudget = 2\n[wire]\ndownload = \"int8\"",
    "[strategy]\nname = \"fed-sb\"\n[wire]\ndownload = \"bf16\"",
    "[strategy]\nname = \"full\"\n[wire]\ndownload = \"bf16\"",
    "[strategy]\nname = \"fedit\"\n[attack]\nkind = \"backdoor\"\nshare = 0.5\ntarget = 1\nfactor = 2.0",
    "[strategy]\nname = \"fedit\"\n[server]\noptimizer = { name = \"fedadam\", lr = 0.01 }",
    "[strategy]\nname = \"fedit\"\n[server]\naggregate = { name = \"q-fedavg\", q = 2.0 }",
    "[strategy]\nname = \"fedsa-lora\"\n[server]\naggregate = { name = \"q-fedavg\" }",
    "[strategy]\nname = \"fedit\"\n[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\nscaffold = true",
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 6\nper_round = 3\ndropout = 0.3\nbudget = 1",
    "[strategy]\nname = \"flora\"\n[clients]\ncount = 6\nper_round = 2",
    "[strategy]\nname = \"clustered\"\ngroups = 3\n[clients]\ncount = 6\nper_round = 3\ndropout = 0.3",
    "[strategy]\nname = \"fslora\"\n[clients]\ncount = 6\nper_round = 4\ndropout = 0.3\nbudget = 2",
    "[strategy]\nname = \"fed-plora\"\n[clients]\ncount = 4\nbudget = [1, 4, 2, 3]",
    "[strategy]\nname = \"hetlora\"\nweight = 5.0\n[clients]\ncount = 4\nbudget = [1, 4, 2, 3]",
    "[strategy]\nname = \"fedit\"\n[privacy]\nkind = \"laplace\"\nepsilon = 5.0\nclip = 1.0\nreproducible = true",
    "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2\nper_round = 3\n[privacy]\nkind = \"gaussian\"\nclip = 1.0\nnoise = 0.5\nreproducible = true",
];

pub(super) fn settings(sections: &str) -> Settings {
    let train = if sections.contains("[train]") { "" } else { "[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\n" };
    toy::settings(&format!("{train}[adapter]\nrank = 4\nhead = \"trained\"\n{sections}"))
}

fn all() -> impl Iterator<Item = String> {
    let strategies = STRATEGIES.iter().filter(|strategy| !strategy.contains("pooled"));
    let strategies = strategies.map(|strategy| format!("[strategy]\n{strategy}"));
    strategies.chain(RUNS.iter().map(|text| text.to_string()))
}

/// Every client's share of the model on sites of two, one and the rest.
pub(super) fn sites(settings: &Settings) -> Vec<Site> {
    let clients: Vec<usize> = (0..settings.clients.count).collect();
    [&clients[..2], &clients[2..3], &clients[3..]].map(|own| toy::site(settings, own)).into()
}

pub(super) fn coordinator(settings: &Settings) -> Coordinator {
    Coordinator::new(settings.clone(), &toy::model(settings), settings.clients.count).unwrap()
}

/// The orders as they arrive.
fn sent(plan: &Plan) -> Plan {
    let (text, tensors) = plan.to_message();
    Plan::from_message(&text, &tensors).unwrap()
}

/// Trains a site and reads its messages; the uploads that the server sees.
pub(super) fn train(site: &mut Site, server: &Coordinator, plan: &Plan, cohort: &[usize], whole: bool) -> Vec<Upload> {
    let since = if whole { 0 } else { site.holds() };
    let download = server.download(since, Some(site.clients()));
    let plan_there = sent(plan);
    assert_eq!(&plan_there, plan);
    site.receive(download, Some(&plan_there)).unwrap();
    let trained = site.train(&plan_there, cohort, &mut |_| ControlFlow::Continue(())).unwrap();
    let Trained { uploads, .. } = trained.continue_value().unwrap();
    let read = |u: Upload| {
        let told =
            Upload { loss: u.loss, steps: u.steps, tokens: u.tokens, ..server.decode(&u.encode(), plan).unwrap() };
        // Uploads are too long to be printed.
        assert_eq!(told.slots, u.slots, "{} of client {}", plan.active.name(), u.client);
        assert!(told == u, "{} of client {}: {}, {}", plan.active.name(), u.client, shapes(&told), shapes(&u));
        told
    };
    uploads.into_iter().map(read).collect()
}

/// What an upload holds, without the numbers.
fn shapes(upload: &Upload) -> String {
    let matrices: Vec<_> = upload.matrices().map(|m| (m.rows, m.cols)).collect();
    let aux: Vec<_> = upload.aux.iter().map(|(name, list)| (*name, list.len())).collect();
    format!("{} {} {matrices:?} {aux:?}", upload.client, upload.examples)
}

/// A round over the sites that are `here`.
fn round(server: &mut Coordinator, sites: &mut [&mut Site], whole: bool) -> RoundMetrics {
    let (plan, cohort) = (server.plan(), server.cohort());
    let uploads: Vec<Upload> = sites.iter_mut().flat_map(|site| train(site, server, &plan, &cohort, whole)).collect();
    let here = |client: &usize| sites.iter().any(|site| site.clients().contains(client));
    let asked: Vec<usize> = cohort.into_iter().filter(here).collect();
    let sent: Vec<usize> = uploads.iter().map(|u| u.client).collect();
    let dropped: Vec<usize> = asked.into_iter().filter(|client| !sent.contains(client)).collect();
    let (traffic, _) = server.aggregate(&plan, &uploads, &sent, &dropped).unwrap();
    RoundMetrics { dropped, ..server.row(&plan, &uploads, traffic, None) }
}

/// Three honest clients and one that sends, round after round, what an average would not survive, what cannot be read, and what is
/// another's: the model is the one of the three.
#[test]
fn a_client_that_means_harm_changes_nothing() {
    let settings = settings("[server]\nmax_norm = 50.0\nmax_examples = 1000\n[strategy]\nname = \"fedit\"");
    type Harm = (fn(&mut Upload), fn(&mut Vec<u8>));
    fn fill(u: &mut Upload, value: f32) {
        u.factors.iter_mut().flat_map(|(_, list)| list).for_each(|m| m.data.fill(value));
    }
    let harm: [Harm; 8] = [
        (|u| fill(u, 3e38), |_| {}),
        (|u| fill(u, f32::NAN), |_| {}),
        (|u| u.examples = u32::MAX as usize, |_| {}),
        (|u| u.loss = 1e308, |_| {}),
        (|_| {}, |bytes| bytes.truncate(bytes.len() / 2)),
        (|_| {}, Vec::clear),
        (|_| {}, |bytes| bytes[..4].copy_from_slice(&9u32.to_le_bytes())),
        (|_| {}, |bytes| bytes.extend([0; 4])),
    ];
    for (spoil, spoil_bytes) in harm {
        let (mut server, mut honest) = (coordinator(&settings), coordinator(&settings));
        let (mut three, mut evil) = (toy::site(&settings, &[0, 1, 2]), toy::site(&settings, &[3]));
        while !server.is_finished() {
            let (plan, cohort) = (server.plan(), server.cohort());
            let uploads = train(&mut three, &server, &plan, &cohort, false);
            let mut bad = train(&mut evil, &server, &plan, &cohort, true).remove(0);
            spoil(&mut bad);
            let mut bytes = bad.encode();
            spoil_bytes(&mut bytes);
            let read = server.decode(&bytes, &plan).map(|u| Upload { loss: bad.loss, ..u });
            assert!(read.map_or(true, |u| server.disbelieves(&u).is_some()), "it is taken");
            server.aggregate(&plan, &uploads, &[0, 1, 2], &[3]).unwrap();
            honest.aggregate(&plan, &uploads, &[0, 1, 2], &[3]).unwrap();
            assert_eq!(server.server(), honest.server());
        }
        assert!(server.server().adapter.is_finite());
    }
}

fn rows_of(run: &mut Run) -> Vec<RoundMetrics> {
    let mut rows = Vec::new();
    run.train(&mut |event| {
        if let Event::RoundEnded { metrics, .. } = event {
            rows.push(without_tests(metrics));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

fn without_tests(row: &RoundMetrics) -> RoundMetrics {
    // Nor does a server know how many clients its sites had in flight.
    let clock = RoundMetrics { seconds: 0.0, train_seconds: 0.0, times: None, in_flight: 0, ..row.clone() };
    RoundMetrics {
        test_loss: None,
        test_accuracy: None,
        test_macro_f1: None,
        test_macro_precision: None,
        test_macro_recall: None,
        test_micro_f1: None,
        test_pearson: None,
        test_spearman: None,
        test_f1: None,
        test_precision: None,
        test_recall: None,
        attack_success: None,
        test_matthews: None,
        personal_accuracy: None,
        personal_loss: None,
        personal_macro_f1: None,
        personal_matthews: None,
        personal_pearson: None,
        personal_spearman: None,
        personal_f1: None,
        ..clock
    }
}

/// The largest difference between two models, by the largest number of the second.
pub(super) fn apart(one: &Server, other: &Server) -> f32 {
    let matrices_of = |server: &Server| {
        let model = server.model();
        let matrices = model.a.into_iter().chain(model.b).chain(model.weights);
        matrices.chain(model.head.into_iter().map(|t| t.value)).collect::<Vec<Matrix>>()
    };
    let (one, other) = (matrices_of(one), matrices_of(other));
    let pairs = || one.iter().zip(&other).flat_map(|(x, y)| x.data.iter().zip(&y.data));
    let largest = pairs().fold(0f32, |m, (_, y)| m.max(y.abs()));
    pairs().fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

#[test]
fn sites_that_get_messages_are_a_run() {
    for sections in all() {
        let settings = settings(&sections);
        let mut run = toy::run(settings.clone());
        let expected = rows_of(&mut run);
        let (mut server, mut sites) = (coordinator(&settings), sites(&settings));
        let mut there: Vec<&mut Site> = sites.iter_mut().collect();
        let rows: Vec<RoundMetrics> = (0..4).map(|_| round(&mut server, &mut there, false)).collect();
        assert!(server.is_finished());
        for (row, expected) in rows.iter().zip(&expected) {
            let counts = |r: &RoundMetrics| RoundMetrics { train_loss: 0.0, ..r.clone() };
            assert_eq!(counts(row), counts(expected), "{sections}");
            assert!((row.train_loss - expected.train_loss).abs() < 1e-4 * expected.train_loss, "{sections}");
        }
        // Sums over another batch of clients round differently; see the batched runs in `strategies.rs`.
        let apart = apart(server.server(), run.server());
        assert!(apart < 2e-3, "{sections}: apart by {apart:e}");
    }
}

#[test]
fn one_client_at_a_time_is_the_same_bit_by_bit_however_clients_are_spread() {
    // Rounding by chance turns a difference in the seventh digit into one of a whole step.
    let short = "[strategy]\nname = \"fedit\"\n[wire]\nupload = \"int4\"\nhead = \"bf16\"\ndeflate = true";
    let few =
        "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2\n[wire]\nupload = \"int8\"\ntop_k = 0.3";
    let plain = ["[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2", "[strategy]\nname = \"flora\""];
    // What everybody starts from is rounded, and the server's own model is not.
    let coarse = "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2\n[wire]\ndownload = \"int4\"";
    let halved =
        "[strategy]\nname = \"hetlora\"\n[clients]\ncount = 4\nbudget = [1, 4, 2, 3]\n[wire]\ndownload = \"bf16\"";
    for sections in plain.into_iter().chain([short, few, coarse, halved]) {
        let settings = toy::with_in_flight(settings(sections), bonfire_federation::InFlight::Count(1));
        let mut run = toy::run(settings.clone());
        rows_of(&mut run);
        let (mut server, mut sites) = (coordinator(&settings), sites(&settings));
        let mut there: Vec<&mut Site> = sites.iter_mut().collect();
        (0..4).for_each(|_| drop(round(&mut server, &mut there, false)));
        assert!(server.server() == run.server(), "{sections}");
    }
}

#[test]
fn what_a_site_lacks_is_what_it_needs() {
    // A site that hears of every round, one that hears of everything anew, one that joins late, and one that was stored and
    // taken up again in between end with the same copy.
    for sections in all() {
        let settings = settings(&sections);
        let (mut server, mut sites) = (coordinator(&settings), sites(&settings));
        let (mut other_server, mut others) = (coordinator(&settings), self::sites(&settings));
        for at in 0..4 {
            if at == 2 {
                let state = sites[1].state();
                sites[1] = toy::site(&settings, &[2]);
                sites[1].restore(&state).unwrap();
                let saved = server.checkpoint(&BTreeMap::new());
                server = coordinator(&settings);
                server.resume(Checkpoint::read(&saved).unwrap()).unwrap();
            }
            round(&mut server, &mut sites.iter_mut().collect::<Vec<_>>(), false);
            round(&mut other_server, &mut others.iter_mut().collect::<Vec<_>>(), true);
        }
        assert!(server.server() == other_server.server(), "{sections}");
    }
}

#[test]
fn a_coded_download_is_as_long_as_the_ledger_counts() {
    for sections in RUNS.iter().filter(|sections| sections.contains("download = ")) {
        let settings = settings(sections);
        let mut server = coordinator(&settings);
        let clients: Vec<usize> = (0..settings.clients.count).collect();
        let mut sites: Vec<Site> = clients.iter().map(|&client| toy::site(&settings, &[client])).collect();
        for at in 0..3 {
            let of = |client: usize| server.download(sites[client].holds(), Some(&[client]));
            let downloads: Vec<Download> = clients.iter().map(|&client| of(client)).collect();
            // Before anything has moved the head is everybody's own, and so is every weight.
            assert!(at == 0 || downloads.iter().all(|d| !d.coded.is_empty() && d.parts.is_empty()), "{sections}");
            let bytes: u64 = downloads.iter().filter(|d| !d.coded.is_empty()).map(Download::bytes).sum();
            let row = round(&mut server, &mut sites.iter_mut().collect::<Vec<_>>(), false);
            assert_eq!(row.download_bytes, bytes, "{sections}: round {}", row.round);
        }
    }
}

#[test]
fn coded_downloads_that_do_not_fit_are_refused() {
    let settings = settings("[strategy]\nname = \"fedit\"\n[wire]\ndownload = \"int8\"");
    let server = coordinator(&settings);
    let (mut site, plan) = (toy::site(&settings, &[0, 1]), server.plan());
    let whole = server.download(0, Some(&[0, 1]));
    let mut refused = |change: &dyn Fn(&mut Download), words: &str| refuses(&mut site, &plan, &whole, change, words);
    refused(&|d| d.coded.get_mut("a").unwrap().truncate(3), "its part \"a\" holds 3 bytes");
    // Two bytes of ones are no number in bf16, in which the scales are.
    refused(&|d| d.coded.get_mut("a").unwrap()[..2].fill(0xff), "its part \"a\" holds what is no number");
    refused(&|d| drop(d.coded.insert("head".into(), vec![0; 3])), "its part \"head\" holds 3 bytes");
    refused(&|d| drop(d.coded.insert("else".into(), vec![0; 3])), "none that this version knows");
}

#[test]
fn a_site_that_is_lost_is_made_up_for_and_counted() {
    let settings = settings("[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2");
    let (mut server, mut sites) = (coordinator(&settings), sites(&settings));
    let [one, two, three] = &mut sites[..] else { unreachable!() };
    let first = round(&mut server, &mut [one, two, three], false);
    // Round 2 goes on without the third site, which had been sent its part.
    let (plan, cohort) = (server.plan(), server.cohort());
    let uploads: Vec<Upload> =
        [one, two].into_iter().flat_map(|site| train(site, &server, &plan, &cohort, false)).collect();
    let (traffic, _) = server.aggregate(&plan, &uploads, &[0, 1, 2], &[3]).unwrap();
    assert!(traffic.lost_download_bytes > 0 && traffic.upload_bytes < first.upload_bytes);
    server.forget(&[3]);
    // Another one takes its place in round 3, and needs A and B where the others lack A alone.
    let mut fresh = toy::site(&settings, &[3]);
    let [one, two, _] = &mut sites[..] else { unreachable!() };
    let since = one.holds();
    let lacks = |d: Download| d.parts.into_keys().collect::<Vec<_>>();
    assert_eq!(lacks(server.download(since, Some(&[0, 1]))), ["a", "head"]);
    assert_eq!(lacks(server.download(0, Some(&[3]))), ["a", "b", "head"]);
    let before = server.download(0, Some(&[3]));
    assert_eq!(before, server.download(0, None), "nothing is limited here");
    // One that has the round's start already lacks nothing.
    one.receive(server.download(since, Some(&[0, 1])), None).unwrap();
    assert_eq!(one.holds(), 3);
    assert!(server.download(3, Some(&[0, 1])).parts.is_empty());
    let third = round(&mut server, &mut [one, two, &mut fresh], false);
    let a_client = (first.download_bytes - 4 * 12) / 4;
    assert!(third.download_bytes > 4 * a_client, "{} {}", third.download_bytes, first.download_bytes);
    assert_eq!(server.plan().round, 4);
    let stale = Download { since: 3, round: 4, ..Download::default() };
    let mut unknown = toy::site(&settings, &[3]);
    let error = unknown.receive(stale, None).unwrap_err();
    assert_eq!(error, DownloadError::Stale { since: 3, holds: 0 });
    assert_eq!(error.to_string(), "it completes the start of round 3, and the site holds nothing");
}

/// That `site` refuses `whole` after `change` in these words, and is as it was.
#[track_caller]
fn refuses(site: &mut Site, plan: &Plan, whole: &Download, change: &dyn Fn(&mut Download), words: &str) {
    let mut download = whole.clone();
    change(&mut download);
    let state = site.state();
    let error = site.receive(download, Some(plan)).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    assert_eq!(site.state(), state, "a refused download changes nothing");
}

#[test]
fn groups_that_do_not_fit_are_refused() {
    let settings = settings("[strategy]\nname = \"clustered\"\ngroups = 2");
    let mut server = coordinator(&settings);
    let mut site = toy::site(&settings, &[0, 1]);
    let mut others = toy::site(&settings, &[2, 3]);
    let plan = server.plan();
    let mut uploads = Vec::new();
    for (site, own) in [(&mut site, [0, 1]), (&mut others, [2, 3])] {
        site.receive(server.download(0, Some(&own)), Some(&plan)).unwrap();
        let trained = site.train(&plan, &own, &mut |_| ControlFlow::Continue(())).unwrap();
        uploads.extend(trained.continue_value().unwrap().uploads);
    }
    server.aggregate(&plan, &uploads, &[0, 1, 2, 3], &[]).unwrap();
    let (plan, whole) = (server.plan(), server.download(1, Some(&[0, 1])));
    let of = whole.parts["groups"].clone();
    assert!(of[0] == 1.0 && of[1] > 0.0 && of[2..] == [0.0, 0.0], "its own clients alone: {of:?}");
    let mut refused = |change: &dyn Fn(&mut Download), words: &str| refuses(&mut site, &plan, &whole, change, words);
    let number = "its part \"groups\" must be one whole number a client";
    refused(&|d| d.parts.get_mut("groups").unwrap().truncate(3), number);
    refused(&|d| d.parts.get_mut("groups").unwrap()[0] = 1.5, number);
    refused(&|d| d.parts.get_mut("groups").unwrap()[0] = 5.0, number);
    refused(&|d| d.parts.get_mut("groups").unwrap()[0] = -1.0, number);
    refused(&|d| d.parts.get_mut("group-0").unwrap().truncate(7), "its part \"group-0\" is not as long");
    refused(&|d| drop(d.parts.remove("group-0")), "its part \"group-0\" is missing");
    refused(&|d| drop(d.parts.insert("group-9".into(), vec![0.0; 3])), "none that this version knows");
    site.receive(whole, Some(&plan)).unwrap();
    let mut odd = plan.clone();
    odd.private.factors.pop();
    let error = site.train(&odd, &[0, 1], &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("private"), "{error}");
}

#[test]
fn orders_and_downloads_that_do_not_fit_are_refused() {
    let settings = settings("[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2");
    let server = coordinator(&settings);
    let mut site = toy::site(&settings, &[0, 1]);
    let plan = server.plan();
    let whole = server.download(0, Some(&[0, 1]));
    let error = site.train(&plan, &[0, 1], &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("the plan is of round 1, and the site holds the start of 0"), "{error}");
    let mut refused = |change: &dyn Fn(&mut Download), words: &str| refuses(&mut site, &plan, &whole, change, words);
    refused(&|d| d.parts.get_mut("a").unwrap().truncate(3), "its part \"a\" holds");
    refused(&|d| d.parts.get_mut("a").unwrap()[0] = f32::NAN, "no number");
    refused(&|d| drop(d.parts.insert("b".into(), vec![0.0; 3])), "its part \"b\" holds 3 numbers");
    refused(&|d| drop(d.parts.insert("head".into(), vec![0.0; 3])), "its part \"head\" holds 3 numbers, expected");
    refused(&|d| drop(d.parts.insert("merged-to".into(), vec![1e30; 12])), "one whole number a target");
    refused(&|d| drop(d.parts.insert("merged-to".into(), vec![9e5; 12])), "does not say how much");
    refused(&|d| drop(d.parts.insert("else".into(), vec![0.0; 3])), "none that this version knows");
    refused(&|d| drop(d.parts.insert("groups".into(), vec![0.0; 4])), "none that this version knows");
    refused(&|d| d.round = 0, "is 0");
    site.receive(whole, Some(&plan)).unwrap();
    let mut refused = |change: &dyn Fn(&mut Plan), words: &str| {
        let mut plan = plan.clone();
        change(&mut plan);
        let error = site.train(&plan, &[0, 1], &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|p| p.active = bonfire_engine::Active::Full, "active");
    refused(&|p| p.active = bonfire_engine::Active::Core, "active");
    refused(&|p| p.live = Some(TargetSlots::first(1, 1)), "live");
    refused(&|p| p.live = Some(TargetSlots::first(9, p.selection.as_ref().unwrap().budgets.len() * 3)), "live");
    refused(&|p| p.ranks = Some(vec![1]), "ranks");
    refused(&|p| p.selection.as_mut().unwrap().budgets.clear(), "selection");
    refused(&|p| p.lr_b = f64::NAN, "learning rates");
    refused(&|p| p.private.targets = vec![99], "private");
    assert!(Plan::from_message("{}", &BTreeMap::new()).unwrap_err().contains("not a plan"));
}

#[test]
fn uploads_that_were_tampered_with_are_refused() {
    let settings = settings("[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2");
    let server = coordinator(&settings);
    let mut site = toy::site(&settings, &[0]);
    let plan = server.plan();
    site.receive(server.download(0, Some(&[0])), Some(&plan)).unwrap();
    let upload = site
        .train(&plan, &[0], &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .continue_value()
        .unwrap()
        .uploads
        .remove(0);
    let bytes = upload.encode();
    let Slots::Chosen { slots, .. } = &upload.slots else { panic!("slots were chosen") };
    assert!(slots.iter().map(Vec::len).sum::<usize>() == 2 * slots.len());
    let refused = |bytes: &[u8], words: &str| {
        let error = server.decode(bytes, &plan).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let changed = |at: usize, with: u32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&with.to_le_bytes());
        bytes
    };
    refused(b"", "not an upload");
    refused(&changed(0, 7), "not an upload");
    refused(&changed(4, 4), "client 4, and the federation has 4");
    refused(&changed(8, 0), "no examples");
    refused(&changed(12, 2), "slots are chosen");
    refused(&changed(12, 2 | 4), "does not hold what this round trains");
    refused(&changed(16, 5), "rank 5");
    refused(&changed(20, u32::MAX), "its budget is");
    refused(&changed(bytes.len() - 4, f32::NAN.to_bits()), "not finite");
    refused(&bytes[..bytes.len() - 4], "bytes of numbers, expected");
    refused(&bytes[..21], "cut short");
    let short = [&bytes[..], &[0; 4]].concat();
    refused(&short, "bytes of numbers, expected");
}

proptest! {
    #![proptest_config(crate::cases::cases(200))]

    #[test]
    fn any_bytes_are_no_panic(head in any::<[u8; 16]>(), body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let settings = settings("[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 2");
        thread_local! {
            static SERVER: std::cell::OnceCell<Coordinator> = const { std::cell::OnceCell::new() };
        }
        SERVER.with(|server| {
            let server = server.get_or_init(|| coordinator(&settings));
            let bytes = [b"BFU1".as_slice(), &head, &body].concat();
            let _ = server.decode(&bytes, &server.plan());
            let text = String::from_utf8_lossy(&bytes);
            let _ = Plan::from_message(&text, &BTreeMap::new());
        });
    }
}
