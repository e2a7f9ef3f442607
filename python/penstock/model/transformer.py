"""The whole model: embedding, layers, head, multi-token prediction, and their loss."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penstock.config import ModelConfig
from penstock.errors import ConfigError, DataError
from penstock.kernels import attention, cross_entropy, embedding, gemm
from penstock.model.attention import Rows
from penstock.model.block import Block
from penstock.model.cache import KVCache
from penstock.model.linear import Linear, Precision, RMSNorm, activation_dtype
from penstock.model.moe import MoE, Router, RouterLoad
from penstock.model.mtp import MTPLayer
from penstock.model.rope import rope_tables

__all__ = ["LossParts", "Transformer", "count_targets"]

IGNORED_TARGET = -100


@dataclass(frozen=True)
class LossParts:
    """Sums over a micro-batch, so that micro-batches and ranks add up.

    Divide by the number of targets of the *global* batch (``targets`` summed over micro-batches and
    ranks, or ``count_targets`` beforehand): then accumulated gradients are those of one big batch,
    however it was cut, and each number is a mean a token. The balance loss of a sequence enters ``balance``
    times its number of targets, hence ends as their weighted mean. Depths of multi-token prediction are
    divided by the same number, as in the V3 report (equation 24), though the last tokens of a document
    have no target there.
    """

    total: Tensor
    """``main + mtp_loss_weight * mean(mtp) + balance_loss_weight * balance``, and the z-losses; the part to
    call ``backward`` on."""
    main: Tensor
    """Next-token cross-entropy, nats."""
    mtp: tuple[Tensor, ...]
    """The same of each depth of multi-token prediction."""
    balance: Tensor
    """Sequence-wise balance loss, summed over layers."""
    targets: Tensor
    """int64: real next-token targets."""
    expert_counts: Tensor
    """int64 ``[moe_layers, E]``: real tokens an expert, the layers of multi-token prediction last."""


class Transformer(nn.Module):
    """A DeepSeek-V3-style language model with FP32 master weights.

    Parameters
    ----------
    config
        The shape.
    precision
        fp32; bf16: activations and products; fp8: products of linear layers and experts in FP8, the
        rest as bf16. Router logits, norm statistics and losses are FP32 in all.

    Notes
    -----
    ``doc_ids`` number the documents of a row, -1 on padding. Attention stays within equal ids. Padding
    counts in no loss, no expert's load and no balance loss. Without them a row is one document.
    """

    def __init__(self, config: ModelConfig, precision: Precision = "fp32") -> None:
        super().__init__()
        self.config = config
        self.precision: Precision = precision
        self.dtype = activation_dtype(precision)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, precision, moe=i >= config.first_k_dense_replace)
            for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        # The head stays out of FP8, as in the V3 recipe.
        head_precision: Precision = "fp32" if precision == "fp32" else "bf16"
        self.lm_head = Linear(config.hidden_size, config.vocab_size, head_precision)
        self.mtp = nn.ModuleList(MTPLayer(config, precision) for _ in range(config.num_nextn_predict_layers))
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Matrices from a normal of deviation ``initializer_range`` (torch's generator), norms one.

        What writes to the residual stream is divided by the root of the number of writers (GPT-2, section
        2.3): else the first layers drown the embedding, and tokens that look alike choose the same experts.
        """
        deviation = self.config.initializer_range
        writers = 2 * (len(self.layers) + len(self.mtp))
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "experts.down")):
                weight.normal_(0.0, deviation / math.sqrt(writers))
            else:
                weight.normal_(0.0, deviation)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        doc_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Next-token logits.

        Parameters
        ----------
        tokens
            int64 ``[B, S]``.
        positions
            ``[B, S]``; None: counted through the row, after what the cache holds.
        doc_ids
            ``[B, S]``; None: one document a row, which is all that a cache can hold.
        cache
            Earlier tokens of the same rows; ``tokens`` are added to it.

        Returns
        -------
        Tensor
            FP32 ``[B, S, vocab_size]``.

        Raises
        ------
        ConfigError
            The cache is full, or comes together with ``doc_ids``.
        """
        if cache is not None and doc_ids is not None:
            raise ConfigError("a cache holds one document a row: leave doc_ids out")
        rows = self._rows(tokens, positions, doc_ids, cache)
        x, _ = self._through_layers(self._embed(tokens), rows, cache)
        return self.logits(x)

    def logits(self, states: Tensor) -> Tensor:
        """The shared head on normed states ``[..., H]`` of any depth: FP32 ``[..., vocab_size]``."""
        return gemm.linear(states, self.lm_head.weight, self.lm_head.precision).float()

    def states(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        doc_ids: Tensor | None = None,
        seq_len: int | None = None,
    ) -> tuple[list[Tensor], list[RouterLoad]]:
        """Normed states of the model and of every depth of multi-token prediction, before the head.

        Parameters
        ----------
        tokens
            int64 ``[B, seq_len + D]`` or wider, D the number of depths.
        positions
            ``[B, seq_len]``; None: counted through the row.
        doc_ids
            As wide as ``tokens``.
        seq_len
            None: all but the last D tokens.

        Returns
        -------
        states, loads
            D + 1 times ``[B, seq_len, H]``, where depth d at position i predicts token i + d + 1; and
            the load of each gate, in the order of the layers.
        """
        width = tokens.shape[1] - len(self.mtp) if seq_len is None else seq_len
        inner_ids = None if doc_ids is None else doc_ids[:, :width]
        rows = self._rows(tokens[:, :width], positions, inner_ids, None)
        embedded = self._embed(tokens[:, : width + len(self.mtp)])
        x, loads = self._through_layers(embedded[:, :width], rows, None)
        states = [x]
        for depth, layer in enumerate(self.mtp, 1):
            valid = None if doc_ids is None else _same_document(doc_ids, width, depth)
            depth_rows = dataclasses.replace(rows, valid=valid)
            x, load = layer(embedded[:, depth : depth + width], x, depth_rows)
            states.append(x)
            loads.append(load)
        return states, loads

    def loss(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        doc_ids: Tensor | None = None,
        *,
        mtp_loss_weight: float = 0.3,
        balance_loss_weight: float = 1e-4,
        z_loss_weight: float = 0.0,
        head_chunk_tokens: int = 8192,
    ) -> LossParts:
        """Sums of all losses over a micro-batch; full logits never exist.

        Parameters
        ----------
        tokens
            int64 ``[B, S + lookahead]`` with a lookahead of at least 1 + D tokens.
        positions
            ``[B, S]``; says what S is. None: counted through the row, and S is all but 1 + D tokens.
        doc_ids
            ``[B, S + lookahead]``. The target of depth d at position i is token i + 1 + d, and is one
            only if both stand in the same document.
        mtp_loss_weight
            Of the mean over the depths (lambda in the V3 report).
        balance_loss_weight
            Of the balance loss (alpha).
        z_loss_weight
            Of the squared logarithm of each softmax's denominator, in the total alone.
        head_chunk_tokens
            Tokens whose logits are held at once.

        Raises
        ------
        DataError
            The rows look ahead too little for this model, or the shapes do not belong together.
        """
        width = _check_shapes(tokens, positions, doc_ids, len(self.mtp))
        states, loads = self.states(tokens, positions, doc_ids, width)
        depths = len(self.mtp)
        losses = cross_entropy.joint_cross_entropy(
            [x.flatten(0, 1) for x in states],
            self.lm_head.weight,
            [_targets(tokens, doc_ids, width, depth).flatten() for depth in range(1 + depths)],
            weights=[1.0, *[mtp_loss_weight / max(depths, 1)] * depths],
            chunk=head_chunk_tokens,
            precision=self.lm_head.precision,
            z_loss=z_loss_weight,
        )
        main, *mtp = losses.heads
        row_targets = _row_targets(tokens, doc_ids, width)
        balance = _total_balance(loads, row_targets) if loads else main.new_zeros(())
        total = losses.total + balance_loss_weight * balance
        return LossParts(total, main, tuple(mtp), balance, row_targets.sum(), self._counts(loads))

    def routers(self) -> list[Router]:
        """The gates in the order of ``expert_counts``."""
        blocks = [*self.layers, *(layer.block for layer in self.mtp)]
        return [block.mlp.gate for block in blocks if isinstance(block.mlp, MoE)]

    @torch.no_grad()
    def update_router_bias(self, expert_counts: Tensor, speed: float) -> None:
        """Move every expert's bias by ``speed`` against its load, once an optimizer step.

        Parameters
        ----------
        expert_counts
            ``[moe_layers, E]``: ``LossParts.expert_counts`` summed over the step's micro-batches and ranks.
        speed
            gamma in the V3 report.
        """
        counts = expert_counts.to(torch.float32)
        steps = speed * torch.sign(counts.mean(1, keepdim=True) - counts)
        for gate, step in zip(self.routers(), steps, strict=True):
            gate.e_score_correction_bias += step

    def _embed(self, tokens: Tensor) -> Tensor:
        return embedding.embedding(tokens, self.embed_tokens.weight, self.dtype)

    def _rows(
        self, tokens: Tensor, positions: Tensor | None, doc_ids: Tensor | None, cache: KVCache | None
    ) -> Rows:
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]
        cos, sin = rope_tables(self.config, positions)
        if doc_ids is None:
            return Rows(cos, sin, None, None)
        return Rows(cos, sin, attention.find_documents(doc_ids), doc_ids >= 0)

    def _through_layers(
        self, x: Tensor, rows: Rows, cache: KVCache | None
    ) -> tuple[Tensor, list[RouterLoad]]:
        new_tokens = x.shape[1]
        delta, loads = None, []
        for index, block in enumerate(self.layers):
            x, delta, load = block(x, delta, rows, cache, index)
            if load is not None:
                loads.append(load)
        if cache is not None:
            cache.length += new_tokens
        return self.norm.add(x, delta)[1], loads

    def _counts(self, loads: list[RouterLoad]) -> Tensor:
        if not loads:
            device = self.lm_head.weight.device
            return torch.zeros(0, self.config.n_routed_experts, dtype=torch.int64, device=device)
        return torch.stack([load.counts for load in loads]).to(torch.int64)


def count_targets(doc_ids: Tensor, seq_len: int) -> Tensor:
    """Real next-token targets of rows ``[B, seq_len + lookahead]``, as ``LossParts.targets`` counts them."""
    return _same_document(doc_ids, seq_len, 1).sum()


def _same_document(doc_ids: Tensor, width: int, ahead: int) -> Tensor:
    """Bool ``[B, width]``: position i is no padding, and i + ahead stands in its document."""
    here = doc_ids[:, :width]
    return (here >= 0) & (here == doc_ids[:, ahead : ahead + width])


def _targets(tokens: Tensor, doc_ids: Tensor | None, width: int, depth: int) -> Tensor:
    targets = tokens[:, depth + 1 : depth + 1 + width]
    if doc_ids is None:
        return targets
    return targets.masked_fill(~_same_document(doc_ids, width, depth + 1), IGNORED_TARGET)


def _row_targets(tokens: Tensor, doc_ids: Tensor | None, width: int) -> Tensor:
    """int64 ``[B]``: real next-token targets of each row."""
    if doc_ids is None:
        return torch.full((tokens.shape[0],), width, dtype=torch.int64, device=tokens.device)
    return _same_document(doc_ids, width, 1).sum(1)


def _total_balance(loads: list[RouterLoad], row_targets: Tensor) -> Tensor:
    """The balance losses of all layers, each sequence's times its targets."""
    return (torch.stack([load.balance for load in loads]).sum(0) * row_targets).sum()


def _check_shapes(tokens: Tensor, positions: Tensor | None, doc_ids: Tensor | None, depths: int) -> int:
    """The number of positions S, once everything fits."""
    width = tokens.shape[1] - 1 - depths if positions is None else positions.shape[1]
    if width < 1 or tokens.shape[1] < width + 1 + depths:
        raise DataError(
            f"rows of {tokens.shape[1]} tokens for {width} positions look ahead too little: predicting with "
            f"{depths} further depths needs {1 + depths} tokens more than positions. Pack the data for this "
            "model's num_nextn_predict_layers"
        )
    if doc_ids is not None and doc_ids.shape != tokens.shape:
        raise DataError(
            f"doc_ids {tuple(doc_ids.shape)} must cover tokens {tuple(tokens.shape)}, lookahead included"
        )
    return width
