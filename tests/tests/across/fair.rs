//! q-FedAvg over whole rounds: the losses that clients send, what the server makes of them, what it costs, where it is refused.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bonfire_engine::{Aux, Engine, EngineSettings, InFlight, Member, Plan, Upload, personal, summarise};
use bonfire_federation::{Checkpoint, Choice, Event, Run, Settings, Texts, forecast, forecast_of};
use bonfire_models::{Adapter, Factor, Matrix, Model, Task};
use bonfire_tests::toy;

fn settings(aggregate: &str, more: &str) -> Settings {
    toy::settings(&format!(
        "[adapter]\nrank = 4\nhead = \"trained\"\n[train]\nrounds = 2\nbatch_size = 4\nlr_a = 1e-2\nlr_b = 5e-2\nlr_head = 0.1\n\
         weight_decay = 0.0\noptimizer = {{ name = \"sgd\" }}\n[server]\n{aggregate}\n{more}"
    ))
}

fn fair(q: f64) -> String {
    format!("aggregate = {{ name = \"q-fedavg\", q = {q:?} }}")
}

fn engine(settings: &Settings) -> Engine {
    let models: Vec<Box<dyn Model>> = vec![Box::new(toy::model(settings))];
    Engine::new(models, toy::data(&toy::shards(4)).train, settings.train.clone(), EngineSettings::default())
}

/// What all clients send in the run's next round.
fn sent(run: &Run, engine: &Engine, plan: &Plan) -> Vec<Upload> {
    let shards = toy::shards(4);
    let members: Vec<Member> =
        (0..4).map(|k| Member { memory: run.memory(k), ..Member::new(k, &shards.train[k]) }).collect();
    let go_on = &mut |_| ControlFlow::Continue(());
    engine
        .train(plan, run.server().start(), &members, go_on)
        .unwrap()
        .continue_value()
        .expect("nobody broke off")
        .uploads
}

