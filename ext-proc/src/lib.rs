//! ext-proc
