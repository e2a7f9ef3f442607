//! Where a stream stands, in a few numbers (docs/format.md section 7).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub(crate) const STATE_VERSION: u64 = 1;

/// Where a stream stands: all that a checkpoint needs. Rank and world size are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of this state's form.
    pub version: u64,
    /// The next step to hand out.
    pub step: u64,
    /// Seed of the order.
    pub seed: u64,
    /// Samples of a step over all ranks.
    pub global_batch_size: u64,
    /// Seal of the dataset's manifest.
    pub manifest: String,
}

impl State {
    /// As JSON, at most 256 bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// # Errors
    /// [`Error::BadState`] if it is no state, or one of an unknown version.
    pub fn from_json(json: &str) -> Result<Self> {
        let state: Self = serde_json::from_str(json)
            .map_err(|e| Error::BadState { detail: format!("not a state: {e}") })?;
        state.check_version().map(|()| state)
    }

    pub(crate) fn check_version(&self) -> Result<()> {
        if self.version == STATE_VERSION {
            return Ok(());
        }
        let detail =
            format!("version {} is unknown; this penstock reads version {STATE_VERSION}", self.version);
        Err(Error::BadState { detail })
    }
}
