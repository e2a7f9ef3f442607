//! The tokenizer and its trainer.

use std::path::{Path, PathBuf};

use numpy::{IntoPyArray, PyArray1};
use penstock_bpe::{Allowed, Chance, Unit, Variation};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::boundary::{caught, guarded};
use crate::decoding;
use crate::error::Fault;
use crate::ids::{Ids, list};
use crate::text::{Unread, characters};

/// A text of so many characters is encoded in a few microseconds, too few to let others have the GIL meanwhile.
const FEW_CHARACTERS: usize = 1 << 10;

/// A tokenizer; immutable and shared between threads.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct Tokenizer(pub(crate) penstock_bpe::Tokenizer);

/// Ids, end to end, and where texts or tokens lie.
pub(crate) type IdsAndOffsets<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>);

fn allowed_special(names: Option<Vec<String>>) -> Allowed {
    match names {
        None => Allowed::All,
        Some(names) if names.is_empty() => Allowed::None,
        Some(names) => Allowed::Set(names.into_iter().collect()),
    }
}

pub(crate) fn variation(boundary_split: f64, dropout: f64, seed: u64) -> penstock_bpe::Result<Variation> {
    let boundary_split = Chance::new("boundary_split", boundary_split)?;
    Ok(Variation { boundary_split, dropout: Chance::new("dropout", dropout)?, seed })
}

impl Tokenizer {
    fn encode_text(
        &self,
        py: Python<'_>,
        text: Bound<'_, PyString>,
        allowed: Option<Vec<String>>,
    ) -> PyResult<Vec<u32>> {
        if characters(&text) > FEW_CHARACTERS {
            return Ok(self.encode_texts(py, vec![text], allowed, 0)?.0);
        }
        let (text, allowed) = (text.to_str()?, allowed_special(allowed));
        caught(|| Ok::<_, Fault>(self.0.encode(text, &allowed))).map_err(|fault| fault.into_exception(py))
    }

