//! Training against a plain trainer that recounts everything before each merge.
