//! Which slots a client trains and uploads.

/// The `count` slots of highest score over the whole model, as one list of slot numbers (ascending) a target.
///
/// `scores[target][slot]`. One global ranking, not one per target (LoRA-A², section 4.2); equal scores go to the
/// earlier target, then the earlier slot, so the choice is the same everywhere. A score that is not a number ranks last.
pub fn top_slots(scores: &[Vec<f32>], count: usize) -> Vec<Vec<usize>> {
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
    chosen.iter_mut().for_each(|slots| slots.sort_unstable());
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranking_is_global_and_exact() {
        let scores = vec![vec![0.1, 9.0, 8.0], vec![7.0, 0.0, 0.2]];
        assert_eq!(top_slots(&scores, 3), vec![vec![1, 2], vec![0]]);
        for count in 0..=6 {
            assert_eq!(top_slots(&scores, count).iter().map(Vec::len).sum::<usize>(), count);
        }
    }

    #[test]
    fn ties_and_strange_scores_are_settled_the_same_way() {
        assert_eq!(top_slots(&[vec![0.0; 3], vec![0.0; 3]], 4), vec![vec![0, 1, 2], vec![0]]);
        assert_eq!(top_slots(&[vec![f32::NAN, 1.0], vec![0.0, 0.0]], 2), vec![vec![1], vec![0]]);
    }
}
