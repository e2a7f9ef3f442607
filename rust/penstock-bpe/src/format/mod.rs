//! Files: tokenizer.json, rank files and SentencePiece models, read with limits and written whole or not at all.

mod atomic;
pub(crate) mod json;
mod json_write;
mod pre_tokenizer;
mod schema;
pub(crate) mod sentencepiece;
pub(crate) mod tiktoken;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use json_write::to_json;

use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::tokenizer::Tokenizer;

/// No tokenizer file is larger; those of 256K tokens have about 20 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Reads whatever tokenizer stands at `path`.
pub(crate) fn load(path: &Path, pattern: Option<&str>) -> Result<Tokenizer> {
    let pattern = pattern.map(Pattern::from_name).transpose()?;
    let path = if path.is_dir() { file_in(path) } else { path.to_owned() };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            let tokenizer = json::read(&read_limited(&path)?, &path)?;
            match pattern {
                Some(wanted) if wanted != *tokenizer.pattern() => {
                    let stated = tokenizer.pattern().name();
                    Err(Error::PatternConflict { path, stated, wanted: wanted.name().to_owned() })
                }
                _ => Ok(tokenizer),
            }
        }
        Some("tiktoken") => {
            let pattern = pattern.ok_or_else(|| Error::PatternNeeded { path: path.clone() })?;
            tiktoken::read(&read_limited(&path)?, pattern, &path)
        }
        Some("model") if pattern.is_some() => Err(Error::PatternConflict {
            path,
            stated: "custom",
            wanted: pattern.map_or("custom", |pattern| pattern.name()).to_owned(),
        }),
        Some("model") => sentencepiece::read(&read_limited(&path)?, &path),
        _ => Err(Error::UnknownFormat { path }),
    }
}

/// The tokenizer of a folder: its tokenizer.json, or else the model that stands alone there.
fn file_in(folder: &Path) -> PathBuf {
    let (json, model) = (folder.join("tokenizer.json"), folder.join("tokenizer.model"));
    if !json.exists() && model.exists() { model } else { json }
}

fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long, also where it has no size of its own.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    let size_bytes = bytes.len() as u64;
    if size_bytes > MAX_FILE_BYTES {
        return Err(Error::FileTooLarge { path: path.to_owned(), size_bytes, limit_bytes: MAX_FILE_BYTES });
    }
    Ok(bytes)
}

/// Writes `tokenizer` in the format that the name of `path` asks for.
pub(crate) fn save(tokenizer: &Tokenizer, path: &Path) -> Result<()> {
    if let Some(origin) = &tokenizer.model().sentencepiece {
        return save_model(&origin.source, path);
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("model") => Err(Error::UnknownFormat { path: path.to_owned() }),
        Some("tiktoken") => atomic::write(path, tiktoken::write(tokenizer, path)?.as_bytes()),
        Some("json") => atomic::write(path, to_json(tokenizer)?.as_bytes()),
        _ => {
            std::fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))?;
            let config = json_write::transformers_config(tokenizer);
            atomic::write(&path.join("tokenizer_config.json"), config.as_bytes())?;
            atomic::write(&path.join("tokenizer.json"), to_json(tokenizer)?.as_bytes())
        }
    }
}

/// Writes a SentencePiece model as it came.
fn save_model(source: &[u8], path: &Path) -> Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("model") => atomic::write(path, source),
        Some("json") => Err(Error::OnlyAsModel { format: "a tokenizer.json" }),
        Some("tiktoken") => Err(Error::OnlyAsModel { format: "a rank file" }),
        _ => {
            std::fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))?;
            atomic::write(&path.join("tokenizer.model"), source)
        }
    }
}
