//! Texts to tokens: a few threads shared by all files, or none when one thread is all there is.

use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};
use penstock_bpe::{BoundarySplit, Tokenizer, Variation};

use crate::error::{Error, Result};
use crate::source::Document;

/// What is left of a document once it is encoded.
pub(crate) struct Encoded {
    pub(crate) ordinal: u64,
    pub(crate) source: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) text_bytes: u64,
    /// End of its tokens among those of the batch.
    pub(crate) end: usize,
}

/// Some documents in input order.
pub(crate) struct EncodedBatch {
    pub(crate) documents: Vec<Encoded>,
    pub(crate) tokens: Vec<u32>,
}

struct Job {
    documents: Vec<Document>,
    reply: Sender<EncodedBatch>,
}

/// What becomes of each document.
#[derive(Debug, Clone)]
pub(crate) struct Encoding {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) split: BoundarySplit,
    pub(crate) variation: Variation,
    /// Behind the last token.
    pub(crate) end_id: Option<u32>,
}

/// Encodes batches of documents.
pub(crate) struct EncodePool {
    encoding: Encoding,
    jobs: Option<Sender<Job>>,
}

/// A batch that is, or is being, encoded.
pub(crate) enum Pending {
    Ready(EncodedBatch),
    Running(Receiver<EncodedBatch>),
}

impl EncodePool {
    /// Starts the threads; they end when the pool is dropped.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        encoding: Encoding,
        threads: usize,
    ) -> Self {
        if threads < 2 {
            return Self { encoding, jobs: None };
        }
        let (jobs, queue) = bounded::<Job>(2 * threads);
        for _ in 0..threads {
            let (queue, encoding) = (queue.clone(), encoding.clone());
            scope.spawn(move || {
                let mut encoder = BatchEncoder::new(encoding);
                for job in queue {
                    // A reader that failed no longer listens.
                    let _ = job.reply.send(encoder.encode(job.documents));
                }
            });
        }
        Self { encoding, jobs: Some(jobs) }
    }

    pub(crate) fn handle(&self) -> Submitter {
        let encoder = self.jobs.is_none().then(|| BatchEncoder::new(self.encoding.clone()));
        Submitter { jobs: self.jobs.clone(), encoder }
    }
}

/// One reader's access to the pool.
pub(crate) struct Submitter {
    jobs: Option<Sender<Job>>,
    encoder: Option<BatchEncoder>,
}

impl Submitter {
    pub(crate) fn submit(&mut self, documents: Vec<Document>) -> Result<Pending> {
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
    pub(crate) fn wait(self) -> Result<EncodedBatch> {
        match self {
            Self::Ready(batch) => Ok(batch),
            Self::Running(answer) => answer.recv().map_err(|_| Error::Internal("an encoder thread ended")),
        }
    }
}

struct BatchEncoder {
    encoder: penstock_bpe::Encoder,
    encoding: Encoding,
}

impl BatchEncoder {
    fn new(encoding: Encoding) -> Self {
        Self { encoder: encoding.tokenizer.encoder(), encoding }
    }

    fn encode(&mut self, documents: Vec<Document>) -> EncodedBatch {
        let mut tokens = Vec::new();
        let documents = documents
            .into_iter()
            .map(|Document { text, ordinal, source, id }| {
                let start = tokens.len();
                self.encoder.encode_dropping_into(&text, &self.encoding.variation, &mut tokens);
                self.encoding.split.apply(&text, &mut tokens, start);
                tokens.extend(self.encoding.end_id);
                Encoded { ordinal, source, id, text_bytes: text.len() as u64, end: tokens.len() }
            })
            .collect();
        EncodedBatch { documents, tokens }
    }
}
