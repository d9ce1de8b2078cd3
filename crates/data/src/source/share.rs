//! Validation and test rows drawn from the training rows, where a set has no such splits of its own.

use rand::seq::SliceRandom;

use super::Row;
use super::read::SplitShares;
use crate::DataError;
use crate::random::{Use, stream};

/// Takes validation and test rows out of `train`, drawn by the seed; all keep the order of the file.
pub(super) fn draw(train: &mut Vec<Row>, shares: &SplitShares, seed: u64) -> Result<(Vec<Row>, Vec<Row>), DataError> {
    let (validation, test) = shares.counts(train.len())?;
    let mut order: Vec<usize> = (0..train.len()).collect();
    order.shuffle(&mut stream(seed, Use::Split, 0, 0, 0));
    let mut goes_to = vec![0u8; train.len()];
    order[..test].iter().for_each(|row| goes_to[*row] = 2);
    order[test..test + validation].iter().for_each(|row| goes_to[*row] = 1);
    let mut drawn = (Vec::with_capacity(validation), Vec::with_capacity(test));
    let mut kept = Vec::with_capacity(train.len() - validation - test);
    for (row, to) in train.drain(..).zip(goes_to) {
        match to {
            0 => kept.push(row),
            1 => drawn.0.push(row),
            _ => drawn.1.push(row),
        }
    }
    *train = kept;
    Ok(drawn)
}
