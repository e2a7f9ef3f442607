//! Text to ids.

pub(crate) mod added;
mod alone;
mod batch;
mod block;
pub(crate) mod cache;
pub(crate) mod chain;
pub(crate) mod cuts;
mod entry;
mod exchange;
mod intake;
mod joined;
mod lanes;
mod long;
pub(crate) mod merge;
pub(crate) mod pairs;
mod shared;
mod sweep;
mod sync;
mod table;
mod team;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use added::{Matcher, Part};
use block::{Block, Gather};
use cache::{Cache, SHORT_BYTES, SharedCache};
pub use intake::{Intake, Read};
use lanes::{LANES, Lanes};
use merge::Workspace;

use crate::error::Result;
use crate::model::Model;
use crate::normalize::Normalizer;
use crate::pretokenize::safe_cut;
use crate::tokenizer::{SpecialToken, Tokenizer};
use crate::vary::Dropout;

/// Which special tokens a text may name. The others are ordinary text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Allowed {
    /// None: whatever the text says, it yields no special token.
    #[default]
    None,
    /// All of them.
    All,
    /// Those with these spellings.
    Set(HashSet<String>),
}

/// The matchers of one choice of special tokens.
#[derive(Debug)]
pub(crate) struct Matchers {
    /// On the text as it is.
    raw: Option<Matcher>,
    /// On normalised text, after the others.
    normalized: Option<Matcher>,
}

impl Matchers {
    pub(crate) fn new(model: &Model, allowed: &Allowed) -> Self {
        let is_active = |token: &SpecialToken| match allowed {
            _ if !token.special => true,
            Allowed::None => false,
            Allowed::All => true,
            Allowed::Set(set) => set.contains(&token.content),
        };
        let matcher = |normalized: bool| {
            let mut entries = Vec::new();
            for token in model.specials.iter().filter(|token| token.normalized == normalized) {
                let content = &token.content;
                let spelling = if normalized { model.normalizer.apply(content) } else { content.into() };
                entries.push((spelling.into_owned(), token.clone(), is_active(token)));
            }
            Matcher::new(entries)
        };
        Self { raw: matcher(false), normalized: matcher(true) }
    }

    /// Calls `emit` with the parts of a text, normalised.
    pub(crate) fn for_each_normalized_part(
        &self,
        normalizer: Normalizer,
        text: &str,
        mut emit: impl FnMut(Part<'_>),
    ) {
        for_each_part(self.raw.as_ref(), text, |part| match part {
            Part::Text(text) => for_each_part(self.normalized.as_ref(), &normalizer.apply(text), &mut emit),
            token => emit(token),
        });
    }

    /// Calls `emit` with where the added tokens and what is between them lie in a text. `check` sees what would be
    /// normalised, and may refuse it.
    pub(crate) fn for_each_span(
        &self,
        text: &str,
        check: impl Fn(&str) -> Result<()>,
        mut emit: impl FnMut(Range<usize>, Option<u32>),
    ) -> Result<()> {
        let mut checked = Ok(());
        for_each_span(self.raw.as_ref(), text, |span, token| {
            if token.is_some() {
                return emit(span, token);
            }
            let (start, part) = (span.start, &text[span]);
            if checked.is_ok() {
                checked = check(part);
            }
            for_each_span(self.normalized.as_ref(), part, |span, token| {
                emit(start + span.start..start + span.end, token);
            });
        });
        checked
    }

    /// The first place behind `least` bytes of `text`, which is not normalised, where it may be cut in two that are then
    /// encoded each alone.
    fn cut(&self, text: &str, mut least: usize) -> Option<usize> {
        let matchers = || [&self.raw, &self.normalized].into_iter().flatten();
        loop {
            // White space that an added token takes does not reach beyond the letter before such a place.
            least = safe_cut(text, least)?;
            if matchers().all(|matcher| matcher.is_clear(text, least)) {
                return Some(least);
            }
        }
    }
}

/// What one thread needs to encode, kept between texts.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cache: Cache,
    workspace: Workspace,
    lanes: Lanes,
    block: Block,
}

impl State {
    pub(crate) fn new(cache: &Arc<SharedCache>) -> Self {
        Self {
            cache: Cache::new(cache),
            workspace: Workspace::default(),
            lanes: Lanes::new(),
            block: Block::new(),
        }
    }

    fn seed(&mut self, model: &Model, pieces: &[&[u8]]) {
        self.lanes.clear();
        let mut tokens = Vec::new();
        for piece in pieces {
            self.lanes.add(piece, &model.pairs, model.cuts.as_ref());
        }
        self.lanes.merge(&model.pairs);
        for (lane, piece) in pieces.iter().enumerate() {
            tokens.clear();
            match model.whole_piece(piece) {
                Some(id) => tokens.push(id),
                None => self.lanes.append(lane, &mut tokens),
            }
            self.cache.put(piece, &tokens);
        }
    }

