//! penstock-py.
