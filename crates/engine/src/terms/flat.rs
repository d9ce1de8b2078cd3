//! Flat-LoRA's noise on the adapted weights (arXiv 2409.14396): how large it is at a client's step, and what it is drawn
//! from. How noise meets the weights is the model's business: see [`NoiseSigns`].

use bonfire_data::random::{Use, stream};
use bonfire_models::{Adapter, Model, NoiseSigns, normals};

use crate::batch_schedule::LaneStep;
use crate::job::ClientJob;
use crate::{Flat, TrainSettings};

/// `model` with the banks of `round` that noise is made of, the same on every device.
pub(crate) fn with_banks(model: &dyn Model, round: usize, start: &Adapter, seed: u64) -> Box<dyn Model> {
    let draw = |t: usize| {
        let target = &model.targets()[t];
        normals(target.d_in * target.d_out, &mut stream(seed, Use::Noise, round as u64, t as u64, 0))
    };
    model.noisy(&start.plain(), &mut { draw })
}

/// σ of a client's local step `step` (from 1) of `round`, in a run of so many rounds of `steps` local steps.
fn sigma(flat: Flat, round: usize, step: usize, steps: usize, rounds: usize) -> f64 {
    flat.sigma((round - 1) * steps + step - 1, rounds * steps)
}

/// The noise of each lane at a training step; an empty lane has none.
pub(crate) fn signs(
    flat: Flat,
    settings: &TrainSettings,
    round: usize,
    jobs: &[ClientJob],
    lanes: &[LaneStep],
    model: &dyn Model,
) -> Vec<NoiseSigns> {
    let targets = model.targets();
    let of_lane = |lane: &LaneStep| {
        let Some((job, own)) = *lane else { return vec![0.0; NoiseSigns::numbers(targets)] };
        let member = &jobs[job].member;
        let steps = settings.local_steps(member.rows.len());
        let sigma = sigma(flat, round, own, steps, settings.rounds);
        let mut rng = stream(settings.seed, Use::NoiseSigns, round as u64, member.client as u64, own as u64);
        NoiseSigns::draw(targets, sigma as f32, &mut rng)
    };
    NoiseSigns::to_device(lanes.iter().flat_map(of_lane).collect(), targets, model.device())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn noise_grows_along_half_a_cosine_over_all_steps_of_the_run() {
        let (flat, steps, rounds) = (Flat { rho: 0.2 }, 5, 4);
        let mut far = 0f64;
        for round in 1..=rounds {
            for step in 1..=steps {
                let done = ((round - 1) * steps + step - 1) as f64 / 20.0;
                let expected = 0.1 * (1.0 - (std::f64::consts::PI * done).cos());
                far = far.max((sigma(flat, round, step, steps, rounds) - expected).abs());
            }
        }
        assert!(far < 1e-12, "off by {far:.1e}");
        assert_eq!(sigma(flat, 1, 1, steps, rounds), 0.0, "the run's first step has none");
    }
}
