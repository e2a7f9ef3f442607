//! Which inputs, under which names; and whether a folder was begun for the same ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use penstock_bpe::progress::Progress;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::folder::{commit_bytes, lock, seal, seal_digits, unseal};
use crate::manifest::{InputName, Plan};
use crate::source;

pub(super) fn plan_lock(folder: &Path) -> PathBuf {
    folder.join("locks").join("plan.lock")
}

/// The inputs in task order, with their names: relative to the deepest folder that holds all, sorted.
///
/// # Errors
/// [`Error::NoInputs`], [`Error::DuplicateInput`], [`Error::UnknownInput`], [`Error::Io`].
pub(super) fn name_inputs(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<InputName>)> {
    let (mut absolute, mut files) = (BTreeMap::new(), BTreeSet::new());
    for path in paths {
        source::check_name(path)?;
        let found = |e| Error::io(path, "find", e);
        // A link has the name that it was given by, and is the file that it leads to.
        absolute.insert(std::path::absolute(path).map_err(found)?, path);
        if !files.insert(fs::canonicalize(path).map_err(found)?) {
            return Err(Error::DuplicateInput { path: path.clone() });
        }
    }
    let mut root = absolute.keys().next().and_then(|first| first.parent()).ok_or(Error::NoInputs)?;
    while !absolute.keys().all(|path| path.starts_with(root)) {
        root = root.parent().ok_or(Error::NoInputs)?;
    }
    let mut named = Vec::with_capacity(absolute.len());
    for (place, path) in &absolute {
        let name = place.strip_prefix(root).ok().and_then(Path::to_str).ok_or_else(|| Error::BadOption {
            option: "paths",
            value: path.display().to_string(),
            expected: "file names in UTF-8".to_owned(),
        })?;
        let found = fs::metadata(path).map_err(|e| Error::io(path, "find", e))?;
        if !found.is_file() {
            return Err(Error::BadOption {
                option: "paths",
                value: path.display().to_string(),
                expected: "files, no folders".to_owned(),
            });
        }
        named.push((InputName { name: name.to_owned(), size: found.len() }, (*path).clone()));
    }
    named.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    Ok(named.into_iter().map(|(name, path)| (path, name)).unzip())
}

/// Writes the plan into a new folder, or compares it with that of an old one; returns its seal.
///
/// # Errors
/// [`Error::OtherPlan`] naming the first difference, [`Error::Corruption`], [`Error::Io`], [`Error::Cancelled`].
pub(super) fn agree_on_plan(folder: &Path, plan: &Plan, progress: &Progress) -> Result<String> {
    let bytes = seal(plan)?;
    let path = folder.join("plan.json");
    let _lock = lock(&plan_lock(folder), progress)?;
    match fs::read(&path) {
        Ok(recorded) if recorded == bytes => {}
        Ok(recorded) => return Err(difference(folder, &unseal(&path, &recorded)?, plan)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => commit_bytes(&path, &bytes)?,
        Err(error) => return Err(Error::io(&path, "read", error)),
    }
    Ok(seal_digits(&bytes))
}

fn difference(folder: &Path, recorded: &Plan, given: &Plan) -> Error {
    let leaves = |plan| {
        let mut members = Vec::new();
        flatten("", &serde_json::to_value(plan).unwrap_or_default(), &mut members);
        members
    };
    let (recorded, given) = (leaves(recorded), leaves(given));
    let (of_recorded, of_given) = (by_name(&recorded), by_name(&given));
    // A member may be in one of the two alone.
    let value = |members: &BTreeMap<&str, &str>, name| (*members.get(name).unwrap_or(&"nothing")).to_owned();
    let mut names = recorded.iter().chain(&given).map(|(name, _)| name.as_str());
    let what = names.find(|name| of_recorded.get(name) != of_given.get(name)).unwrap_or_default();
    Error::OtherPlan {
        folder: folder.to_owned(),
        what: what.to_owned(),
        recorded: value(&of_recorded, what),
        given: value(&of_given, what),
    }
}

fn by_name(members: &[(String, String)]) -> BTreeMap<&str, &str> {
    members.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// All leaves of a JSON value with their paths.
fn flatten(path: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{name}"), member, leaves);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{i}]"), item, leaves);
            }
        }
        leaf => leaves.push((path.to_owned(), leaf.to_string())),
    }
}
