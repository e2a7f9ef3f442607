"""Recipes: TOML files read into frozen dataclasses, one a stage.

A recipe has a section a stage: ``[corpus] [tokenizer] [pack] [data] [model] [optimizer] [train]
[evaluate]``. ``penstock run`` goes through all of them; ``penstock train`` reads the same file and
starts at ``[data]``. Every key has a default, so a recipe states only what it changes. Model keys are
those of Hugging Face's ``DeepseekV3Config``, so that export and import are a table.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock.errors import ConfigError
from penstock.recipe_values import build_section, check_least, parse_override

__all__ = [
    "Config",
    "CorpusConfig",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PackConfig",
    "RopeScaling",
    "TokenizerConfig",
    "TrainConfig",
]

Precision = Literal["fp32", "bf16", "fp8"]


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which text a whole-job recipe reads."""

    paths: tuple[str, ...] = ()
    """Files to train on (.jsonl, .txt, .parquet, .arrow; plain, .gz or .zst). Empty: text of this machine."""
    heldout_paths: tuple[str, ...] = ()
    """Files never trained on. Empty: a share of the documents is set aside by hash."""
    heldout_fraction: float = 0.02
    """That share, used only when heldout_paths is empty."""
    max_bytes: int = 0
    """Use at most this many bytes of text; 0 means all."""
    text_field: str = "text"
    """The JSON or column name that holds a document's text."""

    def __post_init__(self) -> None:
        check_least("corpus", self, max_bytes=0)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How the tokenizer is trained."""

    path: str = ""
    """An existing tokenizer to use instead of training one; a trained run keeps a copy of it."""
    vocab_size: int = 128_000
    """Tokens in all, specials included."""
    pattern: str = "deepseek-v3"
    """The split pattern: gpt2, cl100k, o200k, llama3, qwen2, qwen3.5, tekken, deepseek-llm, deepseek-coder or
    deepseek-v3."""
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    """Control tokens; the first is the end-of-text token."""
    min_frequency: int = 0
    """Pairs rarer than this are never merged."""
    max_bytes: int = 0
    """Count at most this many bytes of the corpus; 0 means all."""

    def __post_init__(self) -> None:
        check_least("tokenizer", self, min_frequency=0, max_bytes=0)
        if not self.path and self.vocab_size < 256 + len(self.special_tokens):
            raise ConfigError(
                f"tokenizer.vocab_size={self.vocab_size} must be at least {256 + len(self.special_tokens)}: "
                "256 bytes and the special tokens"
            )


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How documents become rows."""

    seq_len: int = 4096
    """Tokens a row, the lookahead not counted."""
    mode: Literal["best_fit", "concatenate"] = "best_fit"
    """best_fit cuts only documents longer than a row; concatenate cuts at every row's end."""
    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of shard bodies; none can be memory-mapped."""
    shard_mib: int = 128
    """A shard's size in MiB."""
    seed: int = 0
    """Seeds what the packer decides by chance."""
    boundary_split: float = 0.0
    """The share of the tokens that join punctuation and line breaks that are split in two (V3 report,
    section 4.1)."""

    def __post_init__(self) -> None:
        check_least("pack", self, seq_len=2, shard_mib=1, seed=0, boundary_split=0)
        if self.boundary_split > 1:
            raise ConfigError(f"pack.boundary_split={self.boundary_split} must be at most 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the trainer reads."""

    path: str = ""
    """A folder of packed shards."""
    global_batch_size: int = 8
    """Rows an optimizer step, over all ranks."""
    seed: int = 0
    """Seeds the order of rows."""

    def __post_init__(self) -> None:
        check_least("data", self, global_batch_size=1, seed=0)


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """YaRN, with the names of Hugging Face's ``rope_parameters``."""

    rope_type: Literal["yarn"] = "yarn"
    factor: float = 1.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a DeepSeek-V3-style model; keys as in Hugging Face's ``DeepseekV3Config``."""

    vocab_size: int = 128_000
    hidden_size: int = 1280
    intermediate_size: int = 6912
    """Width of the dense feed-forward layers."""
    moe_intermediate_size: int = 640
    """Width of one expert."""
    num_hidden_layers: int = 16
    num_attention_heads: int = 10
    n_shared_experts: int = 2
    n_routed_experts: int = 64
    num_experts_per_tok: int = 6
    n_group: int = 8
    topk_group: int = 4
    first_k_dense_replace: int = 1
    """The first layers that are dense."""
    kv_lora_rank: int = 512
    q_lora_rank: int | None = None
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int = 128
    v_head_dim: int = 128
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_interleave: bool = True
    rope_scaling: RopeScaling | None = None
    num_nextn_predict_layers: int = 1
    """Depth of multi-token prediction; 0 for none."""
    initializer_range: float = 0.006
    """Standard deviation of the initial weights (V3 report, section 4.2)."""
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        _check_model(self)

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with the V3 report's phases: linear warm-up, constant, cosine to ``min_lr``, constant."""

    lr: float = 2.2e-4
    min_lr: float = 2.2e-5
    warmup_steps: int = 100
    constant_steps: int | None = None
    """Steps at ``lr`` after the warm-up. None: two thirds of the rest, as in the report."""
    decay_steps: int | None = None
    """Steps of the cosine. None: what remains of ``train.steps``."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """On matrices; norms and the router bias have none."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 for no clipping."""
    moments_dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        for field_ in dataclasses.fields(self):
            if field_.name != "moments_dtype":
                check_least("optimizer", self, **{field_.name: 0})
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"optimizer.{name}={getattr(self, name)} must be less than 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    out: str = "run"
    """Folder of checkpoints, metrics.jsonl and plots."""
    steps: int = 1000
    micro_batch_size: int = 4
    """Rows a forward pass on one rank; gradients accumulate up to the global batch."""
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """auto: fp8 on a GPU that has it, bf16 on other GPUs, fp32 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cuda_graph: bool = True
    """On a GPU, record a micro-batch once and replay it: the host no longer limits the speed."""
    seed: int = 0
    """Seeds the weights."""
    deterministic: bool = True
    mtp_loss_weight: float = 0.3
    balance_loss_weight: float = 1e-4
    """Of the sequence-wise balance loss (V3 report, section 2.1.2)."""
    z_loss_weight: float = 0.0
    """Of the squared logarithm of each softmax's denominator (PaLM, section 5), against drifting logits."""
    router_bias_speed: float = 1e-3
    """How far an expert's bias moves a step, against its load."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does; it never reaches the weights."""
    log_every: int = 1
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: only at the end."""
    keep_checkpoints: int = 2
    tensorboard: bool = False
    head_chunk_tokens: int = 8192
    """Tokens whose logits are held at once."""

    def __post_init__(self) -> None:
        counts = ("steps", "micro_batch_size", "log_every", "keep_checkpoints", "head_chunk_tokens")
        weights = ("mtp_loss_weight", "balance_loss_weight", "z_loss_weight", "router_bias_speed")
        check_least("train", self, **dict.fromkeys(counts, 1), checkpoint_every=0, seed=0)
        check_least("train", self, **dict.fromkeys(weights, 0))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Held-out evaluation and the sample at the end."""

    max_bytes: int = 0
    """Score at most this many bytes of held-out text; 0 means all."""
    batch_size: int = 8
    prompt: str = "def "
    """What the sample of generated text starts with."""
    sample_tokens: int = 120
    temperature: float = 0.8
    top_p: float = 0.95

    def __post_init__(self) -> None:
        check_least("evaluate", self, max_bytes=0, batch_size=1, sample_tokens=0, temperature=0)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"evaluate.top_p={self.top_p} must lie above 0 and be at most 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole recipe."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Iterable[str] = ()) -> Config:
        """Read a recipe and apply ``section.key=value`` overrides, in order.

        Raises
        ------
        ConfigError
            The file cannot be read, a key is unknown (the nearest known one is named), or a value has
            the wrong type or range.
        """
        try:
            sections = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: the recipe cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a TOML file: {error}") from error
        return cls.from_mapping(sections, overrides, origin=str(path))

    @classmethod
    def from_mapping(
        cls, sections: Mapping[str, Any], overrides: Iterable[str] = (), origin: str = "recipe"
    ) -> Config:
        """The same from a nested mapping, such as a checkpoint's stored recipe."""
        merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in sections.items()}
        for override in overrides:
            keys, value = parse_override(override)
            node = merged
            for key in keys[:-1]:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    raise ConfigError(f"--set {override}: {key} is a value, not a section")
            node[keys[-1]] = value
        config: Config = build_section(cls, merged, origin, "")
        return config

    def to_mapping(self) -> dict[str, Any]:
        """Plain nested data that ``from_mapping`` reads back; keys that are None are left out."""
        return {k: _without_none(v) for k, v in dataclasses.asdict(self).items()}


