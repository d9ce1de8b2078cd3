//! The dashboard on terminals of several sizes, drawn into memory.

use crate::fixture::round;
use bonfire_federation::{ClientMetrics, RoundMetrics};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::view::PANELS;
use super::super::{About, State};
use super::*;

fn metrics(number: usize) -> RoundMetrics {
    let (train_loss, test_loss) = (2.0 / number as f64, Some(2.5 / number as f64));
    RoundMetrics { train_loss, test_loss, upload_bytes: 40_000, ..round(number, 0.1 * number as f64) }
}

fn client(round: usize, client: usize) -> ClientMetrics {
    ClientMetrics {
        round,
        client,
        examples: 100 + client,
        steps: 12,
        train_loss: 1.25,
        upload_params: 10,
        upload_bytes: 1000,
        slots: Some([vec![0, 1], vec![3]].into_iter().collect()),
        test_accuracy: Some(0.625),
        device: None,
        simulated_seconds: None,
        staleness: None,
        group: None,
    }
}

/// A run of 9 rounds, 5 of them done, with 40 clients that choose slots.
fn state() -> State {
    let about = About {
        name: "quickstart".into(),
        strategy: "lora-a2".into(),
        device: "cpu (flex, 2 threads)".into(),
        cohort: 40,
        plain_upload: Some(10_000),
        targets: vec![("0 query".into(), 0), ("1 attn.output".into(), 1)],
        memory: Some(8_000_000_000),
        perplexity: false,
    };
    let mut state = State::new(about, 9);
    for number in 1..=5 {
        let clients: Vec<ClientMetrics> = (0..40).map(|c| client(number, c)).collect();
        state.round_ended(&metrics(number), &clients);
    }
    (state.round, state.phase, state.clients) = (6, "training A", 40);
    state.pace.trained(30, 120, 9000);
    state.process_memory = Some(500_000_000);
    state.log("note: something worth knowing");
    state
}

/// The characters on the screen, a line a row.
fn screen(width: u16, height: u16, state: &State, view: &mut View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    terminal.draw(|frame| draw(frame, state, view)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect();
    (0..height).map(row).collect()
}

fn assert_shows(screen: &[String], words: &[&str]) {
    let text = screen.join("\n");
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

const ALWAYS: [&str; 8] =
    ["quickstart", "lora-a2", "round 6/9", "training A", "step 30/120", "tokens/s", "accuracy: test 50.0%", "q stop"];

#[test]
fn a_wide_terminal_shows_everything_at_once() {
    let screen = screen(160, 45, &state(), &mut View::default());
    assert_shows(&screen, &ALWAYS);
    assert_shows(
        &screen,
        &["loss: train 0.40, test 0.50", "200 kB", "2.0 MB", "10x less than that", "500 MB of 8.0 GB"],
    );
    assert_shows(&screen, &["clients 1 to ", "of 40", "62.5%", "1 attn.output", "rounds 1 to 5", "worth knowing"]);
    let row = screen.iter().find(|line| line.contains("0 query")).expect("a row of the map");
    assert!(row.contains("██████████"), "five rounds of the most: {row}");
    let second = screen.iter().find(|line| line.contains("1 attn.output")).expect("a row of the map");
    assert!(second.contains("▒▒▒▒▒▒▒▒▒▒"), "five rounds of half of it: {second}");
}

#[test]
fn narrow_terminals_show_a_panel_at_a_time() {
    for (width, height) in [(60, 20), (80, 24)] {
        let (state, mut view) = (state(), View::default());
        assert_shows(&screen(width, height, &state, &mut view), &[&ALWAYS[..], &["clients 1 to", "Tab"]].concat());
        for word in ["slots chosen", "plain LoRA", "worth knowing", "clients 1 to"] {
            view.next_panel();
            assert_shows(&screen(width, height, &state, &mut view), &[word]);
        }
        view.previous_panel();
        assert_eq!(view.panel, Panel::Log);
    }
}

#[test]
fn clients_scroll_no_further_than_the_last() {
    let (state, mut view) = (state(), View { first: 7, ..View::default() });
    let shown = screen(80, 24, &state, &mut view);
    assert_shows(&shown, &["clients 8 to"]);
    view.first = usize::MAX;
    let shown = screen(80, 24, &state, &mut view);
    assert_shows(&shown, &["to 40 of 40"]);
    assert!(view.first < 40 && shown.iter().any(|line| line.contains("    39 ")), "{shown:?}");
}

#[test]
fn a_tiny_terminal_says_how_large_it_must_be() {
    let shown = screen(40, 10, &state(), &mut View::default());
    assert_shows(&shown, &["needs 60x20"]);
    for (width, height) in [(1, 1), (59, 20), (60, 19), (5, 200)] {
        screen(width, height, &state(), &mut View::default());
    }
}

#[test]
fn before_the_first_round_and_with_help_everything_can_be_drawn() {
    for (width, height) in [(60, 20), (80, 24), (100, 30), (160, 45), (400, 100)] {
        let fresh = State::new(About::default(), 3);
        let mut view = View { help: true, ..View::default() };
        assert_shows(&screen(width, height, &fresh, &mut view), &["getting ready", "leave at once"]);
        view.help = false;
        for _ in PANELS {
            screen(width, height, &fresh, &mut view);
            view.next_panel();
        }
    }
}

#[test]
fn a_run_that_stops_says_so() {
    let state = State { stopping: true, ..state() };
    assert_shows(&screen(80, 24, &state, &mut View::default()), &["finishing round 6; press q again"]);
}

#[test]
fn many_targets_become_a_row_a_layer() {
    let mut state = state();
    let about =
        About { targets: (0..32 * 7).map(|t| (format!("{} x", t / 7), t / 7)).collect(), ..About::clone(&state.about) };
    state.about = about.into();
    state.chosen = vec![(1, vec![1; 32 * 7]), (2, vec![3; 32 * 7])].into();
    assert_shows(&screen(160, 45, &state, &mut View::default()), &["layers 0-", "(█ "]);
    state.about = About { targets: state.about.targets[..7 * 8].to_vec(), ..About::clone(&state.about) }.into();
    assert_shows(&screen(160, 45, &state, &mut View::default()), &["7 x ▒▒██", "(█ 3)"]);
    let mut narrow = View { panel: Panel::Slots, ..View::default() };
    assert_shows(&screen(80, 24, &state, &mut narrow), &["layer 7 ", "(█ 21)"]);
}

#[test]
fn rounds_of_before_are_in_the_curves() {
    let mut resumed = State::new(About { cohort: 40, plain_upload: Some(10_000), ..About::default() }, 9);
    resumed.past(&[metrics(1), metrics(2), metrics(3)]);
    assert_eq!((resumed.uploaded, resumed.plain, resumed.round), (120_000, Some(1_200_000), 3));
    assert_shows(&screen(80, 24, &resumed, &mut View::default()), &["round 3/9", "accuracy: test 30.0%", "33%"]);
}
