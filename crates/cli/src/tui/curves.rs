//! The curves over rounds: accuracy or perplexity, and losses.

use bonfire_experiment::format::percent;
use bonfire_federation::RoundMetrics;
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, LegendPosition};

use super::state::State;
use super::view::framed;

/// A line of a chart.
struct Curve {
    name: &'static str,
    colour: Color,
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn of(
        name: &'static str,
        colour: Color,
        rounds: &[RoundMetrics],
        value: impl Fn(&RoundMetrics) -> Option<f64>,
    ) -> Curve {
        let finite = |metrics: &RoundMetrics| {
            let value = value(metrics).filter(|value| value.is_finite())?;
            Some((metrics.round as f64, value))
        };
        Curve { name, colour, points: rounds.iter().filter_map(finite).collect() }
    }
}

/// Accuracy on the test split, or of a language model its perplexity.
pub fn score(frame: &mut Frame, area: Rect, state: &State) {
    if state.about.perplexity {
        let curve = Curve::of("test", Color::Cyan, &state.rounds, |m| m.test_perplexity);
        return chart(frame, area, state, "test perplexity", &[curve], &|value| format!("{value:.2}"));
    }
    if state.rounds.iter().any(|m| m.test_pearson.or(m.personal_pearson).is_some()) {
        let curves = [
            Curve::of("test", Color::Cyan, &state.rounds, |m| m.test_pearson),
            Curve::of("clients' own", Color::Magenta, &state.rounds, |m| m.personal_pearson),
        ];
        return chart(frame, area, state, "Pearson's correlation", &curves, &|value| format!("{value:.3}"));
    }
    if state.rounds.iter().any(|m| m.test_f1.or(m.personal_f1).is_some()) {
        let curves = [
            Curve::of("test", Color::Cyan, &state.rounds, |m| m.test_f1),
            Curve::of("clients' own", Color::Magenta, &state.rounds, |m| m.personal_f1),
        ];
        return chart(frame, area, state, "F1 of spans", &curves, &percent);
    }
    let curves = [
        Curve::of("test", Color::Cyan, &state.rounds, |m| m.test_accuracy),
        Curve::of("clients' own", Color::Magenta, &state.rounds, |m| m.personal_accuracy),
    ];
    chart(frame, area, state, "accuracy", &curves, &percent);
}

/// Losses in training and on the test split.
pub fn loss(frame: &mut Frame, area: Rect, state: &State) {
    let curves = [
        Curve::of("train", Color::Yellow, &state.rounds, |m| Some(m.train_loss).filter(|loss| loss.is_finite())),
        Curve::of("test", Color::Cyan, &state.rounds, |m| m.test_loss),
    ];
    chart(frame, area, state, "loss", &curves, &|value| format!("{value:.2}"));
}

fn chart(frame: &mut Frame, area: Rect, state: &State, title: &str, curves: &[Curve], words: &dyn Fn(f64) -> String) {
    let shown: Vec<&Curve> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    let last = |curve: &&Curve| curve.points.last().map(|(_, value)| format!("{} {}", curve.name, words(*value)));
    let now: Vec<String> = shown.iter().filter_map(last).collect();
    let title = if now.is_empty() { title.to_owned() } else { format!("{title}: {}", now.join(", ")) };
    let bounds = bounds(shown.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value));
    let rounds = state.pace.rounds().max(2);
    let set = |curve: &&'_ Curve| -> Dataset<'_> {
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(Style::new().fg(curve.colour))
    };
    let sets = shown.iter().map(|curve| set(curve).name(curve.name).data(&curve.points)).collect();
    let grey = Style::new().fg(Color::DarkGray);
    let first = if state.rounds.first().is_some_and(|row| row.round == 0) { 0 } else { 1 };
    let labels = [format!("round {first}"), rounds.to_string()];
    let x = Axis::default().style(grey).bounds([f64::from(first), rounds as f64]).labels(labels);
    let y = Axis::default().style(grey).bounds(bounds).labels([words(bounds[0]), words(bounds[1])]);
    let chart = Chart::new(sets).block(framed(&title)).x_axis(x).y_axis(y);
    // One curve is named by the title.
    let legend = (shown.len() > 1).then_some(LegendPosition::TopRight);
    let room = (Constraint::Percentage(60), Constraint::Percentage(60));
    frame.render_widget(chart.legend_position(legend).hidden_legend_constraints(room), area);
}

/// The lowest and the highest value with a little room; something to draw where there is none.
fn bounds(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return [0.0, 1.0];
    }
    let room = (0.05 * (high - low)).max(0.01 * high.abs()).max(1e-6);
    // Accuracies, losses and perplexities are never below 0.
    [(low - room).max(0.0), high + room]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_every_value_and_are_never_empty() {
        assert_eq!(bounds([].into_iter()), [0.0, 1.0]);
        for values in [vec![0.0], vec![0.5, 0.5], vec![0.1, 0.9], vec![1e300, 0.0]] {
            let [low, high] = bounds(values.iter().copied());
            assert!(low < high && low >= 0.0 && values.iter().all(|v| (low..=high).contains(v)), "{values:?}");
        }
    }
}
