//! tokenizer.json.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

pub(crate) fn read(_bytes: &[u8], origin: &Path) -> Result<Tokenizer> {
    Err(Error::UnknownFormat {
        path: origin.to_owned(),
    })
}

pub(crate) fn write(_tokenizer: &Tokenizer) -> String {
    String::new()
}
