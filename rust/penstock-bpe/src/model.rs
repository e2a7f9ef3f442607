//! The checked content of a tokenizer: what every way to make one ends in.

use std::sync::{Arc, Mutex, OnceLock};

use rustc_hash::{FxHashMap, FxHashSet};
use sha2::{Digest, Sha256};

use crate::byte_level;
use crate::encode::cache::SharedCache;
use crate::encode::cuts::Cuts;
use crate::encode::pairs::{Merge, Pairs};
use crate::encode::{Allowed, Matchers, State, seeded_cache};
use crate::error::{Error, Result, show};
use crate::format::sentencepiece::Origin;
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::tokenizer::SpecialToken;
use crate::vary::Joins;
use crate::vocab::{MAX_ID, Vocab};

/// States kept for later calls; more threads than this allocate anew.
const KEPT_STATES: usize = 64;
/// No token for a byte. Only for bytes that UTF-8 never uses.
const NO_BYTE: u32 = u32::MAX;

/// What a tokenizer is made from.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) normalizer: Normalizer,
    /// Bytes by id; empty where the id is unused or belongs to `specials`.
    pub(crate) tokens: Vec<Vec<u8>>,
    /// Ids of tokens that text cannot become.
    pub(crate) unreachable: FxHashSet<u32>,
    pub(crate) merges: Vec<(u32, u32)>,
    /// Merges rank by the id of their product instead of their place.
    pub(crate) rank_by_product: bool,
    /// A piece that is a token becomes it, whatever the merges say.
    pub(crate) ignore_merges: bool,
    pub(crate) specials: Vec<SpecialToken>,
    /// Merges that stand together and make the same token rank alike, and so on: see there.
    pub(crate) sentencepiece: Option<Origin>,
}

/// The same as a [`Model`] holds it; see [`Parts`].
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) normalizer: Normalizer,
    /// All tokens end to end, added ones at their ids, and where each begins.
    pub(crate) bytes: Vec<u8>,
    pub(crate) starts: Vec<u32>,
    pub(crate) unreachable: FxHashSet<u32>,
    pub(crate) merges: Vec<Merge>,
    pub(crate) rank_by_product: bool,
    pub(crate) ignore_merges: bool,
    pub(crate) specials: Vec<SpecialToken>,
}

/// The checked content of a tokenizer.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) pattern: Pattern,
    pub(crate) normalizer: Normalizer,
    pub(crate) vocab: Vocab,
    pub(crate) merges: Vec<Merge>,
    pub(crate) pairs: Pairs,
    /// Unless pieces are looked up whole first, in which case a part of one may be a token that no merge makes.
    pub(crate) cuts: Option<Cuts>,
    pub(crate) rank_by_product: bool,
    pub(crate) ignore_merges: bool,
    /// By id.
    pub(crate) specials: Vec<SpecialToken>,
    pub(crate) special_ids: FxHashMap<String, u32>,
    pub(crate) sentencepiece: Option<Origin>,
    pub(crate) sha256: String,
    text_matchers: OnceLock<Matchers>,
    all_matchers: OnceLock<Matchers>,
    pub(crate) joins: OnceLock<Joins>,
    /// What all states share.
    cache: OnceLock<Arc<SharedCache>>,
    states: Mutex<Vec<State>>,
}

impl Model {
    pub(crate) fn new(pattern: Pattern, mut parts: Parts) -> Result<Self> {
        let special_ids = place_specials(&mut parts)?;
        let hidden: FxHashSet<u32> = parts.specials.iter().filter(|t| t.special).map(|t| t.id).collect();
        let vocab =
            Vocab::new(&parts.tokens, |id| !hidden.contains(&id) && !parts.unreachable.contains(&id))?;
        let merges = resolve_merges(&vocab, &parts.merges, &special_ids)?;
        Self::assemble(pattern, vocab, merges, special_ids, parts)
    }

    /// The same of what was checked and resolved before, and is checked again where that is quick; `None`
    /// if it does not fit together.
    pub(crate) fn from_resolved(pattern: Pattern, resolved: Resolved) -> Option<Self> {
        let Resolved { bytes, starts, unreachable, merges, mut specials, .. } = resolved;
        let vocab = Vocab::from_flat(bytes, starts, |id| !unreachable.contains(&id))?;
        let fits = |merge: &Merge| {
            let [left, right, product] = [merge.left, merge.right, merge.product].map(|id| vocab.get(id));
            let is_joined = product.starts_with(left) && product.ends_with(right);
            !left.is_empty() && !right.is_empty() && is_joined && product.len() == left.len() + right.len()
        };
        specials.sort_by_key(|token| token.id);
        let special_ids: FxHashMap<_, _> =
            specials.iter().map(|token| (token.content.clone(), token.id)).collect();
        let stands = |token: &SpecialToken| {
            !token.content.is_empty() && vocab.get(token.id) == token.content.as_bytes()
        };
        if special_ids.len() < specials.len() || !specials.iter().all(stands) || !merges.iter().all(fits) {
            return None;
        }
        let parts = Parts {
            normalizer: resolved.normalizer,
            rank_by_product: resolved.rank_by_product,
            ignore_merges: resolved.ignore_merges,
            specials,
            ..Parts::default()
        };
        Self::assemble(pattern, vocab, merges, special_ids, parts).ok()
    }

