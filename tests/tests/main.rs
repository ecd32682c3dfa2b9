//! Every promise of the product, kept by the real thing.
