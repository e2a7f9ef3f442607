//! Texts to tokens: a few threads shared by all tasks, or none when one thread is all there is.

use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};
use penstock_bpe::{BoundarySplit, Tokenizer};

use crate::error::{Error, Result};
use crate::source::Document;

/// What is left of a document once it is encoded.
pub(super) struct Encoded {
    pub(super) ordinal: u64,
    pub(super) source: Option<String>,
    pub(super) id: Option<String>,
    pub(super) text_bytes: u64,
    /// End of its tokens among those of the batch.
    pub(super) end: usize,
}

/// Some documents in input order.
pub(super) struct EncodedBatch {
    pub(super) documents: Vec<Encoded>,
    pub(super) tokens: Vec<u32>,
}

struct Job {
    documents: Vec<Document>,
    reply: Sender<EncodedBatch>,
}

/// Encodes batches of documents; each document ends with the end-of-text token if there is one.
pub(super) struct EncodePool {
    tokenizer: Tokenizer,
    split: BoundarySplit,
    jobs: Option<Sender<Job>>,
}

/// A batch that is, or is being, encoded.
pub(super) enum Pending {
    Ready(EncodedBatch),
    Running(Receiver<EncodedBatch>),
}

impl EncodePool {
    /// Starts the threads; they end when the pool is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        tokenizer: &Tokenizer,
        split: BoundarySplit,
        threads: usize,
    ) -> Self {
        let tokenizer = tokenizer.clone();
        if threads < 2 {
            return Self { tokenizer, split, jobs: None };
        }
        let (jobs, queue) = bounded::<Job>(2 * threads);
        for _ in 0..threads {
            let (queue, tokenizer, split) = (queue.clone(), tokenizer.clone(), split.clone());
            scope.spawn(move || {
                let mut encoder = BatchEncoder::new(&tokenizer, split);
                for job in queue {
                    // A task that failed no longer listens.
                    let _ = job.reply.send(encoder.encode(job.documents));
                }
            });
        }
        Self { tokenizer, split, jobs: Some(jobs) }
    }

    pub(super) fn handle(&self) -> Submitter {
        let encoder = self.jobs.is_none().then(|| BatchEncoder::new(&self.tokenizer, self.split.clone()));
        Submitter { jobs: self.jobs.clone(), encoder }
    }
}

/// A task's access to the pool.
pub(super) struct Submitter {
    jobs: Option<Sender<Job>>,
    encoder: Option<BatchEncoder>,
}

impl Submitter {
    pub(super) fn submit(&mut self, documents: Vec<Document>) -> Result<Pending> {
        if let Some(encoder) = &mut self.encoder {
            return Ok(Pending::Ready(encoder.encode(documents)));
        }
        let (reply, answer) = bounded(1);
        let jobs = self.jobs.as_ref().ok_or(Error::Internal("no encoder"))?;
        jobs.send(Job { documents, reply }).map_err(|_| Error::Internal("the encoder threads are gone"))?;
        Ok(Pending::Running(answer))
    }
}

impl Pending {
    pub(super) fn wait(self) -> Result<EncodedBatch> {
        match self {
            Self::Ready(batch) => Ok(batch),
            Self::Running(answer) => answer.recv().map_err(|_| Error::Internal("an encoder thread ended")),
        }
    }
}

struct BatchEncoder {
    encoder: penstock_bpe::Encoder,
    split: BoundarySplit,
    eot_id: Option<u32>,
}

impl BatchEncoder {
    fn new(tokenizer: &Tokenizer, split: BoundarySplit) -> Self {
        Self { encoder: tokenizer.encoder(), split, eot_id: tokenizer.eot_id() }
    }

    fn encode(&mut self, documents: Vec<Document>) -> EncodedBatch {
        let mut tokens = Vec::new();
        let documents = documents
            .into_iter()
            .map(|Document { text, ordinal, source, id }| {
                let start = tokens.len();
                self.encoder.encode_into(&text, &mut tokens);
                self.split.apply(&text, &mut tokens, start);
                tokens.extend(self.eot_id);
                Encoded { ordinal, source, id, text_bytes: text.len() as u64, end: tokens.len() }
            })
            .collect();
        EncodedBatch { documents, tokens }
    }
}