def _without_none(section: dict[str, Any]) -> dict[str, Any]:
    return {
        k: _without_none(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v
        for k, v in section.items()
        if v is not None
    }


SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "n_routed_experts",
    "n_group",
    "kv_lora_rank",
    "q_lora_rank",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "v_head_dim",
    "max_position_embeddings",
)


def _check_model(m: ModelConfig) -> None:
    """Refuse shapes that cannot be built, naming the keys."""
    check_least("model", m, **dict.fromkeys(SIZES, 1))
    check_least("model", m, first_k_dense_replace=0, n_shared_experts=0, num_nextn_predict_layers=0)
    check_least("model", m, rms_norm_eps=0, rope_theta=1, initializer_range=0)
    if m.n_routed_experts % m.n_group:
        raise ConfigError(
            f"model.n_routed_experts={m.n_routed_experts} must be a multiple of n_group={m.n_group}"
        )
    if not 1 <= m.topk_group <= m.n_group:
        raise ConfigError(f"model.topk_group={m.topk_group} must lie between 1 and n_group={m.n_group}")
    selectable = m.n_routed_experts // m.n_group * m.topk_group
    if not 1 <= m.num_experts_per_tok <= selectable:
        raise ConfigError(
            f"model.num_experts_per_tok={m.num_experts_per_tok} must lie between 1 and {selectable}, "
            "the experts of topk_group groups"
        )
    if m.n_group > 1 and m.n_routed_experts // m.n_group < 2:
        raise ConfigError(
            "model.n_group: a group needs at least two experts, since its score is its best two's sum"
        )
    if m.qk_rope_head_dim % 2:
        raise ConfigError(f"model.qk_rope_head_dim={m.qk_rope_head_dim} must be even: RoPE turns pairs")
