//! All matches of an expression, leftmost and first alternative first, in time linear in the text.
//!
//! An engine that is asked for one match after another may look far beyond each: `[a-z]*1|[a-z]` reads on to the end of the
//! word for every letter, in search of a 1. Here the states and places that such a look ahead went through are kept: a later
//! one that comes to the same state at the same place would find nothing either, and ends (Reps, "Maximal-munch"
//! tokenization in linear time, 1998). That costs something, so it begins when a text has made much of that reading. Where the
//! states of the automaton outgrow [`CACHE_BYTES`] what is known is forgotten with them; the rest of a text that makes that
//! happen often is left to [`Backward`].

use std::fmt;
use std::sync::{Arc, Mutex};

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Builder, Cache, Config, DFA};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::Hir;
use rustc_hash::FxHashSet;

use super::backward::Backward;
use crate::error::PatternError;

/// States are kept at multiples of this, so that it costs little; a later look ahead goes on to the next of them.
const STRIDE: usize = 64;
/// So many bytes more than the matches hold may be read of a text before states are kept.
const MOST_AHEAD: usize = 4 << 10;
const CACHE_BYTES: usize = 4 << 20;
/// Bytes that may be read in searches that keep states, beyond those paid for by [`PAID`].
const MOST_OWED: usize = 8 << 20;
/// Bytes that each byte of text left behind pays for.
const PAID: usize = 128;
/// So many bytes the making of new states counts for when the old ones have been cleared.
const CLEARING: usize = 1 << 20;
/// Memories kept for later calls; more threads than this make their own anew.
const KEPT: usize = 64;

/// A compiled expression.
#[derive(Clone)]
pub(super) struct Linear {
    shared: Arc<Shared>,
}

struct Shared {
    forward: DFA,
    reverse: DFA,
    idle: Mutex<Vec<Memory>>,
}

/// What one thread searches with.
struct Memory {
    forward: Cache,
    reverse: Cache,
    /// From where nothing more is found in the present text.
    fruitless: FxHashSet<(usize, LazyStateID)>,
    /// What becomes fruitless if the search under way finds nothing more.
    trail: Vec<(usize, LazyStateID)>,
    /// How often states had been forgotten when those were kept; since then the same names mean others.
    clears: usize,
    /// Bytes read of the present text beyond what its matches hold; `None` once states are kept.
    ahead: Option<usize>,
    /// Bytes read and not paid for, over all texts: many short ones owe no more than a long one.
    owed: usize,
}

impl fmt::Debug for Linear {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Linear").finish_non_exhaustive()
    }
}

impl Linear {
    /// Compiles `hir`, the expression `source`, to at most `limit_bytes`.
    pub(super) fn new(source: &str, hir: &Hir, limit_bytes: usize) -> Result<Self, PatternError> {
        let syntax = |reason: String| PatternError::Syntax { pattern: source.to_owned(), reason };
        let compiled = |is_reverse, kind| {
            let config = thompson::Config::new()
                .nfa_size_limit(Some(limit_bytes))
                .which_captures(thompson::WhichCaptures::None)
                .reverse(is_reverse);
            let automaton = thompson::Compiler::new().configure(config).build_from_hir(hir);
            let automaton = automaton.map_err(|error| match error.size_limit() {
                Some(limit_bytes) => PatternError::TooLarge { pattern: source.to_owned(), limit_bytes },
                None => syntax(error.to_string()),
            })?;
            let config =
                Config::new().match_kind(kind).cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true);
            let built = Builder::new().configure(config).build_from_nfa(automaton);
            built.map_err(|error| syntax(error.to_string()))
        };
        let forward = compiled(false, MatchKind::LeftmostFirst)?;
        let reverse = compiled(true, MatchKind::All)?;
        Ok(Self { shared: Arc::new(Shared { forward, reverse, idle: Mutex::default() }) })
    }

    /// Calls `emit` with start and end of each match in `text`, in order.
    pub(super) fn for_each_match(&self, text: &str, mut emit: impl FnMut(usize, usize)) {
        let Shared { forward, idle, .. } = &*self.shared;
        // Nobody waits for the lock: a process that was forked while another thread held it would wait for ever.
        let kept = idle.try_lock().ok().and_then(|mut idle| idle.pop());
        let mut memory = kept.unwrap_or_else(|| self.shared.memory());
        memory.ahead = Some(0);
        let mut input = Input::new(text);
        let mut last_end = None;
        while !input.is_done() {
            if memory.ahead.is_none() && memory.owed > MOST_OWED + PAID * input.start() {
                rest(forward, text, input.start(), last_end, &mut emit);
                break;
            }
            let Some((start, end)) = memory.find(&self.shared, &input) else { break };
            // An empty match is none within a character, nor where the last match ended.
            if start == end && (last_end == Some(end) || !text.is_char_boundary(end)) {
                input.set_start(input.start() + 1);
                continue;
            }
            emit(start, end);
            last_end = Some(end);
            input.set_start(end);
        }
        memory.owed = memory.owed.saturating_sub(PAID * text.len());
        memory.fruitless = FxHashSet::default();
        if let Ok(mut idle) = idle.try_lock()
            && idle.len() < KEPT
        {
            idle.push(memory);
        }
    }
}

