//! One file a command: what it reads, runs and prints.

pub mod bench;
pub mod compare;
pub mod config;
pub mod cost;
pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod manual;
pub mod new;
pub mod partition;
pub mod plan;
pub mod predict;
pub mod report;
pub mod self_test;
pub mod sweep;
pub mod train;
pub mod welcome;
