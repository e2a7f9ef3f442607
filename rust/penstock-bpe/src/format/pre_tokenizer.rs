//! The split pattern of a tokenizer.json, read and written.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::pattern::{Family, Pattern, SINGLE_NUMBERS};
use crate::pretokenize::sequence::Step;
use crate::pretokenize::split::{Behavior, Split};

/// Sequences within sequences, at most.
const MAX_DEPTH: usize = 8;

/// One pre-tokenizer as the file states it.
enum Stated {
    Split { split: StatedSplit, place: String },
    Digits { individual: bool },
    ByteLevel { use_regex: bool },
}

/// A `Split` as the file states it.
struct StatedSplit {
    expression: String,
    is_literal: bool,
    /// None: what lies between matches is removed.
    behavior: Option<Behavior>,
    is_inverted: bool,
}

/// Reads the pattern out of `value`, the file's `pre_tokenizer`.
pub(super) fn read(value: &Value, origin: &Path) -> Result<Pattern> {
    let mut stated = Vec::new();
    flatten(value, "pre_tokenizer", 0, &mut stated).map_err(|(error, place)| error.at(origin, place))?;
    let Some(Stated::ByteLevel { use_regex }) = stated.pop() else {
        let found = "no ByteLevel at the end".to_owned();
        return Err(Error::Unsupported { found, expected: "ByteLevel as the last pre-tokenizer" }
            .at(origin, "pre_tokenizer"));
    };
    let mut steps = steps_of(&stated, origin)?;
    if use_regex {
        steps.push(Step::Family(Family::Gpt2));
    }
    Ok(Pattern::from_steps(steps))
}

/// What is wrong, and where.
type Misplaced<T> = Result<T, (Error, String)>;

fn refuse<T>(place: impl Into<String>, found: impl Into<String>, expected: &'static str) -> Misplaced<T> {
    Err((Error::Unsupported { found: found.into(), expected }, place.into()))
}

fn flatten(value: &Value, place: &str, depth: usize, out: &mut Vec<Stated>) -> Misplaced<()> {
    const KINDS: &str = "Sequence, Split, Digits or ByteLevel";
    if matches!(out.last(), Some(Stated::ByteLevel { .. })) {
        return refuse(place, "a pre-tokenizer behind ByteLevel", "ByteLevel as the last one");
    }
    match value.get("type").and_then(Value::as_str) {
        Some("Sequence") if depth >= MAX_DEPTH => {
            return refuse(place, "sequences nested too deep", "a flat sequence");
        }
        Some("Sequence") => {
            let Some(items) = value.get("pretokenizers").and_then(Value::as_array) else {
                return refuse(format!("{place}.pretokenizers"), "no list", "a list of pre-tokenizers");
            };
            for (index, item) in items.iter().enumerate() {
                flatten(item, &format!("{place}.pretokenizers[{index}]"), depth + 1, out)?;
            }
        }
        Some("Split") => {
            out.push(Stated::Split { split: read_split(value, place)?, place: place.to_owned() })
        }
        Some("Digits") => {
            out.push(Stated::Digits { individual: flag(value, "individual_digits", None, place)? });
        }
        Some("ByteLevel") => {
            if flag(value, "add_prefix_space", Some(true), place)? {
                return refuse(format!("{place}.add_prefix_space"), "true", "false: text stays as it is");
            }
            // Offsets are not trimmed, whatever it says: it is for HF's post-processor of that name to do so.
            flag(value, "trim_offsets", Some(true), place)?;
            out.push(Stated::ByteLevel { use_regex: flag(value, "use_regex", Some(true), place)? });
        }
        Some(other) => return refuse(place, format!("`{other}`"), KINDS),
        None => return refuse(place, "no pre-tokenizer", KINDS),
    }
    Ok(())
}

/// The member `name` of `value`; without a default it must be there.
fn flag(value: &Value, name: &str, default: Option<bool>, place: &str) -> Misplaced<bool> {
    match (value.get(name), default) {
        (Some(Value::Bool(flag)), _) => Ok(*flag),
        (None, Some(default)) => Ok(default),
        (other, _) => refuse(format!("{place}.{name}"), shown(other), "true or false"),
    }
}

/// A member of the file for a message, shortened.
fn shown(value: Option<&Value>) -> String {
    value.map_or("no value".to_owned(), |value| value.to_string().chars().take(60).collect())
}

