//! A row as every kind of file hands it out, and the function that it is handed to.

use super::place::Place;
use crate::{Cell, DataError};

/// One row: its fields in the order of the file.
pub(super) type Record = Vec<(String, Cell)>;

/// What is done with each record.
pub(super) type Each<'e> = &'e mut dyn FnMut(Place, Record) -> Result<(), DataError>;
