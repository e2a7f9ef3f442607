//! The split pattern of a tokenizer.json, read and written.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::pattern::{Family, Pattern, SINGLE_NUMBERS};
use crate::pretokenize::sequence::{CustomRegex, Step};

/// Sequences within sequences, at most.
const MAX_DEPTH: usize = 8;

/// One pre-tokenizer as the file states it.
enum Stated {
    Split { expression: String, isolated: bool, place: String },
    Digits { individual: bool },
    ByteLevel { use_regex: bool },
}

/// Reads the pattern out of `value`, the file's `pre_tokenizer`.
pub(super) fn read(value: &Value, origin: &Path) -> Result<Pattern> {
    let mut stated = Vec::new();
    flatten(value, "pre_tokenizer", 0, origin, &mut stated)?;
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

fn flatten(value: &Value, place: &str, depth: usize, origin: &Path, out: &mut Vec<Stated>) -> Result<()> {
    let refuse = |found: String, expected| Err(Error::Unsupported { found, expected }.at(origin, place));
    let flag = |name: &str, default| value.get(name).map_or(default, |flag| flag == &Value::Bool(true));
    match value.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            if depth >= MAX_DEPTH {
                return refuse("sequences nested too deep".to_owned(), "a flat sequence");
            }
            let Some(items) = value.get("pretokenizers").and_then(Value::as_array) else {
                return refuse("a Sequence without `pretokenizers`".to_owned(), "a list");
            };
            for (index, item) in items.iter().enumerate() {
                let place = format!("{place}.pretokenizers[{index}]");
                if matches!(out.last(), Some(Stated::ByteLevel { .. })) {
                    let found = "a pre-tokenizer behind ByteLevel".to_owned();
                    return Err(
                        Error::Unsupported { found, expected: "ByteLevel as the last one" }.at(origin, place)
                    );
                }
                flatten(item, &place, depth + 1, origin, out)?;
            }
        }
        Some("Split") => {
            let Some(expression) = value.pointer("/pattern/Regex").and_then(Value::as_str) else {
                return refuse("a Split without a regular expression".to_owned(), r#"{"Regex": ...}"#);
            };
            let behavior = value.get("behavior").and_then(Value::as_str).unwrap_or_default();
            // Isolated keeps matches and what is between them apart, so it is its own inverse.
            let isolated = behavior == "Isolated";
            let keeps_matches = behavior == "Removed" && flag("invert", false);
            if !isolated && !keeps_matches {
                return refuse(format!("Split behavior `{behavior}`"), "`Isolated`");
            }
            out.push(Stated::Split { expression: expression.to_owned(), isolated, place: place.to_owned() });
        }
        Some("Digits") => out.push(Stated::Digits { individual: flag("individual_digits", false) }),
        Some("ByteLevel") => {
            if flag("add_prefix_space", true) {
                return refuse("add_prefix_space".to_owned(), "add_prefix_space: false");
            }
            out.push(Stated::ByteLevel { use_regex: flag("use_regex", true) });
        }
        Some(other) => return refuse(format!("`{other}`"), "Sequence, Split, Digits or ByteLevel"),
        None => {
            return refuse("no pre-tokenizer".to_owned(), "Sequence, Split, Digits or ByteLevel");
        }
    }
    Ok(())
}

/// The steps, known families in place of their expressions.
fn steps_of(stated: &[Stated], origin: &Path) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut at = 0;
    while at < stated.len() {
        let splits: Vec<&str> = stated[at..]
            .iter()
            .map_while(|step| match step {
                Stated::Split { expression, isolated: true, .. } => Some(expression.as_str()),
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
            Stated::Split { expression, isolated, place } => {
                split_step(expression, *isolated).map_err(|error| error.at(origin, place))?
            }
            Stated::Digits { individual } => Step::Digits { individual: *individual },
            Stated::ByteLevel { .. } => Step::Family(Family::Gpt2),
        });
        at += 1;
    }
    Ok(steps)
}

fn split_step(expression: &str, isolated: bool) -> Result<Step> {
    match Family::recognise(expression) {
        // Where a rule matches every character, nothing lies between matches that `Removed` could remove.
        Some(family) if isolated || family.covers_everything() => Ok(Step::Family(family)),
        _ if isolated => Ok(Step::Regex(CustomRegex::new(expression)?)),
        _ => {
            let found = "Split behavior `Removed` with an expression of its own".to_owned();
            Err(Error::Unsupported { found, expected: "`Isolated`" })
        }
    }
}

/// The `pre_tokenizer` of a file with this pattern.
pub(super) fn write(pattern: &Pattern) -> Value {
    let mut steps = pattern.steps();
    let use_regex = matches!(steps.last(), Some(Step::Family(Family::Gpt2)));
    if use_regex {
        steps.pop();
    }
    let split = |expression: &str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let mut items: Vec<Value> = Vec::new();
    for step in &steps {
        match step {
            Step::Family(family) => items.extend(family.expressions().iter().map(|e| split(e))),
            Step::Regex(regex) => items.push(split(regex.source())),
            Step::Digits { individual } => {
                items.push(json!({"type": "Digits", "individual_digits": individual}));
            }
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