/// Hands out the matches from `from` on, where the last one ended at `last_end`, by way of [`Backward`].
#[cold]
fn rest(
    forward: &DFA,
    text: &str,
    mut from: usize,
    mut last_end: Option<usize>,
    emit: &mut impl FnMut(usize, usize),
) {
    let mut backward = Backward::new(forward.get_nfa(), text, from);
    while from <= text.len()
        && let Some((start, end)) = backward.find(from)
    {
        if start == end && (last_end == Some(end) || !text.is_char_boundary(end)) {
            from += 1;
        } else {
            emit(start, end);
            (from, last_end) = (end, Some(end));
        }
    }
}

impl Shared {
    fn memory(&self) -> Memory {
        Memory {
            forward: self.forward.create_cache(),
            reverse: self.reverse.create_cache(),
            fruitless: FxHashSet::default(),
            trail: Vec::new(),
            clears: 0,
            ahead: None,
            owed: 0,
        }
    }
}

impl Memory {
    /// The first match in `input`, from where it starts.
    fn find(&mut self, shared: &Shared, input: &Input<'_>) -> Option<(usize, usize)> {
        let end = if self.ahead.is_some() {
            // Most matches begin where the last one ended, and then where they begin need not be looked for.
            let here = input.clone().anchored(Anchored::Yes);
            if let Some(end) = self.end_at_full_speed(&shared.forward, &here) {
                return Some((input.start(), end));
            }
            self.end_at_full_speed(&shared.forward, input)?
        } else {
            self.end_of_first(&shared.forward, input)?
        };
        if end == input.start() {
            return Some((end, end));
        }
        let behind = input.clone().span(input.start()..end).anchored(Anchored::Yes);
        let start = shared.reverse.try_search_rev(&mut self.reverse, &behind).ok()??;
        Some((start.offset(), end))
    }

    /// The end of the first match, by the automaton's own loop.
    fn end_at_full_speed(&mut self, dfa: &DFA, input: &Input<'_>) -> Option<usize> {
        let (clears, before) = (self.forward.clear_count(), self.forward.search_total_len());
        let end = dfa.try_search_fwd(&mut self.forward, input).ok()?.map(|found| found.offset());
        // Clearing makes it count from 0 again.
        let is_cleared = self.forward.clear_count() != clears;
        let read = self.forward.search_total_len().saturating_sub(before);
        let ahead = self.ahead.unwrap_or_default() + read;
        let ahead = ahead.saturating_sub(end.map_or(0, |end| end - input.start()));
        self.ahead = (!is_cleared && ahead <= MOST_AHEAD).then_some(ahead);
        end
    }

    /// The same, by way of what is known to be fruitless.
    fn end_of_first(&mut self, dfa: &DFA, input: &Input<'_>) -> Option<usize> {
        let text = input.haystack();
        let mut state = dfa.start_state_forward(&mut self.forward, input).ok()?;
        let mut end = None;
        self.trail.clear();
        for (at, &byte) in text.iter().enumerate().skip(input.start()) {
            if at % STRIDE == 0 && self.is_fruitless(at, state) {
                self.fruitless.extend(self.trail.drain(..));
                return end;
            }
            state = dfa.next_state(&mut self.forward, state, byte).ok()?;
            if state.is_tagged() {
                // A match shows at the byte behind it.
                if state.is_match() {
                    end = Some(at);
                    self.trail.clear();
                } else if state.is_dead() {
                    break;
                }
            }
        }
        if !state.is_dead() && dfa.next_eoi_state(&mut self.forward, state).ok()?.is_match() {
            return Some(text.len());
        }
        if self.forward.clear_count() == self.clears {
            self.fruitless.extend(self.trail.drain(..));
        }
        end
    }