    /// Appends the ids of `text` to `out`.
    pub(crate) fn encode(&mut self, model: &Model, matchers: &Matchers, text: &str, out: &mut Vec<u32>) {
        matchers.for_each_normalized_part(model.normalizer, text, |part| match part {
            Part::Token(id) => out.push(id),
            Part::Text(text) => self.encode_text(model, text, out),
        });
    }

    fn encode_text(&mut self, model: &Model, text: &str, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let start = out.len();
        model.pattern.hand_out(text, &mut Gather { state: self, model, bytes, out });
        self.look_up(model, bytes, out);
        if let Some(origin) = &model.sentencepiece {
            origin.expand(out, start);
        }
    }

    #[inline(never)]
    fn encode_new_piece(&mut self, model: &Model, piece: &[u8], out: &mut Vec<u32>) {
        let start = out.len();
        match model.whole_piece(piece) {
            Some(id) => out.push(id),
            None => self.workspace.merge_any(piece, model, out),
        }
        self.cache.put(piece, &out[start..]);
    }
}

/// A cache that knows the short tokens of `model`, as merging makes them of their own text.
pub(crate) fn seeded_cache(model: &Model) -> Arc<SharedCache> {
    let cache = Arc::new(SharedCache::new(model.vocab.len()));
    let mut state = State::new(&cache);
    let tokens = (0..model.vocab.len() as u32).map(|id| model.vocab.get(id));
    let is_piece =
        |token: &&[u8]| (1..=SHORT_BYTES).contains(&token.len()) && std::str::from_utf8(token).is_ok();
    let mut pieces = tokens.filter(is_piece);
    loop {
        let group: Vec<&[u8]> = pieces.by_ref().take(LANES).collect();
        if group.is_empty() {
            return cache;
        }
        state.seed(model, &group);
        state.cache.renew();
    }
}

/// The parts of `text`: all of it without a matcher.
fn for_each_part<'t>(matcher: Option<&Matcher>, text: &'t str, mut emit: impl FnMut(Part<'t>)) {
    match matcher {
        Some(matcher) => matcher.for_each_part(text, emit),
        None => emit(Part::Text(text)),
    }
}

fn for_each_span(matcher: Option<&Matcher>, text: &str, mut emit: impl FnMut(Range<usize>, Option<u32>)) {
    match matcher {
        Some(matcher) => matcher.for_each_span(text, emit),
        None => emit(0..text.len(), None),
    }
}

/// A tokenizer with the memory of one thread. Keep one a thread where many texts are encoded.
#[derive(Debug)]
pub struct Encoder {
    pub(crate) tokenizer: Tokenizer,
    state: Option<State>,
    pub(crate) dropout: Dropout,
}

impl Encoder {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let state = Some(tokenizer.model().take_state());
        Self { tokenizer: tokenizer.clone(), state, dropout: Dropout::default() }
    }

    /// Appends the ids of `text` to `out`; special tokens in it are text.
    pub fn encode_into(&mut self, text: &str, out: &mut Vec<u32>) {
        let model = self.tokenizer.model();
        if let Some(state) = &mut self.state {
            state.encode(model, model.matchers_of_text(), text, out);
        }
    }

    /// Appends the ids of `text` to `out`, where the `allowed` special tokens in it become their ids.
    pub fn encode_allowed_into(&mut self, text: &str, allowed: &Allowed, out: &mut Vec<u32>) {
        let model = self.tokenizer.model();
        if let Some(state) = &mut self.state {
            model.with_matchers(allowed, |matchers| state.encode(model, matchers, text, out));
        }
    }

    /// Appends the ids of `text` to `out`, where added tokens are found by `matchers`.
    fn encode_matched_into(&mut self, text: &str, matchers: &Matchers, out: &mut Vec<u32>) {
        if let Some(state) = &mut self.state {
            state.encode(self.tokenizer.model(), matchers, text, out);
        }
    }

    /// Appends the ids of a part of a text to `out`; nothing in it is an added token.
    pub(crate) fn encode_part_into(&mut self, text: &str, out: &mut Vec<u32>) {
        if let Some(state) = &mut self.state {
            state.encode_text(self.tokenizer.model(), text, out);
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // A panic may have left pieces of its text there.
        if let Some(state) = self.state.take().filter(|_| !std::thread::panicking()) {
            self.tokenizer.model().give_state(state);
        }
    }
}

#[cfg(test)]
mod interleaved;
#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
