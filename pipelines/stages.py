"""The stages of a whole job: what each depends on, makes and reports.

A stage is a function from the recipe and the results of earlier stages to a result that JSON can hold.
Everything heavier than numbers stands in files of the run's folder.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.config import Config
from penstock.pipelines.corpus import input_facts, prepare_corpus
from penstock.pipelines.documents import read_documents
from penstock.report.progress import Update, View, job_callback, step_callback
from penstock.tokenizer import Tokenizer

if TYPE_CHECKING:
    from penstock.evaluate.bits_per_byte import BitsPerByte, LanguageModel

__all__ = ["STAGES", "Stage", "Work"]

Result = dict[str, Any]
ENCODING_BATCH = 512


@dataclass(frozen=True)
class Work:
    """What a stage gets."""

    config: Config
    folder: Path
    results: Mapping[str, Result]
    """Of the stages before."""
    view: View
    resume: bool
    """Whether the folder may hold a part of the same work."""


@dataclass(frozen=True)
class Stage:
    """One step of a job."""

    name: str
    needs: tuple[str, ...]
    """Stages whose results it reads."""
    settings: Callable[[Config], Any]
    """What of the recipe and the machine decides its result."""
    outputs: tuple[str, ...]
    """Files and folders it makes, below the run's."""
    run: Callable[[Work], Result]
    keeps_outputs: bool = False
    """True where the stage itself sets an earlier run's outputs aside."""


def _corpus(work: Work) -> Result:
    return prepare_corpus(work.config.corpus, work.folder / "corpus", work.view)


def _tokenizer(work: Work) -> Result:
    config = work.config.tokenizer
    if config.path:
        tok, path = Tokenizer.from_file(config.path), Path(config.path).resolve()
    else:
        path = work.folder / "tokenizer"
        tok = Tokenizer.train(
            [Path(p) for p in work.results["corpus"]["train"]],
            config.vocab_size,
            config.pattern,
            config.special_tokens,
            min_frequency=config.min_frequency,
            max_bytes=config.max_bytes,
            text_field=work.config.corpus.text_field,
            progress=job_callback(work.view, "tokenizer"),
        )
        tok.save(path)
    return {
        "path": str(path),
        "trained": not config.path,
        "vocab_size": tok.vocab_size,
        "sha256": tok.sha256,
    }


def _pack(work: Work) -> Result:
    from penstock.data import pack

    config = work.config.pack
    report = pack(
        work.results["corpus"]["train"],
        _tokenizer_of(work),
        config.seq_len,
        work.folder / "packed",
        config.seed,
        mtp_depth=work.config.model.num_nextn_predict_layers,
        mode=config.mode,
        boundary_split=config.boundary_split,
        compression=config.compression,
        shard_bytes=config.shard_mib << 20,
        text_field=work.config.corpus.text_field,
        progress=job_callback(work.view, "pack"),
    )
    return {"path": str(work.folder / "packed"), **dataclasses.asdict(report)}


def _bigram(work: Work) -> Result:
    from penstock.evaluate.bigram import bigram_bits_per_byte
    from penstock.evaluate.bits_per_byte import encode_documents

    tok = _tokenizer_of(work)
    heldout = encode_documents(tok, _heldout_texts(work), work.config.evaluate.max_bytes)
    score = bigram_bits_per_byte(_training_ids(work, tok), heldout, tok.vocab_size, tok.eot_id)
    return _score_facts(score)


def _evaluate_before(work: Work) -> Result:
    import torch

    from penstock.model import Transformer
    from penstock.train.hardware import resolve_device, resolve_precision

    device = resolve_device(work.config.train.device)
    torch.manual_seed(work.config.train.seed)
    with torch.device(device):
        model = Transformer(work.config.model, resolve_precision(work.config.train.precision, device))
    return _evaluate(work, model.eval(), "evaluate before")


def _train(work: Work) -> Result:
    from penstock import train

    config = dataclasses.replace(
        work.config,
        data=dataclasses.replace(work.config.data, path=work.results["pack"]["path"]),
        train=dataclasses.replace(work.config.train, out=str(work.folder)),
    )
    report = train.run(config, progress=step_callback(work.view, "train"), resume=work.resume)
    facts = dataclasses.asdict(report)
    return {k: str(v) if isinstance(v, Path) else v for k, v in facts.items()}


def _evaluate_after(work: Work) -> Result:
    from penstock.pipelines.trained import open_run

    run = open_run(work.folder, Path(work.results["tokenizer"]["path"]), work.config.train.device)
    return _evaluate(work, run.model, "evaluate after")


