//! Privacy that holds: noise that nobody can compute, on everything that is released, and an ε that is told only where it holds.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_engine::{ClientPrivacy, Upload};
use bonfire_federation::{Checkpoint, Coordinator, Event, RoundMetrics, Settings};
use bonfire_models::{Adapter, Factor, Matrix};
use bonfire_tests::toy::{self, Finished, finish};

fn settings(more: &str) -> Settings {
    let strategy = if more.contains("[strategy]") { "" } else { "[strategy]\nname = \"fedit\"\n" };
    let train = if more.contains("[train]") { "" } else { "[train]\nrounds = 2\nlr_a = 1e-3\nbatch_size = 4\n" };
    toy::settings(&format!("{strategy}{train}{more}"))
}

fn gaussian(more: &str) -> String {
    format!("[privacy]\nkind = \"gaussian\"\nclip = 1.0\n{more}")
}

fn numbers(adapter: &Adapter) -> Vec<f64> {
    adapter.a.iter().chain(&adapter.b).flat_map(|m| &m.data).map(|v| f64::from(*v)).collect()
}

fn size(values: impl Iterator<Item = f64>) -> f64 {
    let squares: Vec<f64> = values.map(|v| v * v).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// The attack: the noise of one run, known from a second run of the same configuration without noise, is taken off a third.
/// What is left is as noisy as before, or noisier, unless the noise is everybody's to compute.
#[test]
fn the_noise_of_one_run_cannot_be_taken_off_another() {
    let one_round = "[train]\nrounds = 1\nlr_a = 1e-3\nbatch_size = 4\n";
    let (laplace, whole) = ("[privacy]\nkind = \"laplace\"\nclip = 1.0\n", "epsilon = 1e12");
    let cases = [
        (gaussian("noise = 1.0"), gaussian("noise = 0.0")),
        (format!("{laplace}epsilon = 1.0"), format!("{laplace}{whole}")),
    ];
    for (noisy, clean) in cases {
        for reproducible in [false, true] {
            let end_numbers = |privacy: &str| {
                let text = format!("{one_round}{privacy}\nreproducible = {reproducible}");
                numbers(&finish(&mut toy::run(settings(&text))).2[1].adapter)
            };
            let (first, clean, third) = (end_numbers(&noisy), end_numbers(&clean), end_numbers(&noisy));
            let noise = size(first.iter().zip(&clean).map(|(x, y)| x - y));
            let left = size(first.iter().zip(&clean).zip(&third).zip(&clean).map(|(((x, y), z), c)| z - (x - y) - c));
            if reproducible {
                assert!(left < 1e-6 * noise, "{noisy}: {left} is left of {noise}")
            } else {
                assert!(noise > 1e-4 && left > noise, "{noisy}: {left} is left of {noise}")
            }
        }
    }
}

/// Rows of a factor that differ between two adapters, and how many there are.
fn moved(before: &Adapter, after: &Adapter, factor: Factor) -> [usize; 2] {
    let (mut moved, mut all) = (0, 0);
    for t in 0..before.targets.len() {
        let (x, y) = (before.slot_rows(factor, t), after.slot_rows(factor, t));
        let rows = x.data.chunks(x.cols).zip(y.data.chunks(y.cols));
        rows.for_each(|(x, y)| (moved, all) = (moved + usize::from(x != y), all + 1));
    }
    [moved, all]
}

#[test]
fn every_slot_is_noised_whoever_chose_it_and_whoever_came() {
    let lora_a2 = "[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 1\n";
    let (_, rows, states) = finish(&mut toy::run(settings(&format!("{lora_a2}{}", gaussian("noise = 1.0")))));
    let chosen: usize = rows[0].slots.as_ref().unwrap().iter().map(Vec::len).sum();
    assert_eq!(chosen, 12, "a quarter of the slots");
    assert_eq!(moved(&states[0].adapter, &states[1].adapter, Factor::B), [48, 48]);
    assert_eq!(moved(&states[1].adapter, &states[2].adapter, Factor::A), [48, 48]);
    assert_eq!(moved(&states[0].adapter, &states[1].adapter, Factor::A)[0], 0, "the frozen factor is not touched");

    // One client of four is expected; some rounds have none.
    let few =
        format!("[train]\nrounds = 14\nlr_a = 1e-3\n[clients]\ncount = 4\nper_round = 1\n{}", gaussian("noise = 1.0"));
    let (_, rows, states) = finish(&mut toy::run(settings(&few)));
    let empty: Vec<usize> = (1..=14).filter(|round| rows.iter().all(|row| row.round != *round)).collect();
    assert!(!empty.is_empty() && empty.len() < 14, "{empty:?}");
    for round in empty {
        let (before, after) = (&states[round - 1].adapter, &states[round].adapter);
        assert_eq!([moved(before, after, Factor::A), moved(before, after, Factor::B)], [[48, 48]; 2], "round {round}");
        // Deviation z·C/m.
        let noise = size(numbers(before).iter().zip(numbers(after)).map(|(x, y)| x - y));
        assert!((noise - 1.0).abs() < 0.1, "{noise}");
    }
}

#[test]
fn a_secret_survives_in_the_checkpoint_and_nowhere_else() {
    let text =
        format!("[train]\nrounds = 4\nlr_a = 1e-3\n[clients]\ncount = 4\nper_round = 2\n{}", gaussian("noise = 0.5"));
    let mut run = toy::run(settings(&text));
    run.train(&mut |event| match event {
        Event::RoundEnded { metrics, .. } if metrics.round == 2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    let bytes = run.checkpoint(&BTreeMap::new());
    run.train(&mut |_| ControlFlow::Continue(())).unwrap();
    let mut other = toy::run(settings(&text));
    other.resume(Checkpoint::read(&bytes).unwrap()).unwrap();
    other.train(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(run.server(), other.server(), "the same noise, the same cohorts");
    let mut fresh = toy::run(settings(&text));
    fresh.train(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_ne!(run.server(), fresh.server());
    assert!(!format!("{:?}", settings(&text)).contains("Secret"));
}

#[test]
fn the_server_clips_again() {
    let settings = settings(&gaussian("noise = 0.0"));
    let mut server = Coordinator::new(settings.clone(), &toy::model(&settings), 4).unwrap();
    let mut site = toy::site(&settings, &[0, 1, 2, 3]);
    let (plan, cohort) = (server.plan(), server.cohort());
    site.receive(server.download(0, None), Some(&plan)).unwrap();
    let mut uploads =
        site.train(&plan, &cohort, &mut |_| ControlFlow::Continue(())).unwrap().continue_value().unwrap().uploads;
    let honest = uploads.clone();
    // One client that does not clip, and sends what is as large as f32 goes.
    let stretch = |m: &mut Matrix| m.data.iter_mut().for_each(|v| *v *= 1e30);
    uploads[2].factors.iter_mut().flat_map(|(_, list)| list).for_each(stretch);
    let before = server.server().adapter.clone();
    let next = |server: &mut Coordinator, uploads: &[Upload]| {
        server.aggregate(&plan, uploads, &cohort, &[]).unwrap();
        let after = numbers(&server.server().adapter);
        after.iter().zip(numbers(&before)).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
    };
    let ruined = next(&mut server, &uploads);
    let mut fair = Coordinator::new(settings.clone(), &toy::model(&settings), 4).unwrap();
    let fine = next(&mut fair, &honest);
    assert!(ruined <= fine + 0.25 + 1e-5, "one of four moves the mean by C/4 at most: {fine}, {ruined}");
}

/// One client that sends numbers as large as f32 has them: left out, counted and named, and the round is that of the others.
#[test]
fn a_client_that_sends_too_much_is_left_out() {
    let settings = settings("[server]\nmax_norm = 50.0");
    let fresh = || Coordinator::new(settings.clone(), &toy::model(&settings), 4).unwrap();
    let mut site = toy::site(&settings, &[0, 1, 2, 3]);
    let (server, cohort) = (fresh(), [0, 1, 2, 3]);
    let plan = server.plan();
    site.receive(server.download(0, None), Some(&plan)).unwrap();
    let uploads =
        site.train(&plan, &cohort, &mut |_| ControlFlow::Continue(())).unwrap().continue_value().unwrap().uploads;
    assert!(uploads.iter().all(|u| server.decode(&u.encode(), &plan).is_ok() && server.disbelieves(u).is_none()));
    let problem = |spoil: fn(&mut Upload)| {
        let mut evil = uploads[2].clone();
        spoil(&mut evil);
        server.disbelieves(&evil).expect("it is left out")
    };
    let huge = problem(|u| u.factors.iter_mut().flat_map(|(_, list)| list).for_each(|m| m.data.fill(3e38)));
    assert!(huge.contains("server.max_norm = 50"), "{huge}");
    // Nonsense needs no bound to be seen.
    for (loss, said) in [(1e308, "loss is 1.000e308"), (f64::NAN, "loss is NaN"), (f64::NEG_INFINITY, "loss is -inf")] {
        let found = server.disbelieves(&Upload { loss, ..uploads[2].clone() }).expect("it is left out");
        assert!(found.contains(said), "{found}");
    }
    // In one process the same: a bound that nobody keeps leaves nobody.
    let mut strict = settings.clone();
    strict.server.max_norm = Some(1e-6);
    let error = toy::run(strict).train(&mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("server.max_norm"), "{error}");
}

#[test]
fn a_site_keeps_to_its_own_privacy() {
    let own = settings(&gaussian("noise = 0.5"));
    let server = Coordinator::new(own.clone(), &toy::model(&own), 4).unwrap();
    let mut site = toy::site(&own, &[0, 1]);
    let mut plan = server.plan();
    site.receive(server.download(0, None), Some(&plan)).unwrap();
    for less in [ClientPrivacy::Off, ClientPrivacy::Clip { clip: 100.0 }] {
        plan.privacy = less;
        let error = site.train(&plan, &[0, 1], &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains("this site's own settings") && error.contains("nothing is trained"), "{error}");
    }
}

#[test]
fn epsilon_is_told_where_it_holds_and_with_its_delta() {
    let last = |more: &str| finish(&mut toy::run(settings(more))).0.last().unwrap().clone();
    // An ε asked for is an ε that is kept.
    let asked = last(&gaussian("epsilon = 3.0"));
    assert!(asked.epsilon.unwrap() <= 3.0 && asked.epsilon.unwrap() > 2.99, "{:?}", asked.epsilon);
    assert_eq!(asked.delta, Some(1e-5));
    // Strong noise spends little, and never nothing.
    let strong = last(&gaussian("noise = 50.0"));
    assert!(strong.epsilon.unwrap() > 0.0 && strong.epsilon.unwrap() < 0.2, "{:?}", strong.epsilon);
    assert_eq!(last(&gaussian("noise = 0.0")).epsilon, None, "no noise, no ε");
    // What is simulated says so and gives none.
    let simulated = last(&gaussian("noise = 1.0\nreproducible = true"));
    assert_eq!((simulated.epsilon, simulated.delta, simulated.simulated_privacy), (None, None, true));
    // A draw that everybody sees is not counted in the guarantee's favour; a secret one is.
    let few = |publish: &str| {
        last(&format!("[clients]\ncount = 4\nper_round = 1\n{}\npublish = \"{publish}\"", gaussian("noise = 1.0")))
    };
    let (seen, secret) = (few("all"), few("minimal"));
    assert!(secret.epsilon.unwrap() < 0.8 * seen.epsilon.unwrap(), "{:?} {:?}", secret.epsilon, seen.epsilon);
    // Laplace: a round's own; none where slots are chosen, which no noise covers.
    let laplace = "[privacy]\nkind = \"laplace\"\nepsilon = 6.0\nclip = 2.0";
    assert_eq!((last(laplace).epsilon, last(laplace).delta), (Some(6.0), Some(0.0)));
    let chosen = format!("[strategy]\nname = \"lora-a2\"\n[clients]\ncount = 4\nbudget = 1\n{laplace}");
    assert_eq!(last(&chosen).epsilon, None);
    assert!(settings(&chosen).warnings().iter().any(|w| w.contains("which slots a client chose")));
}

#[test]
fn what_no_noise_protects_is_kept_back_where_asked() {
    let run = |publish: &str| {
        let text = format!("{}\npublish = \"{publish}\"", gaussian("noise = 0.5"));
        assert_eq!(settings(&text).warnings().iter().any(|w| w.contains("publish")), publish == "all");
        finish(&mut toy::run(settings(&text)))
    };
    let (rounds, rows, _) = run("minimal");
    assert!(rows.is_empty());
    for row in rounds {
        assert!(row.train_loss.is_nan() && row.tokens == 0 && row.upload_bytes == 0 && row.times.is_none());
        assert!(row.test_accuracy.is_some() && row.epsilon.is_some());
        // A row with nothing in the place of a number is read back.
        let json = serde_json::to_string(&row).unwrap();
        assert!(json.contains("\"train_loss\":null"), "{json}");
        assert!(serde_json::from_str::<RoundMetrics>(&json).unwrap().train_loss.is_nan());
    }
    let (rounds, rows, _) = run("all");
    assert!(rows.len() == 8 && rounds[0].train_loss.is_finite());
}

#[test]
fn noise_has_its_size_and_clipping_holds() {
    let train = "[train]\nrounds = 1\nlr_a = 1e-3\nbatch_size = 4\n";
    let trained = |privacy: &str| finish(&mut toy::run(settings(&format!("{train}{privacy}"))));
    let clean = trained("").2[1].adapter.clone();
    let far =
        |finished: &Finished| size(numbers(&finished.2[1].adapter).iter().zip(numbers(&clean)).map(|(x, y)| x - y));
    let laplace = |epsilon: f64| trained(&format!("[privacy]\nkind = \"laplace\"\nepsilon = {epsilon}\nclip = 2.0"));
    assert!(far(&laplace(1.0)) > 2.0 * far(&laplace(6.0)), "smaller epsilon, more noise");
    // Uploads clipped to almost nothing, no noise: the model hardly moves.
    let tiny = trained("[privacy]\nkind = \"gaussian\"\nclip = 1e-4\nnoise = 0.0");
    let moved =
        numbers(&tiny.2[1].adapter).iter().zip(numbers(&tiny.2[0].adapter)).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
    assert!(moved > 0.0 && moved.sqrt() <= 1.0001e-4, "{moved}");
}

#[test]
fn settings_that_promise_nothing_are_refused() {
    for (privacy, key, says) in [
        ("kind = \"gaussian\"\nclip = 1.0", "privacy.noise", "give one of them"),
        ("kind = \"gaussian\"\nclip = 1.0\nnoise = 1.0\nepsilon = 1.0", "privacy.noise", "give one of them"),
        ("kind = \"gaussian\"\nclip = 1.0\nnoise = 1.0\ndelta = 0.3", "privacy.delta", "1 / clients.count"),
        ("kind = \"gaussian\"\nclip = 1.0\nepsilon = -1.0", "privacy.epsilon", "positive"),
    ] {
        let found = settings(&format!("[privacy]\n{privacy}")).problem().expect(privacy);
        assert!(found.key == key && found.what.contains(says), "{privacy}: {found:?}");
    }
    let text = format!("{}\npublish = \"minimal\"\n[evaluate]\nper_client = true", gaussian("noise = 1.0"));
    assert_eq!(settings(&text).problem().unwrap().key, "evaluate.per_client");
}
