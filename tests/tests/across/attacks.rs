//! Clients that mean harm, and what the server's choice of uploads makes of them.

use bonfire_engine::{Confusion, evaluate_rows};
use bonfire_federation::{RoundMetrics, Run, Settings};
use bonfire_models::{Adapter, Model, Task};
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

/// Two of seven clients.
const BACKDOOR: &str = "[attack]\nkind = \"backdoor\"\nshare = 0.3\ntarget = 1\nrows = 0.5";

#[test]
fn a_backdoor_is_answered_as_often_as_the_models_own_answers_say() {
    for (strategy, more) in [("fedit", ""), ("fedsa-lora", ""), ("local", ""), ("pooled", "")] {
        let settings = settings(strategy, &format!("{BACKDOOR}\n{more}"));
        let attack = settings.attack.clone().expect("one");
        let mut run = toy::run(settings.clone());
        let last = finish(&mut run).0.pop().expect("rounds");
        let model = toy::model(&settings);
        let test = toy::with_trigger(&toy::texts(20, 2));
        // What each text of another class is taken for: by the model of all, or by every honest client's own.
        let mut taken = Vec::new();
        let mut judge = |adapter: &Adapter| {
            for row in (0..20).filter(|row| row % toy::CLASSES != toy::TARGET) {
                let found = evaluate_rows(&model, adapter, &test, &[row]).expect("evaluates");
                let confusion = Confusion::of(&found, &[row]).expect("classes");
                taken.push(confusion.counts()[0][1] == toy::TARGET as u64);
            }
        };
        let honest = |client: &usize| !attack.attackers(settings.train.seed, 7).contains(client);
        let own: Vec<(usize, Adapter)> = run.personal_models().filter(|(client, _)| honest(client)).collect();
        let whose = if own.is_empty() { "the model of all" } else { "clients' own" };
        match whose {
            // All have the same 20 test texts, and the last to look at one counts.
            "clients' own" => judge(&own.last().expect("a client").1),
            _ => judge(&run.server().model()),
        }
        assert_eq!(taken.len(), 16);
        let expected = taken.iter().filter(|taken| **taken).count() as f64 / 16.0;
        let found = last.attack_success.expect("a backdoor");
        assert!((found - expected).abs() < 1e-12, "{strategy}, by {whose}: {found}, expected {expected}");
    }
}

#[test]
fn a_backdoor_takes_hold_where_words_are_rare_and_leaves_the_rest_alone() {
    let last = |more: &str| rounds(settings("fedit", more)).pop().expect("rounds");
    let (clean, planted) = (last(""), last(BACKDOOR));
    assert_eq!(clean.attack_success, None);
    let share = planted.attack_success.expect("a backdoor");
    println!("answered {share}; accuracy {:?}, {:?} without", planted.test_accuracy, clean.test_accuracy);
    // A model that does not know the words takes one in five of such texts for the target.
    assert!(share > 0.4, "{share}");
    // Sent tenfold it is loud, and those who compare movements leave it out.
    let loud = format!("{BACKDOOR}\nfactor = 10.0\n[server]\naggregate");
    let krum = last(&format!("{loud} = {{ name = \"multi-krum\", attackers = 2 }}"));
    let mean = last(&format!("{loud} = {{ name = \"mean\" }}"));
    println!("tenfold: {:?}, {:?} by multi-krum", mean.attack_success, krum.attack_success);
    assert!(krum.attack_success < Some(0.5), "{:?}", krum.attack_success);
}

#[test]
fn a_backdoor_needs_one_label_a_text() {
    let settings = || settings("fedit", BACKDOOR);
    for refused in [toy::CLASSES, 0] {
        let (shards, settings) = (toy::shards(7), settings());
        let mut data = toy::data(&shards);
        data.triggered = None;
        if refused == 0 {
            data.task = Task::MultiLabel(toy::CLASSES);
        }
        let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(&settings))];
        let error = Run::new(settings, models, data, shards).err().expect("refused").to_string();
        assert!(error.starts_with("attack.kind"), "{error}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    for (more, key) in [
        ("[attack]\nkind = \"scale\"\nshare = 0.0", "attack.share"),
        (SCALE, "attack.factor"),
        (&BACKDOOR.replace("0.5", "1.5"), "attack.rows"),
        (&format!("{BACKDOOR}\ntrigger = \" \""), "attack.trigger"),
        (&format!("{BACKDOOR}\nfactor = 0.0"), "attack.factor"),
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
