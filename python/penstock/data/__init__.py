"""Packing corpora into shards and streaming rows from them. `penstock.data.loader` is the torch side."""

from __future__ import annotations

from penstock.data.packing import PackReport, SourceCounts, pack
from penstock.data.stream import Batch, StreamingDataset

__all__ = ["Batch", "PackReport", "SourceCounts", "StreamingDataset", "pack"]
