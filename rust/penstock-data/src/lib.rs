//! penstock-data.
