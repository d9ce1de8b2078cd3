//! Clients that mean harm, and what the server's choice of uploads makes of them.

use bonfire_federation::{RoundMetrics, Settings};
use bonfire_tests::toy::{self, finish};

const TRAIN: &str = "[train]\nrounds = 6\nepochs = 3\nbatch_size = 4\nlr_a = 5e-3\nlr_head = 2e-2";

fn settings(strategy: &str, more: &str) -> Settings {
    let clients = if strategy.contains("lora-a2") { "count = 7\nbudget = 2" } else { "count = 7" };
    let adapter = "[adapter]\nrank = 4\nhead = \"trained\"";
    toy::settings(&format!("[strategy]\nname = \"{strategy}\"\n{adapter}\n{TRAIN}\n[clients]\n{clients}\n{more}"))
}

fn rounds(settings: Settings) -> Vec<RoundMetrics> {
    assert_eq!(settings.problem(), None);
    finish(&mut toy::run(settings)).0
}

const SCALE: &str = "[attack]\nkind = \"scale\"\nshare = 0.15\nfactor = -1";

#[test]
fn a_loud_client_ruins_the_mean_and_not_the_others() {
    // One of seven; LoRA-A²'s uploads hold chosen slots alone.
    let loud = "[attack]\nkind = \"negate\"\nshare = 0.15\nfactor = 30.0";
    for strategy in ["fedit", "lora-a2"] {
        let last = |more: &str| rounds(settings(strategy, more)).last().unwrap().test_loss.unwrap();
        let (clean, ruined) = (last(""), last(loud));
        assert!(ruined > clean + 1.0, "{strategy}: {ruined} and {clean} without");
        for aggregate in [
            "name = \"krum\", attackers = 1",
            "name = \"multi-krum\", attackers = 1",
            "name = \"bulyan\", attackers = 1",
            "name = \"norm-clip\"",
            "name = \"median\"",
        ] {
            let held = last(&format!("{loud}\n[server]\naggregate = {{ {aggregate} }}"));
            assert!(held < ruined - 0.5, "{strategy}, {aggregate}: {held}, {ruined} by the mean, {clean} without");
        }
    }
}

#[test]
fn an_attack_is_no_attack_on_those_that_are_alone_and_another_seed_takes_others() {
    let loud = "[attack]\nkind = \"scale\"\nshare = 0.15\nfactor = 30.0";
    for strategy in ["local", "pooled"] {
        let of = |more: &str| rounds(settings(strategy, more)).last().map(|r| (r.train_loss, r.personal_accuracy));
        assert_eq!(of(loud), of(""), "{strategy}: nothing is sent that could be spoilt");
    }
    let flipped = "[attack]\nkind = \"label-flip\"\nshare = 0.5";
    let pooled = |more: &str| rounds(settings("pooled", more)).last().unwrap().test_loss.unwrap();
    assert!(pooled(flipped) > pooled("") + 0.1, "wrong labels are wrong in one place too");
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    for (more, key) in [
        ("[attack]\nkind = \"scale\"\nshare = 0.0", "attack.share"),
        (SCALE, "attack.factor"),
        ("[attack]\nkind = \"noise\"\nshare = 0.2\ndeviation = 0.0", "attack.deviation"),
        ("[server]\naggregate = { name = \"krum\", attackers = 3 }", "server.aggregate.attackers"),
        ("[server]\naggregate = { name = \"bulyan\", attackers = 2 }", "server.aggregate.attackers"),
        ("[server]\naggregate = { name = \"multi-krum\", attackers = 1, keep = 0 }", "server.aggregate.keep"),
        ("[server]\naggregate = { name = \"norm-clip\", norm = 0.0 }", "server.aggregate.norm"),
    ] {
        let found = settings("fedit", more).problem().expect(more);
        assert_eq!(found.key, key, "{more}: {}", found.what);
    }
    let flora =
        settings("flora", "[server]\naggregate = { name = \"krum\", attackers = 1 }").problem().expect("refused");
    assert_eq!(flora.key, "server");
}
