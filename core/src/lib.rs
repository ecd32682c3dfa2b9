//! The rules of NullSpend, free of I/O.
//!
//! Everything that decides lives here as functions of data: what a call costs, what it may cost at most, which
//! budgets it touches, whether they allow it, and how one request moves from headers to settlement. Nothing here
//! reads a clock, a socket, a disk or a random source except [`clock::SystemClock`] and [`id::RandomIds`], which
//! the composition root hands in.

pub mod attempt;
pub mod bound;
pub mod clock;
pub mod cost;
pub mod exchange;
pub mod freeze;
pub mod id;
mod json;
pub mod ledger;
pub mod loops;
pub mod money;
pub mod policy;
pub mod price;
pub mod rate_limit;
pub mod replay;
pub mod request;
pub mod settle;
pub mod sse;
pub mod tokenizer;
pub mod trail;
pub mod usage;
pub mod window;