fn read_split(value: &Value, place: &str) -> Misplaced<StatedSplit> {
    const BEHAVIORS: &str = "Isolated, MergedWithPrevious, MergedWithNext or Contiguous";
    let pattern = value.get("pattern").and_then(Value::as_object).filter(|pattern| pattern.len() == 1);
    let stated = pattern.and_then(|pattern| pattern.iter().next());
    let (expression, is_literal) = match stated {
        Some((kind, Value::String(text))) if kind == "Regex" => (text.clone(), false),
        Some((kind, Value::String(text))) if kind == "String" => (text.clone(), true),
        _ => {
            let expected = r#"{"Regex": ...} or {"String": ...}"#;
            return refuse(format!("{place}.pattern"), shown(value.get("pattern")), expected);
        }
    };
    let is_inverted = flag(value, "invert", None, place)?;
    let name = value.get("behavior").and_then(Value::as_str);
    let behavior = Behavior::ALL.into_iter().find(|behavior| Some(behavior.name()) == name);
    if behavior.is_none() && !(name == Some("Removed") && is_inverted) {
        return refuse(format!("{place}.behavior"), shown(value.get("behavior")), BEHAVIORS);
    }
    Ok(StatedSplit { expression, is_literal, behavior, is_inverted })
}

/// The steps, known families in place of their expressions.
fn steps_of(stated: &[Stated], origin: &Path) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut at = 0;
    while at < stated.len() {
        let splits: Vec<&str> = stated[at..]
            .iter()
            .map_while(|step| match step {
                Stated::Split { split, .. }
                    if split.behavior == Some(Behavior::Isolated) && !split.is_literal =>
                {
                    Some(split.expression.as_str())
                }
                Stated::Digits { individual: true } => Some(SINGLE_NUMBERS),
                _ => None,
            })
            .collect();
        if let Some((family, taken)) = Family::recognise_sequence(&splits) {
            steps.push(Step::Family(family));
            at += taken;
            continue;
        }
        steps.push(match &stated[at] {
            Stated::Split { split, place } => split_step(split).map_err(|error| error.at(origin, place))?,
            Stated::Digits { individual } => Step::Digits { individual: *individual },
            Stated::ByteLevel { .. } => Step::Family(Family::Gpt2),
        });
        at += 1;
    }
    Ok(steps)
}

fn split_step(stated: &StatedSplit) -> Result<Step> {
    let family = Family::recognise(&stated.expression).filter(|_| !stated.is_literal);
    let (family, behavior) = match (family, stated.behavior) {
        (Some(family), Some(Behavior::Isolated)) => (Some(family), Behavior::Isolated),
        // Where a rule matches every character, nothing lies between matches that `Removed` could remove.
        (Some(family), None) if family.covers_everything() => (Some(family), Behavior::Isolated),
        (_, Some(behavior)) => (None, behavior),
        (_, None) => {
            let found = "Split behavior `Removed` with an expression of its own".to_owned();
            return Err(Error::Unsupported { found, expected: "`Isolated`" });
        }
    };
    if let Some(family) = family {
        return Ok(Step::Family(family));
    }
    let mut split =
        if stated.is_literal { Split::literal(&stated.expression)? } else { Split::new(&stated.expression)? };
    // What is isolated is so from either side.
    split.is_inverted = stated.is_inverted && behavior != Behavior::Isolated;
    split.behavior = behavior;
    Ok(Step::Split(split))
}

/// The `pre_tokenizer` of a file with this pattern.
pub(super) fn write(pattern: &Pattern) -> Value {
    let mut steps = pattern.steps();
    let use_regex = matches!(steps.last(), Some(Step::Family(Family::Gpt2)));
    if use_regex {
        steps.pop();
    }
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let isolated = |expression: &str| match expression {
        SINGLE_NUMBERS => digits(true),
        _ => {
            json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
        }
    };
    let mut items: Vec<Value> = Vec::new();
    for step in &steps {
        match step {
            Step::Family(family) => items.extend(family.expressions().iter().map(|e| isolated(e))),
            Step::Split(split) => items.push(write_split(split)),
            Step::Digits { individual } => items.push(digits(*individual)),
        }
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex
    });
    if items.is_empty() {
        return byte_level;
    }
    items.push(byte_level);
    json!({"type": "Sequence", "pretokenizers": items})
}

fn write_split(split: &Split) -> Value {
    let kind = if split.is_literal { "String" } else { "Regex" };
    json!({
        "type": "Split",
        "pattern": {kind: split.source()},
        "behavior": split.behavior.name(),
        "invert": split.is_inverted,
    })
}