    /// Whether nothing more is found from `state` at `at`; if that is not known, it may be so after this search.
    fn is_fruitless(&mut self, at: usize, state: LazyStateID) -> bool {
        self.owed += STRIDE;
        if self.forward.clear_count() != self.clears {
            self.owed += CLEARING * (self.forward.clear_count() - self.clears);
            self.clears = self.forward.clear_count();
            self.fruitless.clear();
            self.trail.clear();
        }
        if self.fruitless.contains(&(at, state)) {
            return true;
        }
        self.trail.push((at, state));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize::dialect;
    use regex_automata::meta::Regex;

    type Places = Vec<(usize, usize)>;

    /// What is found, and what is to be. With much `owed`, what can be is left to [`Backward`].
    fn matches(expression: &str, text: &str, owed: usize) -> (Places, Places) {
        let hir = dialect::parse(expression).unwrap();
        let mut found = Vec::new();
        let linear = Linear::new(expression, &hir, 1 << 20).unwrap();
        let mut memory = linear.shared.memory();
        memory.owed = owed;
        linear.shared.idle.lock().unwrap().push(memory);
        linear.for_each_match(text, |start, end| found.push((start, end)));
        let wanted = Regex::builder().build_from_hir(&hir).unwrap();
        (found, wanted.find_iter(text).map(|found| (found.start(), found.end())).collect())
    }

    #[test]
    fn matches_are_those_of_an_engine_that_is_asked_one_by_one() {
        let letters = ["a", "b", "1", " ", "\n", "\r", "é", "字", "aaaa", "      "];
        let mut state = 7_u64;
        for expression in [
            "[a-z]*1|[a-z]",
            "(?:ab)*1|a|b",
            r"\s*\n|\s",
            "x*",
            "",
            "a*",
            r"\p{L}+1|\p{L}{3}| ",
            r"^\s*|b$",
            r"\s+$",
            r"(a|ab)(1|b1)?",
            r"\p{L}+?",
            r"(?:\p{L}+ )*1|\p{L}+| +",
            r"\A\s|[^a]*b|.",
            r"\z",
            "$",
            "(?:é*1)?",
        ] {
            for round in 0..200 {
                let mut text = String::new();
                while text.len() < 1 + 3 * round + if round % 50 == 49 { 20_000 } else { 0 } {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                    text.push_str(letters[(state >> 40) as usize % letters.len()]);
                }
                for owed in [0, usize::MAX / 2] {
                    let (found, wanted) = matches(expression, &text, owed);
                    assert_eq!(found, wanted, "{expression:?} in {text:?}");
                }
            }
        }
    }

    /// One by one these would look at 10^11 bytes and more.
    #[test]
    fn a_look_ahead_that_finds_nothing_is_not_repeated() {
        for (expression, unit) in [("[a-z]*1|[a-z]", "a"), ("(?:ab)*1|a|b", "ab"), (r"\s*\n|\s", " ")] {
            let text = unit.repeat((1 << 20) / unit.len());
            let hir = dialect::parse(expression).unwrap();
            let mut count = 0;
            Linear::new(expression, &hir, 1 << 20).unwrap().for_each_match(&text, |_, _| count += 1);
            assert_eq!(count, text.len());
        }
    }

    /// Each of 2^17 states is one of its own, so that what is known of them is soon forgotten.
    #[test]
    fn states_that_outgrow_the_cache_do_not_make_the_search_start_over() {
        let mut state = 7_u64;
        let mut text = String::new();
        while text.len() < 60_000 {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            text.push(if state >> 40 & 1 == 0 { 'a' } else { 'b' });
        }
        let hir = dialect::parse("[ab]*a[ab]{16}1|[ab]").unwrap();
        let linear = Linear::new("", &hir, 1 << 20).unwrap();
        for _ in 0..10 {
            let mut count = 0;
            linear.for_each_match(&text, |_, _| count += 1);
            assert_eq!(count, text.len());
        }
        text.push('1');
        let mut found = Vec::new();
        let at = text.len() - 18;
        text.replace_range(at..=at, "a");
        linear.for_each_match(&text, |start, end| found.push((start, end)));
        assert_eq!(found, [(0, text.len())]);
    }
}
