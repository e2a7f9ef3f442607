//! Scanners against the regular expressions that define them.
