//! Reading data, tokenizing it and dealing it out, in one program. What strangers made is read in a program of its own
//! (`untrusted.rs`), whose allocator tells whether a size in a file was believed.
#![allow(clippy::unwrap_used)]

mod asked;
#[path = "../../../../tests/support/cases.rs"]
mod cases;
mod causal_source;
mod causal_tokens;
mod corpus;
mod kinds_of_files;
#[path = "../support/packed.rs"]
mod packed;
mod partition;
mod public_sets;
mod real;
mod source;
mod tables;
mod tokens;
mod words;