    fn assemble(
        pattern: Pattern,
        vocab: Vocab,
        merges: Vec<Merge>,
        special_ids: FxHashMap<String, u32>,
        parts: Parts,
    ) -> Result<Self> {
        check_spellings(&vocab, &parts.specials)?;
        let byte_ids = byte_ids(&vocab)?;
        let pairs = if parts.sentencepiece.is_some() {
            Pairs::by_run(&merges, byte_ids)?
        } else if parts.rank_by_product {
            Pairs::by_product(&merges, byte_ids)?
        } else {
            Pairs::by_place(&merges, byte_ids)?
        };
        // The characters of a SentencePiece model are whole before anything else, whatever its other merges.
        let ordered = if parts.sentencepiece.is_some() { &[][..] } else { &merges };
        let cuts = (!parts.ignore_merges).then(|| Cuts::new(&vocab, ordered, &pairs, parts.rank_by_product));
        let mut model = Self {
            pattern,
            normalizer: parts.normalizer,
            vocab,
            merges,
            pairs,
            cuts,
            rank_by_product: parts.rank_by_product,
            ignore_merges: parts.ignore_merges,
            specials: parts.specials,
            special_ids,
            sentencepiece: parts.sentencepiece,
            sha256: String::new(),
            text_matchers: OnceLock::new(),
            all_matchers: OnceLock::new(),
            joins: OnceLock::new(),
            cache: OnceLock::new(),
            states: Mutex::new(Vec::new()),
        };
        model.sha256 = model.digest();
        Ok(model)
    }

