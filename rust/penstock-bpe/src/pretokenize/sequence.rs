//! Splits in sequence, as a tokenizer.json may list them: the general path for patterns without a scanner.

use super::split::Split;
use crate::pattern::Family;
use crate::unicode::is_numeric;

/// One step: every piece of the step before is cut further.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A known pattern, by its scanner.
    Family(Family),
    /// A regular expression and what becomes of its matches.
    Split(Split),
    /// Digits apart from the rest, each alone if `individual`.
    Digits {
        /// Whether each digit is its own piece.
        individual: bool,
    },
}

/// Cuts `text` by all of `steps`.
pub(crate) fn scan(steps: &[Step], text: &str, emit: &mut dyn FnMut(&str)) {
    let Some((step, rest)) = steps.split_first() else {
        emit(text);
        return;
    };
    let mut next = |piece: &str| scan(rest, piece, emit);
    match step {
        Step::Family(family) => family.hand_out(text, &mut |start, end| next(&text[start..end])),
        Step::Split(split) => split.cut(text, &mut next),
        Step::Digits { individual } => isolate_digits(*individual, text, &mut next),
    }
}

fn isolate_digits(individual: bool, text: &str, emit: &mut dyn FnMut(&str)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_numbers = is_numeric(first);
        let end = if in_numbers && individual {
            first.len_utf8()
        } else {
            rest.find(|character| is_numeric(character) != in_numbers).unwrap_or(rest.len())
        };
        emit(&rest[..end]);
        rest = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(steps: &[Step], text: &str) -> Vec<String> {
        let mut found = Vec::new();
        scan(steps, text, &mut |piece| found.push(piece.to_owned()));
        found
    }

    #[test]
    fn steps_cut_what_the_step_before_left() {
        let steps = [Step::Split(Split::new(r"\s+|[a-z]+").unwrap()), Step::Digits { individual: true }];
        assert_eq!(pieces(&steps, "ab 12c"), ["ab", " ", "1", "2", "c"]);
        let steps = [Step::Digits { individual: false }];
        assert_eq!(pieces(&steps, "ab12c"), ["ab", "12", "c"]);
    }
}