def _generate(work: Work) -> Result:
    from penstock.generate.sample import SampleOptions, sample
    from penstock.pipelines.trained import open_run

    run = open_run(work.folder, Path(work.results["tokenizer"]["path"]), work.config.train.device)
    config = work.config.evaluate
    options = SampleOptions(
        max_new_tokens=config.sample_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=work.config.train.seed,
    )
    text = sample(run.model, run.tokenizer, config.prompt, options)
    return {"prompt": config.prompt, "text": text, "tokens": len(run.tokenizer.encode(text))}


def _report(work: Work) -> Result:
    from penstock.pipelines.page import write_report

    return {"path": str(write_report(work.config, work.folder, work.results))}


def _evaluate(work: Work, model: LanguageModel, name: str) -> Result:
    from penstock.evaluate.bits_per_byte import bits_per_byte

    config = work.config
    score = bits_per_byte(
        model,
        _tokenizer_of(work),
        _counted(work, name),
        seq_len=config.pack.seq_len,
        batch_size=config.evaluate.batch_size,
        device=next(model.parameters()).device,  # type: ignore[attr-defined]
        max_bytes=config.evaluate.max_bytes,
    )
    return _score_facts(score)


def _score_facts(score: BitsPerByte) -> Result:
    return {"bits_per_byte": score.value, **dataclasses.asdict(score)}


def _tokenizer_of(work: Work) -> Tokenizer:
    return Tokenizer.from_file(work.results["tokenizer"]["path"])


def _heldout_texts(work: Work) -> Iterator[str]:
    paths = work.results["corpus"]["heldout"]
    return (d.text for d in read_documents(paths, work.config.corpus.text_field) if d.text)


def _counted(work: Work, name: str) -> Iterator[str]:
    """Held-out texts, their bytes reported as they are taken."""
    began, done = time.monotonic(), 0
    for text in _heldout_texts(work):
        yield text
        done += len(text.encode())
        total = work.config.evaluate.max_bytes
        work.view.update(Update(name, min(done, total or done), total, "B", time.monotonic() - began))


def _training_ids(work: Work, tok: Tokenizer) -> Iterator[Any]:
    """Token ids of the training documents, encoded a batch at a time."""
    began, done = time.monotonic(), 0
    batch: list[str] = []
    for document in read_documents(work.results["corpus"]["train"], work.config.corpus.text_field):
        batch.append(document.text)
        if len(batch) == ENCODING_BATCH:
            yield from tok.encode_batch(batch)
            done += sum(map(len, batch))
            work.view.update(Update("bigram", done, 0, "characters", time.monotonic() - began))
            batch = []
    yield from tok.encode_batch(batch)


def _without(section: Any, *names: str) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(section).items() if k not in names}


def _corpus_settings(config: Config) -> Any:
    machine = [] if config.corpus.paths else ["python", platform.python_version()]
    return [_without(config.corpus, "paths", "heldout_paths"), input_facts(config.corpus), machine]


def _pack_settings(config: Config) -> Any:
    return [dataclasses.asdict(config.pack), config.model.num_nextn_predict_layers]


def _scoring(config: Config) -> Any:
    return [config.evaluate.max_bytes, config.pack.seq_len]


def _before_settings(config: Config) -> Any:
    train = config.train
    return [_scoring(config), dataclasses.asdict(config.model), train.seed, train.precision, train.device]


def _train_settings(config: Config) -> Any:
    free = ("out", "log_every", "checkpoint_every", "keep_checkpoints", "tensorboard")
    return [
        dataclasses.asdict(config.model),
        dataclasses.asdict(config.optimizer),
        _without(config.data, "path"),
        _without(config.train, *free),
    ]


def _generate_settings(config: Config) -> Any:
    return _without(config.evaluate, "max_bytes", "batch_size")


STAGES: tuple[Stage, ...] = (
    Stage("corpus", (), _corpus_settings, ("corpus",), _corpus),
    Stage("tokenizer", ("corpus",), lambda c: dataclasses.asdict(c.tokenizer), ("tokenizer",), _tokenizer),
    Stage("pack", ("corpus", "tokenizer"), _pack_settings, ("packed",), _pack),
    Stage("bigram", ("corpus", "tokenizer"), lambda c: c.evaluate.max_bytes, (), _bigram),
    Stage("evaluate-before", ("corpus", "tokenizer"), _before_settings, (), _evaluate_before),
    Stage("train", ("pack",), _train_settings, ("checkpoints", "metrics.jsonl"), _train, keeps_outputs=True),
    Stage("evaluate-after", ("corpus", "tokenizer", "train"), _scoring, (), _evaluate_after),
    Stage("generate", ("tokenizer", "train"), _generate_settings, (), _generate),
    Stage(
        "report",
        ("corpus", "tokenizer", "pack", "bigram", "evaluate-before", "train", "evaluate-after", "generate"),
        lambda c: c.to_mapping(),
        ("report.html",),
        _report,
    ),
)
