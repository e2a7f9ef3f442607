//! Every byte of a dataset, checked.

use std::fs;

use penstock_bpe::progress::Progress;
use rayon::prelude::*;

use super::Dataset;
use crate::error::{Error, Result};
use crate::folder::{seal_digits, unseal};
use crate::manifest::{Counts, Plan};

impl Dataset {
    /// Reads and checks every byte of the dataset: plan, fragments, shards, documents tables, and that their sums agree.
    /// Progress counts rows.
    ///
    /// # Errors
    /// The first thing found wrong; [`Error::Cancelled`].
    pub fn verify(&self, progress: &Progress) -> Result<()> {
        progress.start("verify", self.rows());
        self.verify_plan()?;
        let tasks = 0..self.inner.parts.len();
        let jobs: Vec<(usize, usize)> = tasks
            .clone()
            .map(|task| Ok((0..self.part(task)?.shards.len()).map(move |shard| (task, shard))))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        jobs.into_par_iter().try_for_each(|(task, shard)| self.verify_shard(task, shard, progress))?;
        let mut counts = Counts::default();
        for task in tasks {
            self.table(task)?;
            counts.add(&self.part(task)?.fragment.counts);
        }
        if counts == self.manifest().counts {
            Ok(())
        } else {
            Err(Error::corrupt(&self.inner.manifest_path, "", "its sums are not those of its fragments"))
        }
    }

    fn verify_plan(&self) -> Result<()> {
        let path = self.folder().join("plan.json");
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
        unseal::<Plan>(&path, &bytes)?;
        if seal_digits(&bytes) == self.manifest().plan_xxh3 {
            Ok(())
        } else {
            Err(Error::corrupt(&path, "", "it is not the plan that the manifest names"))
        }
    }

    fn verify_shard(&self, task: usize, shard: usize, progress: &Progress) -> Result<()> {
        let reader = &self.shard(task, shard)?.reader;
        for batch in 0..reader.batch_count() {
            progress.check()?;
            progress.add(reader.verify_batch(batch)?);
        }
        Ok(())
    }
}
