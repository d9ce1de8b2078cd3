//! One file a command: what it reads, runs and prints.

pub mod bench;
pub mod compare;
pub mod cost;
pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod partition;
pub mod train;