    /// The hash of everything that decides about ids, in one fixed order.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(b"penstock tokenizer 1");
        part(self.pattern.canonical().as_bytes());
        part(self.normalizer.name().unwrap_or_default().as_bytes());
        if self.sentencepiece.is_some() {
            part(b"sentencepiece");
        }
        part(&[u8::from(self.ignore_merges), u8::from(self.rank_by_product)]);
        for id in 0..self.vocab.len() as u32 {
            part(self.vocab.get(id));
        }
        part(b"merges");
        for merge in &self.merges {
            part(&(u64::from(merge.left) << 32 | u64::from(merge.right)).to_le_bytes());
        }
        part(b"specials");
        for token in &self.specials {
            let flags = [token.special, token.lstrip, token.rstrip, token.single_word, token.normalized];
            part(&token.id.to_le_bytes());
            part(&flags.map(u8::from));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The number of ids that users know.
    pub(crate) fn vocab_size(&self) -> usize {
        self.sentencepiece.as_ref().map_or(self.vocab.len(), |origin| origin.visible as usize)
    }

    /// The token that `piece` is without merging, where the tokenizer asks for that look first.
    #[inline]
    pub(crate) fn whole_piece(&self, piece: &[u8]) -> Option<u32> {
        if self.ignore_merges { self.vocab.find(piece) } else { None }
    }

    /// Matchers for text in which no special token is allowed.
    pub(crate) fn matchers_of_text(&self) -> &Matchers {
        made_once(&self.text_matchers, || Matchers::new(self, &Allowed::None))
    }

    /// Calls `work` with the matchers for `allowed`.
    pub(crate) fn with_matchers(&self, allowed: &Allowed, work: impl FnOnce(&Matchers)) {
        match allowed {
            Allowed::None => work(self.matchers_of_text()),
            Allowed::All => work(made_once(&self.all_matchers, || Matchers::new(self, allowed))),
            Allowed::Set(_) => work(&Matchers::new(self, allowed)),
        }
    }

    /// What a thread encodes with. Nobody waits for a lock here or in [`give_state`](Self::give_state): a process that was
    /// forked while another thread held one would wait for ever.
    pub(crate) fn take_state(&self) -> State {
        let idle = self.states.try_lock().ok().and_then(|mut states| states.pop());
        idle.unwrap_or_else(|| State::new(made_once(&self.cache, || seeded_cache(self))))
    }

    pub(crate) fn give_state(&self, state: State) {
        let Ok(mut states) = self.states.try_lock() else { return };
        // The first has been idle for longest: if any holds memory that is no longer in use, it does.
        let is_first_old = states.first().is_some_and(|idle| idle.cache.is_old());
        let old = if is_first_old { std::mem::take(&mut *states) } else { Vec::new() };
        if states.len() < KEPT_STATES {
            states.push(state);
        }
        // To give back much memory takes its time.
        drop(states);
        drop(old);
    }
}

/// What `place` holds, once made. Threads that come at the same time all make it and go on with that of the first: who waited
/// for another would wait for ever in a process that was forked meanwhile.
pub(crate) fn made_once<T>(place: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    if let Some(made) = place.get() {
        return made;
    }
    let made = make();
    place.get_or_init(|| made)
}

/// Puts the added tokens at their ids and orders them by id. Returns the id of each spelling.
fn place_specials(parts: &mut Parts) -> Result<FxHashMap<String, u32>> {
    let mut ids = FxHashMap::default();
    let ordinary_len = parts.tokens.len();
    for (index, token) in parts.specials.iter().enumerate() {
        if token.content.is_empty() {
            return Err(Error::EmptySpecial { index });
        }
        if token.id > MAX_ID {
            return Err(Error::IdTooLarge { id: u64::from(token.id), limit: MAX_ID });
        }
        if ids.insert(token.content.clone(), token.id).is_some() {
            return Err(Error::DuplicateSpecial { content: token.content.clone() });
        }
        let place = token.id as usize;
        if place >= parts.tokens.len() {
            parts.tokens.resize_with(place + 1, Vec::new);
        }
        let found = &mut parts.tokens[place];
        let is_new = found.is_empty();
        if is_new {
            *found = token.content.as_bytes().to_vec();
        } else if found != token.content.as_bytes() {
            let (content, found) = (token.content.clone(), show(found));
            return Err(Error::SpecialConflict { content, id: token.id, found });
        }
        // What was added is found by its text, not by merging bytes.
        if is_new || place >= ordinary_len {
            parts.unreachable.insert(token.id);
        }
    }
    parts.specials.sort_by_key(|token| token.id);
    Ok(ids)
}

/// Refuses an added token whose text is how a tokenizer.json spells another token: such a file would give it that id.
fn check_spellings(vocab: &Vocab, specials: &[SpecialToken]) -> Result<()> {
    for token in specials {
        let spelled = byte_level::to_bytes(&token.content).and_then(|bytes| vocab.find(&bytes));
        if let Some(other) = spelled.filter(|&other| other != token.id) {
            let found = format!("the token that files spell alike, {other}");
            return Err(Error::SpecialConflict { content: token.content.clone(), id: token.id, found });
        }
    }
    Ok(())
}

fn byte_ids(vocab: &Vocab) -> Result<[u32; 256]> {
    let mut ids = [NO_BYTE; 256];
    for (byte, id) in (0..=255).zip(&mut ids) {
        match vocab.find(&[byte]) {
            Some(found) => *id = found,
            // No text in UTF-8 holds these, and some vocabularies leave them out.
            None if matches!(byte, 0xC0 | 0xC1 | 0xF5..=0xFF) => {}
            None => return Err(Error::MissingByte { byte }),
        }
    }
    Ok(ids)
}

fn resolve_merges(
    vocab: &Vocab,
    merges: &[(u32, u32)],
    special_ids: &FxHashMap<String, u32>,
) -> Result<Vec<Merge>> {
    let mut resolved = Vec::with_capacity(merges.len());
    let mut joined = Vec::new();
    for (index, &(left, right)) in merges.iter().enumerate() {
        for part in [left, right] {
            let bytes = vocab.get(part);
            if bytes.is_empty() || vocab.find(bytes) != Some(part) {
                return Err(Error::DanglingMerge { index, part: format!("id {part}") });
            }
        }
        joined.clear();
        joined.extend_from_slice(vocab.get(left));
        joined.extend_from_slice(vocab.get(right));
        let Some(product) = vocab.find(&joined) else {
            let content = String::from_utf8_lossy(&joined);
            if special_ids.contains_key(content.as_ref()) {
                return Err(Error::MergeMakesSpecial { index, content: content.into_owned() });
            }
            return Err(Error::DanglingMerge { index, part: show(&joined) });
        };
        resolved.push(Merge { left, right, product });
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// As in a process that was forked while another thread made it.
    #[test]
    fn nobody_waits_for_what_another_makes() {
        let place = OnceLock::new();
        let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel());
        thread::scope(|scope| {
            let place = &place;
            scope.spawn(move || {
                made_once(place, || {
                    begin.send(()).unwrap();
                    _ = ended.recv_timeout(Duration::from_secs(30));
                    1
                });
            });
            begun.recv().unwrap();
            assert_eq!(*made_once(place, || 2), 2);
            end.send(()).unwrap();
        });
        assert_eq!(place.get(), Some(&2));
    }
}