    /// The calling thread makes the UTF-8 of the texts, for which it needs the GIL, while others encode the first of them.
    fn encode_texts(
        &self,
        py: Python<'_>,
        texts: Vec<Bound<'_, PyString>>,
        allowed: Option<Vec<String>>,
        threads: usize,
    ) -> PyResult<(Vec<u32>, Vec<i64>)> {
        let allowed = allowed_special(allowed);
        let expected_bytes = texts.iter().map(characters).sum();
        let texts: Vec<Unread> = texts.into_iter().map(Unread::new).collect::<PyResult<_>>()?;
        guarded::<_, Fault>(py, || {
            Ok(self.0.encode_fed(expected_bytes, &allowed, threads, |intake| {
                Python::attach(|py| texts.iter().try_for_each(|text| text.hand_over(py, intake)))
            }))
        })?
    }
}

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn from_file(
        py: Python<'_>,
        path: PathBuf,
        pattern: Option<&str>,
        cache: Option<PathBuf>,
    ) -> PyResult<Self> {
        guarded(py, || match cache {
            Some(cache) => penstock_bpe::Tokenizer::from_file_cached(&path, pattern, &cache),
            None => penstock_bpe::Tokenizer::from_file(&path, pattern),
        })
        .map(Self)
    }

    #[staticmethod]
    fn from_json(py: Python<'_>, text: &str) -> PyResult<Self> {
        guarded(py, || penstock_bpe::Tokenizer::from_json(text.as_bytes(), Path::new("<text>"))).map(Self)
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        guarded(py, || self.0.save(&path))
    }

    fn prefix(&self, py: Python<'_>, vocab_size: usize) -> PyResult<Self> {
        guarded(py, || self.0.prefix(vocab_size)).map(Self)
    }

    fn to_json(&self, py: Python<'_>) -> PyResult<String> {
        guarded(py, || self.0.to_json())
    }

    #[staticmethod]
    fn from_sentencepiece(py: Python<'_>, model: &[u8]) -> PyResult<Self> {
        guarded(py, || penstock_bpe::Tokenizer::from_sentencepiece(model, Path::new("<model>"))).map(Self)
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.to_bytes().map(|bytes| PyBytes::new(py, &bytes))
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, content: &[u8]) -> PyResult<Self> {
        guarded(py, || penstock_bpe::Tokenizer::from_bytes(content)).map(Self)
    }

    fn sentencepiece_model<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.sentencepiece_model().map(|model| PyBytes::new(py, model))
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: Bound<'py, PyString>,
        allowed: Option<Vec<String>>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        Ok(self.encode_text(py, text, allowed)?.into_pyarray(py))
    }

    fn encode_to_list<'py>(
        &self,
        py: Python<'py>,
        text: Bound<'py, PyString>,
        allowed: Option<Vec<String>>,
    ) -> PyResult<Bound<'py, PyList>> {
        list(py, &self.encode_text(py, text, allowed)?)
    }

    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        allowed: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<IdsAndOffsets<'py>> {
        let (ids, offsets) = self.encode_texts(py, texts, allowed, threads.unwrap_or(0))?;
        Ok((ids.into_pyarray(py), offsets.into_pyarray(py)))
    }

    #[allow(clippy::too_many_arguments)]
    fn encode_varied<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        allowed: Option<Vec<String>>,
        boundary_split: f64,
        dropout: f64,
        seed: u64,
        threads: Option<usize>,
    ) -> PyResult<IdsAndOffsets<'py>> {
        let allowed = allowed_special(allowed);
        let (ids, offsets) = guarded(py, || {
            let variation = variation(boundary_split, dropout, seed)?;
            let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
            self.0.encode_varied(&texts, &allowed, &variation, threads.unwrap_or(0))
        })?;
        Ok((ids.into_pyarray(py), offsets.into_pyarray(py)))
    }

    fn encode_with_offsets<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        allowed: Option<Vec<String>>,
        characters: bool,
    ) -> PyResult<IdsAndOffsets<'py>> {
        let allowed = allowed_special(allowed);
        let unit = if characters { Unit::Characters } else { Unit::Bytes };
        let (ids, offsets) = guarded(py, || self.0.encode_with_offsets(text, &allowed, unit))?;
        Ok((ids.into_pyarray(py), offsets.into_flattened().into_pyarray(py)))
    }

    fn cut_of_start(
        &self,
        py: Python<'_>,
        start: &str,
        allowed: Option<Vec<String>>,
    ) -> PyResult<Option<usize>> {
        let allowed = allowed_special(allowed);
        guarded::<_, Fault>(py, || {
            Ok(self.0.cut_of_start(start, &allowed).map(|at| start[..at].chars().count()))
        })
    }

    fn count_tokens(&self, py: Python<'_>, text: &str) -> PyResult<usize> {
        guarded::<_, Fault>(py, || Ok(self.0.count_tokens(text)))
    }

    fn decode_bytes<'py>(&self, py: Python<'py>, ids: Ids<'py>) -> PyResult<Bound<'py, PyBytes>> {
        decoding::to_bytes(py, &self.0, ids.as_slice()?)
    }

    fn decode<'py>(&self, ids: &Bound<'py, PyAny>, errors: &str) -> PyResult<Bound<'py, PyString>> {
        decoding::to_str(&self.0, ids, errors)
    }

    fn token_to_id(&self, token: &[u8]) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn id_to_bytes<'py>(&self, py: Python<'py>, token_id: u32) -> Option<Bound<'py, PyBytes>> {
        self.0.id_to_bytes(token_id).map(|bytes| PyBytes::new(py, bytes))
    }

    fn special_tokens(&self) -> Vec<(String, u32)> {
        self.0.special_tokens().iter().filter(|t| t.special).map(|t| (t.content.clone(), t.id)).collect()
    }

    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let bytes = |id: u32| PyBytes::new(py, self.0.id_to_bytes(id).unwrap_or_default());
        self.0.merges().iter().map(|merge| (bytes(merge.left), bytes(merge.right))).collect()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    #[getter]
    fn eot_id(&self) -> Option<u32> {
        self.0.eot_id()
    }

    #[getter]
    fn pattern(&self) -> &str {
        self.0.pattern_name()
    }

    #[getter]
    fn sha256(&self) -> &str {
        self.0.sha256()
    }
}
