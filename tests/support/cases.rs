//! How many random cases a property test tries, and the seed that gives them again. Test programs of several crates include
//! this file.

use std::hash::{BuildHasher, RandomState};

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// `cases` new ones every time, or as many as `PROPTEST_CASES` says; those of `PROPTEST_RNG_SEED` where that is set. The seed
/// is printed, and a failing test shows what it printed.
pub fn cases(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    let seed = match asked.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(0),
    };
    println!("PROPTEST_RNG_SEED={seed} gives these cases again");
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { asked.cases } else { cases };
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..asked }
}
