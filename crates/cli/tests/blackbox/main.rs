//! The binary from outside: what it prints, what it leaves on disk, what it says to mistakes. One file a theme.

mod backdoor;
mod bad_config;
mod bad_data;
mod bad_model;
mod before;
mod bench;
mod best;
mod causal;
mod compare;
mod cost;
mod doctor;
mod export;
mod fairness;
mod faults;
mod first_minutes;
mod help;
mod hub;
#[cfg(unix)]
mod interrupt;
mod kill;
mod kit;
mod logs;
mod mistakes;
mod multi_label;
mod numbers;
mod partition;
#[cfg(unix)]
mod plan;
mod planted;
mod predict;
mod privacy;
mod quickstart;
mod regression;
mod repeat;
mod report;
mod self_test;
mod side_by_side;
mod support;
#[cfg(target_os = "linux")]
mod sweep;
mod terminal;
mod tokens;
#[cfg(target_os = "linux")]
mod tui;
