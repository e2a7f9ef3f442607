//! Rank files.

use std::path::Path;

use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::tokenizer::Tokenizer;

pub(crate) fn read(_bytes: &[u8], _pattern: Pattern, origin: &Path) -> Result<Tokenizer> {
    Err(Error::UnknownFormat {
        path: origin.to_owned(),
    })
}
