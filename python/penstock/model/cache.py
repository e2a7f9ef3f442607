"""What generation keeps of the tokens it has seen."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.config import ModelConfig
from penstock.errors import ConfigError

__all__ = ["KVCache"]


class KVCache:
    """Per layer and token, the normed latent and the rotated key part that all heads share.

    That is ``kv_lora_rank + qk_rope_head_dim`` numbers, whatever the number of heads. ``length`` is how
    many tokens are held; setting it lower forgets the last ones, as rejected drafts ask for.

    Parameters
    ----------
    config
        Of the model that will fill it.
    batch_size
        Sequences, all of the same length.
    max_tokens
        Room for each sequence.
    dtype
        Of the model's activations.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_tokens: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.num_hidden_layers, batch_size, max_tokens)
        self.max_tokens = max_tokens
        self.length = 0
        self._latents = torch.empty(*shape, config.kv_lora_rank, device=device, dtype=dtype)
        self._rope_keys = torch.empty(*shape, config.qk_rope_head_dim, device=device, dtype=dtype)

    def append(self, layer: int, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new tokens after the ``length`` held ones and return all of them.

        ``length`` itself moves when the whole model has passed.

        Parameters
        ----------
        latent, rope_key
            ``[B, n, kv_lora_rank]`` and ``[B, n, qk_rope_head_dim]``.

        Returns
        -------
        latents, rope_keys
            ``[B, length + n, ...]``, views.

        Raises
        ------
        ConfigError
            There is no room for ``n`` more tokens.
        """
        end = self.length + latent.shape[1]
        if end > self.max_tokens:
            raise ConfigError(
                f"the cache has room for {self.max_tokens} tokens, not {end}: make it with more max_tokens"
            )
        self._latents[layer, :, self.length : end] = latent
        self._rope_keys[layer, :, self.length : end] = rope_key
        return self._latents[layer, :, :end], self._rope_keys[layer, :, :end]
