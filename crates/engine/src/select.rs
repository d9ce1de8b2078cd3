//! Which slots a client trains and uploads (LoRA-A², arXiv 2410.22815, section 4.2): those of highest score over the whole
//! model, by what a probe has found.

use bonfire_data::random::{Use, stream};
use bonfire_models::{Adapter, Factor, Matrix};
use rand::RngExt;

use crate::job::{ClientJob, Outcome};
use crate::{Per, Plan, Score, Selection, TargetSlots};

/// The slots of highest score among those that the client of `job` was given, and what they and the head keep of the probe's
/// movement; `None`: the probe is dropped.
pub(crate) fn choose(
    selection: &Selection,
    plan: &Plan,
    global: &Adapter,
    seed: u64,
    job: &ClientJob,
    probed: Outcome,
) -> (TargetSlots, Option<Vec<Matrix>>) {
    let (targets, client, given) = (global.targets.len(), job.member.client, job.slots.as_ref());
    let trained = plan.active.factors()[0];
    let Outcome { slot_scores, movement, report, .. } = probed;
    let mut scores = match selection.score {
        Score::Contribution => slot_scores,
        Score::Magnitude => row_scores(&movement[..targets], norm),
        Score::Importance => row_scores(&report[..targets], |row| sum(row, |v| v) / row.len() as f64),
        Score::Gradient => times_frozen(&row_scores(&report[..targets], norm), trained, global, given),
        Score::Fisher => row_scores(&report[..targets], |row| sum(row, |v| v)),
        Score::Random => random_scores(seed, plan.round, client, global, given),
    };
    if selection.per == Per::Byte {
        for (row, target) in scores.iter_mut().zip(&global.targets) {
            let width = if trained == Factor::A { target.d_in } else { target.d_out };
            row.iter_mut().for_each(|score| *score /= size_of::<f32>() as f32 * width as f32);
        }
    }
    // Rows of the scores: numbers among the slots that the client was given, or the slots themselves where it has all.
    let rows = top_slots(&scores, selection.budgets[client] * targets);
    let slots = match given {
        None => rows.clone(),
        Some(given) => {
            let slots_of = |(rows, given): (&Vec<usize>, &Vec<usize>)| rows.iter().map(|&row| given[row]).collect();
            rows.iter().zip(given.iter()).map(slots_of).collect()
        }
    };
    let kept = (!selection.probe.reset).then(|| kept(movement, &rows));
    (slots, kept)
}

/// What the chosen rows, and the head, keep of a probe's movement.
fn kept(mut movement: Vec<Matrix>, rows: &TargetSlots) -> Vec<Matrix> {
    for (matrix, chosen) in movement.iter_mut().zip(rows.iter()) {
        *matrix = matrix.rows(chosen);
    }
    movement
}

/// Each slot's number times the norm of what the frozen factor holds of it: of a mean gradient's norm it makes the norm of
/// the slot's rank-1 gradient.
fn times_frozen(norms: &[Vec<f32>], trained: Factor, global: &Adapter, given: Option<&TargetSlots>) -> Vec<Vec<f32>> {
    let frozen = if trained == Factor::A { Factor::B } else { Factor::A };
    let of_target = |(t, own): (usize, &Vec<f32>)| {
        let whole = global.slot_rows(frozen, t);
        let slot = |row: usize| given.map_or(row, |given| given[t][row]);
        let frozen_row = |row: usize| &whole.data[slot(row) * whole.cols..][..whole.cols];
        own.iter().enumerate().map(|(row, v)| (f64::from(*v) * norm(frozen_row(row))) as f32).collect()
    };
    norms.iter().enumerate().map(of_target).collect()
}

/// A number for every slot, whoever has it, so that the draw does not depend on which slots are left.
fn random_scores(
    seed: u64,
    round: usize,
    client: usize,
    global: &Adapter,
    given: Option<&TargetSlots>,
) -> Vec<Vec<f32>> {
    let mut rng = stream(seed, Use::Selection, round as u64, client as u64, 0);
    let mut of_target = |t: usize| {
        let all: Vec<f32> = (0..global.rank).map(|_| rng.random()).collect();
        given.map_or_else(|| all.clone(), |given| given[t].iter().map(|&slot| all[slot]).collect())
    };
    (0..global.targets.len()).map(&mut of_target).collect()
}

/// One score a row.
fn row_scores(matrices: &[Matrix], score: impl Fn(&[f32]) -> f64) -> Vec<Vec<f32>> {
    matrices.iter().map(|m| m.data.chunks(m.cols.max(1)).map(|row| score(row) as f32).collect()).collect()
}

fn sum(row: &[f32], each: impl Fn(f64) -> f64) -> f64 {
    row.iter().map(|&v| each(f64::from(v))).sum()
}

fn norm(row: &[f32]) -> f64 {
    sum(row, |v| v * v).sqrt()
}

/// The `count` slots of highest score over the whole model.
///
/// `scores[target][slot]`. One global ranking, not one per target (LoRA-A², section 4.2); equal scores go to the
/// earlier target, then the earlier slot, so the choice is the same everywhere. A score that is not a number ranks last.
pub fn top_slots(scores: &[Vec<f32>], count: usize) -> TargetSlots {
    let rank = |v: f32| if v.is_nan() { f32::NEG_INFINITY } else { v };
    let mut all: Vec<(f32, usize, usize)> = scores
        .iter()
        .enumerate()
        .flat_map(|(t, row)| row.iter().enumerate().map(move |(s, &v)| (rank(v), t, s)))
        .collect();
    all.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)).then(x.2.cmp(&y.2)));
    let mut chosen = vec![Vec::new(); scores.len()];
    for &(_, target, slot) in all.iter().take(count) {
        chosen[target].push(slot);
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranking_is_global_and_exact() {
        let scores = vec![vec![0.1, 9.0, 8.0], vec![7.0, 0.0, 0.2]];
        assert_eq!(*top_slots(&scores, 3), [vec![1, 2], vec![0]]);
        for count in 0..=6 {
            assert_eq!(top_slots(&scores, count).count(), count);
        }
    }

    #[test]
    fn ties_and_strange_scores_are_settled_the_same_way() {
        assert_eq!(*top_slots(&[vec![0.0; 3], vec![0.0; 3]], 4), [vec![0, 1, 2], vec![0]]);
        assert_eq!(*top_slots(&[vec![f32::NAN, 1.0], vec![0.0, 0.0]], 2), [vec![1], vec![0]]);
    }
}
