//! The ledger's law, clause by clause, with small numbers.

mod book;
mod clauses;
mod leases;
mod limits;
mod rates;
mod sessions;
