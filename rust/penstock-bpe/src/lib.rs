//! penstock-bpe.
