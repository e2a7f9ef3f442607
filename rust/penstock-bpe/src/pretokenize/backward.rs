//! All matches of an expression in a time bounded by text times states of its NFA, whatever the two are.
//!
//! A pass from the end of the text to its start finds the states that lead to a match from each place. With these known a
//! match is walked to its end without a wrong turn: of the ways that lead on, the first. The sets are kept at every √n-th
//! place only and made again between two of those when the walk comes there, so that they take √n times states.

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;

/// A way into a state.
struct Edge {
    source: StateID,
    step: Step,
}

/// What a way takes.
enum Step {
    Byte(u8, u8),
    Assertion(Look),
    Nothing,
}

/// The states that lead to a match from one place.
#[derive(Clone)]
struct Living {
    bits: Vec<u64>,
}

pub(super) struct Backward<'a> {
    nfa: &'a NFA,
    text: &'a [u8],
    /// The ways into each state.
    into: Vec<Vec<Edge>>,
    matching: Vec<StateID>,
    stride: usize,
    /// The sets at the multiples of `stride`, from the end of the text down to where the search begins.
    kept: Vec<Living>,
    /// The sets of the block that begins at `block_start`.
    block: Vec<Living>,
    block_start: usize,
    /// At which step of a walk a state was last met, so that a circle that takes no byte is left.
    met: Vec<u64>,
    step: u64,
}

impl Living {
    fn none(states: usize) -> Self {
        Self { bits: vec![0; states.div_ceil(64)] }
    }

    fn has(&self, state: StateID) -> bool {
        self.bits[state.as_usize() / 64] >> (state.as_usize() % 64) & 1 == 1
    }

    fn states(&self) -> impl Iterator<Item = usize> {
        self.bits.iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)))
                .take_while(|&bits| bits != 0)
                .map(move |bits| word * 64 + bits.trailing_zeros() as usize)
        })
    }

    /// Adds `state` to the set, and to `fresh` if it was not there.
    fn add(&mut self, state: StateID, fresh: &mut Vec<StateID>) {
        if !self.has(state) {
            self.bits[state.as_usize() / 64] |= 1 << (state.as_usize() % 64);
            fresh.push(state);
        }
    }
}

impl<'a> Backward<'a> {
    /// For the matches in `text` that begin at `from` or later.
    pub(super) fn new(nfa: &'a NFA, text: &'a str, from: usize) -> Self {
        let (into, matching) = ways(nfa);
        let text = text.as_bytes();
        let states = nfa.states().len();
        let stride = (text.len() - from).isqrt() + 1;
        let mut made = Self {
            nfa,
            text,
            into,
            matching,
            stride,
            kept: Vec::new(),
            block: Vec::new(),
            block_start: usize::MAX,
            met: vec![0; states],
            step: 0,
        };
        let mut living = Living::none(states);
        for at in (from / stride * stride..=text.len()).rev() {
            living = made.before(&living, at);
            if at % stride == 0 {
                made.kept.push(living.clone());
            }
        }
        made
    }

    /// The first match that begins at `from` or later.
    pub(super) fn find(&mut self, from: usize) -> Option<(usize, usize)> {
        let first = self.nfa.start_anchored();
        let start = (from..=self.text.len()).find(|&at| self.living(at).has(first))?;
        let (mut at, mut state) = (start, first);
        while let Some(next) = self.next(at, state) {
            (at, state) = (at + 1, next);
        }
        Some((start, at))
    }

    /// Where the byte at `at` leads to from `state`, which leads to a match; `None` if the match ends there.
    fn next(&mut self, at: usize, state: StateID) -> Option<StateID> {
        self.step += 1;
        let mut ways = vec![state];
        while let Some(state) = ways.pop() {
            if !self.living(at).has(state)
                || std::mem::replace(&mut self.met[state.as_usize()], self.step) == self.step
            {
                continue;
            }
            match self.nfa.state(state) {
                State::ByteRange { trans } => return Some(trans.next),
                State::Sparse(sparse) => return sparse.matches_byte(self.text[at]),
                State::Dense(dense) => return dense.matches_byte(self.text[at]),
                // A living assertion holds.
                State::Look { next, .. } | State::Capture { next, .. } => ways.push(*next),
                State::Union { alternates } => ways.extend(alternates.iter().rev()),
                State::BinaryUnion { alt1, alt2 } => ways.extend([*alt2, *alt1]),
                State::Match { .. } | State::Fail => return None,
            }
        }
        None
    }