/// A run after its first round.
fn after_one(settings: &Settings) -> Run {
    let mut run = toy::run(settings.clone());
    run.train(&mut |event| match event {
        Event::RoundEnded { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    run
}

/// B of all targets and the head, then A slot by slot.
fn numbers(adapter: &Adapter) -> Vec<f64> {
    let a = (0..adapter.targets.len()).map(|t| adapter.slot_rows(Factor::A, t));
    let all: Vec<Matrix> =
        a.chain(adapter.b.iter().cloned()).chain(adapter.head.iter().map(|t| t.value.clone())).collect();
    all.iter().flat_map(|m| &m.data).map(|v| f64::from(*v)).collect()
}

/// Algorithm 2 of the paper in f64, L being 100 of A, 20 of B and 10 of the head.
fn by_the_paper(before: &[f64], sent: &[Upload], q: f64, one: Option<f64>) -> Vec<f64> {
    let (mut above, mut below) = (vec![0.0; before.len()], 0.0);
    for upload in sent {
        let loss = upload.start_loss().expect("a loss") + 1e-10;
        let parts = [&upload.factors[0].1, &upload.factors[1].1, &upload.head];
        let mut steep = 0.0;
        let mut at = 0;
        for (part, l) in parts.into_iter().zip([100.0, 20.0, 10.0]) {
            let l = one.unwrap_or(l);
            for v in part.iter().flat_map(|m| &m.data).map(|v| f64::from(*v)) {
                steep += l * v * v;
                above[at] += loss.powf(q) * v;
                at += 1;
            }
        }
        assert_eq!(at, before.len());
        below += q * loss.powf(q - 1.0) * steep + loss.powf(q);
    }
    before.iter().zip(&above).map(|(w, a)| w + a / below).collect()
}

#[test]
fn a_round_is_the_papers() {
    for (q, lipschitz) in [(0.5, None), (1.0, None), (4.0, None), (1.0, Some(0.25))] {
        let aggregate = match lipschitz {
            None => fair(q),
            Some(l) => format!("aggregate = {{ name = \"q-fedavg\", q = {q:?}, lipschitz = {l} }}"),
        };
        let settings = settings(&aggregate, "");
        let mut run = after_one(&settings);
        let plan = run.plan();
        let uploads = sent(&run, &engine(&settings), &plan);
        let expected = by_the_paper(&numbers(&run.server().adapter), &uploads, q, lipschitz);
        let before = numbers(&run.server().adapter);
        toy::finish(&mut run);
        let found = numbers(&run.server().adapter);
        let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(far(&found, &before) > 1e-3, "q = {q}: it hardly moved, {:.1e}", far(&found, &before));
        // The uploads are those of the run to the last bit; what is added is rounded to f32 once.
        assert!(far(&found, &expected) < 1e-7, "q = {q}: off by {:.1e}", far(&found, &expected));
    }
}

#[test]
fn clients_tell_the_loss_of_their_rows_before_they_train() {
    let shards = toy::shards(4);
    let rows = toy::data(&shards).train;
    for strategy in ["fedit", "lora-a2", "fedsa-lora", "full"] {
        let settings = settings(&fair(1.0), &format!("[strategy]\nname = \"{strategy}\""));
        let run = after_one(&settings);
        let (engine, plan) = (engine(&settings), run.plan());
        for upload in sent(&run, &engine, &plan) {
            let own = &shards.train[upload.client];
            let start = personal(&plan.private, &run.server().adapter, run.memory(upload.client));
            let evaluated = engine.evaluate_rows(&run.server().merged.total(&start), &rows, own).unwrap();
            let expected = summarise(&evaluated, own).loss;
            let told = upload.start_loss().expect("a loss");
            assert!((told - expected).abs() < 1e-6, "{strategy}: {told}, not {expected}");
        }
    }
}

#[test]
fn q_0_is_the_unweighted_mean_and_a_scalar_more() {
    let (mean, clients, states) = toy::finish(&mut toy::run(settings("weights = \"uniform\"", "")));
    let (rows, told, fair_states) = toy::finish(&mut toy::run(settings(&fair(0.0), "")));
    let adapters = |states: &[bonfire_federation::Server]| states.iter().map(|s| s.adapter.clone()).collect::<Vec<_>>();
    assert_eq!(adapters(&fair_states), adapters(&states), "bit for bit");
    for (row, plain) in rows.iter().zip(&mean) {
        assert_eq!(row.upload_bytes, plain.upload_bytes + 4 * 4);
        assert_eq!((row.upload_params, row.upload_aux_params), (plain.upload_params + 4, plain.upload_aux_params + 4));
        assert_eq!(row.download_bytes, plain.download_bytes);
        assert!(row.tokens > plain.tokens, "a pass forward is counted");
    }
    assert_eq!(told[0].upload_params, clients[0].upload_params + 1);
    let (other, ..) = toy::finish(&mut toy::run(settings(&fair(2.0), "")));
    assert_ne!(other[1].test_loss, rows[1].test_loss);
}

#[test]
fn it_costs_what_was_forecast() {
    let devices =
        "[clients]\ncount = 4\ndevices = [{ tokens_per_second = 50, up = 1, down = 10, latency = 0.5, watts = 9 }]";
    for strategy in ["fedit", "lora-a2"] {
        let settings = settings(&fair(1.0), &format!("{devices}\n[strategy]\nname = \"{strategy}\""));
        let mut run = toy::run(settings.clone());
        let model = toy::model(&settings);
        let shards = toy::shards(4);
        let data = toy::data(&shards).train;
        let texts = |client: usize| {
            let rows = &shards.train[client];
            Texts { rows: rows.len(), tokens: rows.iter().map(|&row| data.ids[row].len()).sum::<usize>() as f64 }
        };
        let told = forecast(&settings, model.info(), Task::Classify(toy::CLASSES), Choice::Widest).unwrap();
        let timed = forecast_of(&settings, model.info(), Task::Classify(toy::CLASSES), Choice::Widest, &texts).unwrap();
        let (rounds, ..) = toy::finish(&mut run);
        assert_eq!(told.upload_bytes, rounds.iter().map(|r| r.upload_bytes).sum::<u64>(), "{strategy}");
        assert_eq!(told.upload_params, rounds.iter().map(|r| r.upload_params).sum::<u64>(), "{strategy}");
        let seconds: f64 = rounds.iter().map(|r| r.simulated_seconds.unwrap()).sum();
        // Tokens are whole numbers in both, rounded in two places.
        assert!((timed.seconds - seconds).abs() < 2.0 * 2.0 / 50.0, "{strategy}: {} and {seconds}", timed.seconds);
        // Forward over all rows besides two passes: a sixth more than without it.
        let tokens: f64 = (0..4).map(|client| texts(client).tokens).sum();
        if strategy == "fedit" {
            assert!((rounds[0].tokens as f64 - tokens * 4.0 / 3.0).abs() < 3.0, "{} of {tokens}", rounds[0].tokens);
        }
    }
}

#[test]
fn who_is_in_flight_changes_nothing() {
    let of = |in_flight| toy::finish(&mut toy::run(toy::with_in_flight(settings(&fair(2.0), ""), in_flight))).2;
    let (all, one) = (of(InFlight::Auto), of(InFlight::Count(1)));
    let pairs = numbers(&all[2].adapter).into_iter().zip(numbers(&one[2].adapter));
    let off = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    assert!(off < 1e-6, "{off:.1e}");
}

#[test]
fn a_loss_that_cannot_be_is_left_out() {
    let settings = settings(&fair(1.0), "");
    let run = after_one(&settings);
    let coordinator = bonfire_federation::Coordinator::new(settings.clone(), &toy::model(&settings), 4).unwrap();
    let plan = coordinator.plan();
    let upload = sent(&toy::run(settings.clone()), &engine(&settings), &plan).remove(0);
    assert_eq!(coordinator.disbelieves(&upload), None);
    let message = upload.encode();
    let read = coordinator.decode(&message, &plan).unwrap();
    assert_eq!(read.start_loss(), upload.start_loss());
    assert!(coordinator.decode(&message[..message.len() - 4], &plan).is_err(), "without its loss it is too short");
    for loss in [-0.5, 2e6] {
        let lied = Upload { aux: vec![(Aux::StartLoss, vec![Matrix::new(1, 1, vec![loss])])], ..upload.clone() };
        let why = coordinator.disbelieves(&lied).expect("it cannot be");
        assert!(why.contains("its loss before training"), "{why}");
    }
    let bytes = run.checkpoint(&BTreeMap::new());
    let mut other = toy::run(settings.clone());
    other.resume(Checkpoint::read(&bytes).unwrap()).unwrap();
    assert_eq!(other.server(), run.server());
}

#[test]
fn it_is_refused_by_name_where_it_makes_no_sense() {
    let refused = |aggregate: &str, more: &str| {
        let problem = settings(aggregate, more).problem().unwrap_or_else(|| panic!("not refused: {more}"));
        (problem.key, problem.what)
    };
    assert_eq!(refused(&fair(-1.0), "").0, "server.aggregate.q");
    let zero = "aggregate = { name = \"q-fedavg\", lipschitz = 0 }";
    assert_eq!(refused(zero, "").0, "server.aggregate.lipschitz");
    for (more, key, named) in [
        ("[strategy]\nname = \"flexlora\"", "server", "combines uploads in its own way"),
        ("[strategy]\nname = \"local\"", "server", "nothing is sent"),
        (
            "[strategy]\nname = \"replication\"\n[clients]\ncount = 4\nbudget = [1, 2, 3, 4]",
            "server.aggregate",
            "different ranks",
        ),
        ("[privacy]\nkind = \"laplace\"\nepsilon = 5.0\nclip = 1.0", "server.aggregate", "send their losses"),
        ("[privacy]\nkind = \"gaussian\"\nnoise = 1.0\nclip = 1.0", "server.aggregate", ""),
    ] {
        let (found, what) = refused(&fair(1.0), more);
        assert!(found == key && what.contains(named), "{more}: {found} {what}");
    }
    let moving = |aggregate: &str| {
        toy::settings(&format!("[server]\n{aggregate}\n[train]\nrounds = 2\nlr_rounds = {{ schedule = \"cosine\" }}"))
            .problem()
    };
    assert_eq!(moving(&fair(1.0)).expect("L moves").key, "train.lr_rounds");
    assert!(moving("aggregate = { name = \"q-fedavg\", lipschitz = 5 }").is_none());
}
