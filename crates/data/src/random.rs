//! Randomness as a function, never as a sequence of calls.
//!
//! What a client sees must not depend on how many clients are in flight, on the number of devices, on the
//! order in which clients finish, or on whether the run was stopped and resumed. A shared generator breaks
//! all of these, because each draw moves it on for everybody else. So nobody keeps a generator: every place
//! that needs chance asks for the stream of its own coordinates and drops it afterwards. ChaCha is
//! counter-based, so streams with different keys are independent without any warm-up, and the same key gives
//! the same numbers on every platform.

use rand::{Rng, SeedableRng};
use rand_chacha::{ChaCha8Rng, ChaCha20Rng};

/// What a stream is used for. Two uses never share numbers, even for the same seed, round and client.
///
/// The numbers are part of the key and therefore of every recorded result: add new ones, never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Use {
    /// Cutting the rows into shards.
    Partition = 1,
    /// Choosing the clients of a round.
    Cohort = 2,
    /// The order of a client's rows in a local epoch.
    Batches = 3,
    /// The order of a client's rows in the probe before it chooses its slots.
    Probe = 4,
    /// The start of the adapter's factors.
    AdapterInit = 5,
    /// The start of the classification head.
    HeadInit = 6,
    /// Which clients drop out of a round.
    Dropout = 15,
    /// How much of its local steps a client manages in a round.
    Pace = 16,
    /// Noise for privacy.
    Privacy = 17,
    /// A later start of the adapter's factors, for methods that start again.
    Restart = 18,
    /// Which layers train in a round.
    Layers = 19,
    /// The banks that noise on weights is made of.
    Noise = 20,
    /// The signs that make a client's noise at one step.
    NoiseSigns = 21,
    /// The tokens of a generated text.
    Generate = 22,
    /// Scores of slots where the choice is left to chance.
    Selection = 23,
    /// Drawing the rows of a split that is a share of another.
    Split = 24,
    /// The random matrices that products are sketched with.
    Sketch = 25,
    /// Which clients mean harm, and the noise of those that send some.
    Attack = 26,
    /// The masks of dropout at one of a client's steps.
    Masks = 27,
    /// The same in the probe before it chooses its slots.
    ProbeMasks = 28,
    /// Whether a number that is sent in fewer bits is rounded up or down.
    Wire = 29,
    /// Which client is what kind of device.
    Devices = 30,
    /// Whether a client can be had when a round begins.
    Availability = 31,
    /// The order of a client's rows where it fine-tunes the last round's model by itself.
    Personalise = 32,
    /// The masks of dropout there.
    PersonaliseMasks = 33,
    /// Writing the built-in corpus.
    Corpus = 13,
    /// Made-up texts and weights that only measure speed.
    Benchmark = 14,
}

/// The stream of one use, round, client and local epoch in a run with this seed.
///
/// The 256-bit key is the four numbers `seed, use, round, client` side by side, so no two coordinates
/// collide and no hash has to be trusted; `epoch` picks one of ChaCha's 2^64 streams under that key.
/// Uses that do not need a coordinate pass 0.
pub fn stream(seed: u64, r#use: Use, round: u64, client: u64, epoch: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, r#use as u64, round, client]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let mut stream = ChaCha8Rng::from_seed(key);
    stream.set_stream(epoch);
    stream
}

/// What privacy's noise and its draw of clients come from: nobody who knows the configuration may be able to compute them,
/// or they could be taken off again.
#[derive(Clone, PartialEq, Eq)]
pub enum NoiseKey {
    /// Drawn from the system's entropy, and kept to the side that adds the noise.
    Secret([u8; 32]),
    /// The run's seed, which everybody knows: noise for experiments, which protects nobody.
    Seed(u64),
}

impl NoiseKey {
    /// A fresh secret.
    ///
    /// # Panics
    /// Where the system has no entropy to give.
    pub fn secret() -> NoiseKey {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system gives random bytes");
        NoiseKey::Secret(key)
    }

    /// The stream of these coordinates. With a secret each is a ChaCha20 key of its own, derived coordinate by coordinate, so
    /// that none tells anything of another.
    pub fn stream(&self, r#use: Use, round: u64, client: u64, number: u64) -> Box<dyn Rng> {
        match self {
            NoiseKey::Seed(seed) => Box::new(stream(*seed, r#use, round, client, number)),
            NoiseKey::Secret(key) => {
                let derived = [r#use as u64, round, client, number].into_iter().fold(*key, |key, coordinate| {
                    let mut stream = ChaCha20Rng::from_seed(key);
                    stream.set_stream(coordinate);
                    let mut next = [0; 32];
                    stream.fill_bytes(&mut next);
                    next
                });
                Box::new(ChaCha20Rng::from_seed(derived))
            }
        }
    }
}

impl std::fmt::Debug for NoiseKey {
    /// Without the secret: what is printed is read by others.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoiseKey::Secret(_) => f.write_str("Secret(..)"),
            NoiseKey::Seed(seed) => write!(f, "Seed({seed})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_give_streams_of_their_own_and_are_not_printed() {
        let (one, other) = (NoiseKey::secret(), NoiseKey::secret());
        let first = |key: &NoiseKey, c: [u64; 3]| key.stream(Use::Privacy, c[0], c[1], c[2]).next_u64();
        assert_eq!(first(&one, [1, 2, 3]), first(&one.clone(), [1, 2, 3]));
        let all = [[1, 2, 3], [2, 2, 3], [1, 3, 3], [1, 2, 4], [2, 1, 3]].map(|c| first(&one, c));
        assert!((1..5).all(|i| !all[..i].contains(&all[i])), "{all:?}");
        assert_ne!(first(&one, [1, 2, 3]), first(&other, [1, 2, 3]));
        assert_eq!(format!("{one:?}"), "Secret(..)");
        assert_eq!(first(&NoiseKey::Seed(7), [1, 2, 3]), stream(7, Use::Privacy, 1, 2, 3).next_u64());
    }

    fn first(seed: u64, r#use: Use, round: u64, client: u64, epoch: u64) -> [u64; 4] {
        let mut stream = stream(seed, r#use, round, client, epoch);
        std::array::from_fn(|_| stream.next_u64())
    }

    #[test]
    fn the_same_coordinates_give_the_same_numbers() {
        assert_eq!(first(1, Use::Batches, 2, 3, 4), first(1, Use::Batches, 2, 3, 4));
    }

    #[test]
    fn every_coordinate_matters() {
        let base = first(1, Use::Batches, 2, 3, 4);
        let others = [
            first(9, Use::Batches, 2, 3, 4),
            first(1, Use::Probe, 2, 3, 4),
            first(1, Use::Batches, 9, 3, 4),
            first(1, Use::Batches, 2, 9, 4),
            first(1, Use::Batches, 2, 3, 9),
            first(1, Use::Batches, 3, 2, 4),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn the_numbers_are_those_of_earlier_versions() {
        // Recorded results depend on these; a change here is a change of every run.
        assert_eq!(first(7, Use::Cohort, 1, 0, 0)[0], 4127059045336333883);
    }
}