    /// The set at `at`.
    fn living(&mut self, at: usize) -> &Living {
        let block_start = at / self.stride * self.stride;
        if block_start != self.block_start {
            // The last of `kept` is the first of the text.
            let behind = (self.text.len() / self.stride).checked_sub(block_start / self.stride + 1);
            let mut living = behind
                .map_or_else(|| Living::none(self.nfa.states().len()), |behind| self.kept[behind].clone());
            self.block.clear();
            for at in (block_start..(block_start + self.stride).min(self.text.len() + 1)).rev() {
                living = self.before(&living, at);
                self.block.push(living.clone());
            }
            self.block.reverse();
            self.block_start = block_start;
        }
        &self.block[at - block_start]
    }

    /// The set at `at`, when `after` is the one behind the byte there.
    fn before(&self, after: &Living, at: usize) -> Living {
        let mut living = Living::none(self.nfa.states().len());
        let mut fresh = Vec::new();
        for &state in &self.matching {
            living.add(state, &mut fresh);
        }
        if let Some(&byte) = self.text.get(at) {
            for edge in after.states().flat_map(|state| &self.into[state]) {
                if matches!(edge.step, Step::Byte(low, high) if (low..=high).contains(&byte)) {
                    living.add(edge.source, &mut fresh);
                }
            }
        }
        while let Some(state) = fresh.pop() {
            for edge in &self.into[state.as_usize()] {
                let is_open = match edge.step {
                    Step::Byte(..) => false,
                    Step::Assertion(look) => self.nfa.look_matcher().matches(look, self.text, at),
                    Step::Nothing => true,
                };
                if is_open {
                    living.add(edge.source, &mut fresh);
                }
            }
        }
        living
    }
}

/// The ways into each state of `nfa`, and the states that are a match.
fn ways(nfa: &NFA) -> (Vec<Vec<Edge>>, Vec<StateID>) {
    let mut into: Vec<Vec<Edge>> = nfa.states().iter().map(|_| Vec::new()).collect();
    let mut matching = Vec::new();
    for (source, state) in nfa.states().iter().enumerate() {
        let source = StateID::must(source);
        let mut add = |target: StateID, step| into[target.as_usize()].push(Edge { source, step });
        match state {
            State::ByteRange { trans } => add(trans.next, Step::Byte(trans.start, trans.end)),
            State::Sparse(sparse) => {
                for trans in &sparse.transitions {
                    add(trans.next, Step::Byte(trans.start, trans.end));
                }
            }
            State::Dense(dense) => {
                for byte in 0..=u8::MAX {
                    dense.matches_byte(byte).into_iter().for_each(|next| add(next, Step::Byte(byte, byte)));
                }
            }
            State::Look { look, next } => add(*next, Step::Assertion(*look)),
            State::Union { alternates } => alternates.iter().for_each(|&next| add(next, Step::Nothing)),
            State::BinaryUnion { alt1, alt2 } => {
                [*alt1, *alt2].iter().for_each(|&next| add(next, Step::Nothing))
            }
            State::Capture { next, .. } => add(*next, Step::Nothing),
            State::Match { .. } => matching.push(source),
            State::Fail => {}
        }
    }
    (into, matching)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::meta::Regex;
    use regex_automata::nfa::thompson::Compiler;

    use super::*;
    use crate::pretokenize::dialect;

    proptest! {
        #[test]
        fn matches_are_those_of_the_reference(
            expression in r"(?:(?:[ab1é.]|\(\?:a\*\)|\[ab\]|\\s|\^|\$|\(\?:a\|b\|\))(?:[*+?|]|\*\?|\{2\}|)){1,6}[ab.]",
            text in "[ab1é \n]{0,60}",
        ) {
            let Ok(hir) = dialect::parse(&expression) else { return Ok(()) };
            let nfa = Compiler::new().build_from_hir(&hir).unwrap();
            let reference = Regex::builder().build_from_hir(&hir).unwrap();
            for from in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                let wanted = reference.search(&regex_automata::Input::new(&text).range(from..));
                let found = Backward::new(&nfa, &text, from).find(from);
                // What is empty within a character is left out by the caller.
                if found.is_none_or(|(start, _)| text.is_char_boundary(start)) {
                    prop_assert_eq!(found, wanted.map(|found| (found.start(), found.end())), "{} in {:?}", expression, text);
                }
            }
        }
    }
}
