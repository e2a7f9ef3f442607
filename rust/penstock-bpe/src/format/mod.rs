//! Files: tokenizer.json, rank files and SentencePiece models, read with limits and written whole or not at all.

mod atomic;
pub(crate) mod cache;
pub(crate) mod json;
mod json_write;
mod pre_tokenizer;
mod schema;
pub(crate) mod sentencepiece;
pub(crate) mod tiktoken;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub(crate) use json_write::to_json;

use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::tokenizer::Tokenizer;

/// No tokenizer file is larger; those of 256K tokens have about 20 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Reads whatever tokenizer stands at `path`, by way of `cache` if that was made from it.
pub(crate) fn load(path: &Path, pattern: Option<&str>, cache: Option<&Path>) -> Result<Tokenizer> {
    let pattern = pattern.map(Pattern::from_name).transpose()?;
    let path = find(path)?;
    if kind_of(&path).is_none_or(|kind| !["json", "tiktoken", "model"].contains(&kind)) {
        return Err(Error::UnknownFormat { path });
    }
    if kind_of(&path) == Some("tiktoken") && pattern.is_none() {
        return Err(Error::PatternNeeded { path });
    }
    let source = read_limited(&path)?;
    let Some(cache) = cache else { return parse(&source, path, pattern) };
    let key = cache::key_of(&source, pattern.as_ref());
    // What cannot be read is written anew.
    let cached = read_limited(cache).ok().and_then(|cached| cache::read(&cached, key, &path));
    if let Some(tokenizer) = cached {
        return Ok(tokenizer);
    }
    let tokenizer = parse(&source, path, pattern)?;
    if let Some(content) = cache::write(&tokenizer, key) {
        atomic::write(cache, &content)?;
    }
    Ok(tokenizer)
}

fn kind_of(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}

/// Reads the content of a file whose name tells its kind.
fn parse(source: &[u8], path: PathBuf, pattern: Option<Pattern>) -> Result<Tokenizer> {
    let tokenizer = match (kind_of(&path), &pattern) {
        (Some("tiktoken"), Some(pattern)) => return tiktoken::read(source, pattern.clone(), &path),
        (Some("model"), _) => sentencepiece::read(source, &path)?,
        _ => json::read(source, &path)?,
    };
    match pattern {
        Some(wanted) if wanted != *tokenizer.pattern() => {
            let stated = tokenizer.pattern().name();
            Err(Error::PatternConflict { path, stated, wanted: wanted.name().to_owned() })
        }
        _ => Ok(tokenizer),
    }
}

/// The tokenizer file that `path` is, or holds: its tokenizer.json, or else the model that stands alone there.
fn find(path: &Path) -> Result<PathBuf> {
    let missing = |found| Err(Error::NoTokenizer { path: path.to_owned(), found });
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let files = ["tokenizer.json", "tokenizer.model"].map(|name| path.join(name));
            files
                .into_iter()
                .find(|file| file.exists())
                .map_or_else(|| missing("a folder without a tokenizer"), Ok)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => missing("no such file or folder"),
        // What else is wrong shows when it is opened.
        _ => Ok(path.to_owned()),
    }
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
    match kind_of(path) {
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
    match kind_of(path) {
        Some("model") => atomic::write(path, source),
        Some("json") => Err(Error::OnlyAsModel { format: "a tokenizer.json" }),
        Some("tiktoken") => Err(Error::OnlyAsModel { format: "a rank file" }),
        _ => {
            std::fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))?;
            atomic::write(&path.join("tokenizer.model"), source)
        }
    }
}
