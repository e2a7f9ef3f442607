//! What threads that encode together take, and where they leave what they made: chunks go out and come back by number.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a thread takes at a time.
#[derive(Debug)]
pub(super) enum Chunk<'t> {
    /// Whole texts.
    Texts(Vec<&'t str>),
    /// A part of a long text.
    Part(Cow<'t, str>),
    /// The end of a long text.
    End,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) ids: Vec<u32>,
    /// How many ids each of its texts has.
    pub(super) lens: Vec<usize>,
    /// Whether a long text ends here.
    pub(super) is_end: bool,
}

/// Chunks on their way.
#[derive(Debug)]
pub(super) struct Exchange<'t> {
    queue: Mutex<Queue<'t>>,
    changed: Condvar,
    waiting: Mutex<Waiting>,
    output: Mutex<Output>,
}

#[derive(Debug, Default)]
struct Queue<'t> {
    chunks: VecDeque<Chunk<'t>>,
    taken: usize,
    is_closed: bool,
}

/// Made, but not yet in the output; and memory for more.
#[derive(Debug, Default)]
struct Waiting {
    made: BTreeMap<usize, Made>,
    spare: Vec<Made>,
}

/// The ids of all chunks before the one numbered `next`.
#[derive(Debug)]
struct Output {
    ids: Vec<u32>,
    offsets: Vec<i64>,
    next: usize,
}

/// A panic elsewhere ends the whole; what it leaves behind is not looked at.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'t> Queue<'t> {
    fn take(&mut self) -> Option<(usize, Chunk<'t>)> {
        let chunk = self.chunks.pop_front()?;
        self.taken += 1;
        Some((self.taken - 1, chunk))
    }
}

impl<'t> Exchange<'t> {
    /// Ids will be appended to `ids`.
    pub(super) fn new(ids: Vec<u32>) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            waiting: Mutex::default(),
            output: Mutex::new(Output { ids, offsets: vec![0], next: 0 }),
        }
    }

    pub(super) fn add(&self, chunk: Chunk<'t>) {
        lock(&self.queue).chunks.push_back(chunk);
        self.changed.notify_one();
    }

    /// Says that no more chunks will come.
    pub(super) fn close(&self) {
        lock(&self.queue).is_closed = true;
        self.changed.notify_all();
    }

    /// Takes back what nobody has taken.
    pub(super) fn clear(&self) {
        lock(&self.queue).chunks.clear();
    }

    /// The next chunk and its number; waits for it unless the exchange is closed.
    pub(super) fn take(&self) -> Option<(usize, Chunk<'t>)> {
        let is_to_wait = |queue: &mut Queue<'t>| queue.chunks.is_empty() && !queue.is_closed;
        let queue = self.changed.wait_while(lock(&self.queue), is_to_wait);
        queue.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The next chunk and its number if more than `count` are there.
    pub(super) fn take_beyond(&self, count: usize) -> Option<(usize, Chunk<'t>)> {
        let mut queue = lock(&self.queue);
        if queue.chunks.len() > count { queue.take() } else { None }
    }

    /// Memory for a chunk, used before: new memory would cost more than the copy from it.
    pub(super) fn blank(&self) -> Made {
        lock(&self.waiting).spare.pop().unwrap_or_default()
    }

    /// Leaves what became of the chunk of this number. It is copied to its place at once, while it is near, by this thread
    /// or by one that is copying already: nobody waits for anybody.
    pub(super) fn leave(&self, number: usize, made: Made) {
        lock(&self.waiting).made.insert(number, made);
        if let Ok(mut output) = self.output.try_lock() {
            self.collect(&mut output);
        }
    }

    fn collect(&self, output: &mut Output) {
        let next = |number| lock(&self.waiting).made.remove(&number);
        while let Some(mut made) = next(output.next) {
            output.append(&made);
            made.ids.clear();
            made.lens.clear();
            made.is_end = false;
            lock(&self.waiting).spare.push(made);
        }
    }

    /// All ids, and where those of each text begin and end; when all threads are done.
    pub(super) fn into_output(self) -> (Vec<u32>, Vec<i64>) {
        let mut output = lock(&self.output);
        // The last may have been left while another thread looked for it in vain.
        self.collect(&mut output);
        (std::mem::take(&mut output.ids), std::mem::take(&mut output.offsets))
    }
}

impl Output {
    fn append(&mut self, made: &Made) {
        let mut end = self.ids.len();
        for &len in &made.lens {
            end += len;
            self.offsets.push(end as i64);
        }
        self.ids.extend_from_slice(&made.ids);
        if made.is_end {
            self.offsets.push(self.ids.len() as i64);
        }
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(ids: &[u32], lens: &[usize], is_end: bool) -> Made {
        Made { ids: ids.to_vec(), lens: lens.to_vec(), is_end }
    }

    #[test]
    fn chunks_come_back_in_order() {
        let exchange = Exchange::new(vec![]);
        for text in ["a", "b", "c", "d"] {
            exchange.add(Chunk::Part(Cow::Borrowed(text)));
        }
        exchange.close();
        let numbers: Vec<usize> = std::iter::from_fn(|| exchange.take()).map(|(number, _)| number).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        exchange.leave(2, made(&[5], &[], false));
        exchange.leave(0, made(&[1, 2, 3], &[1, 2], false));
        exchange.leave(1, made(&[4], &[], false));
        assert!(exchange.blank().ids.is_empty());
        exchange.leave(3, made(&[], &[], true));
        assert_eq!(exchange.into_output(), (vec![1, 2, 3, 4, 5], vec![0, 1, 3, 5]));
    }

    #[test]
    fn what_is_left_while_another_copies_is_not_lost() {
        let exchange = Exchange::new(vec![9]);
        let copying = exchange.output.lock().unwrap();
        exchange.leave(0, made(&[1], &[1], false));
        drop(copying);
        assert_eq!(exchange.into_output(), (vec![9, 1], vec![0, 2]));
    }
}
