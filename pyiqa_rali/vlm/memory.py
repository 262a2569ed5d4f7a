"""What a model has read already: its keys and values, from which other continuations go on without reading again.

A rating is looked up after every begin that it may have. Reading picture, question and reasoning again for each would take
many times as long as writing them did.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Memory:
    """Keys and values of a batch, one row for each picture, in the order in which the tokens were read.

    Attributes:
        layers: keys and values (B, heads, S, width) of each layer; S slots, of which the last tokens may have none.
        tokens: (B, L), prompt and completion, L >= S.
        used: (B, L), whether a slot holds a token; padding has none.
        prompt_length: slots of the prompt, its padding included.
        offsets: (B, 1), what positions of text lie beyond the number of tokens before them: a picture takes up fewer
            positions than tokens in models with rotary embeddings in three dimensions.
    """

    layers: list[tuple[Tensor, Tensor]]
    tokens: Tensor
    used: Tensor
    prompt_length: int
    offsets: Tensor

    @torch.no_grad()
    def next_logits(self, model: Any, rows: Sequence[int], kept: Sequence[int],
                    continuations: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (n, V) of what follows n continuations.

        Args:
            model: that wrote this.
            rows: the row that each continues.
            kept: how many tokens of the row's completion come before it.
            continuations: token ids, maybe none.
        """
        device = self.tokens.device
        # the token before the continuation is read again, for there is no logit without a token
        remembered = [self.prompt_length + count - 1 for count in kept]
        fed = [[int(self.tokens[row, slots]), *more] for row, slots, more in zip(rows, remembered, continuations, strict=True)]
        longest = max(map(len, fed))
        tokens = torch.tensor([[0] * (longest - len(each)) + each for each in fed], device=device)
        new = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in fed], device=device)
        index, ends = torch.tensor(list(rows), device=device), torch.tensor(remembered, device=device)
        slots = int(ends.max())
        old = (self.used[index, :slots] & (torch.arange(slots, device=device) < ends[:, None])).long()
        positions = (old.sum(dim=1, keepdim=True) + new.cumsum(dim=1) - 1 + self.offsets[index]) * new
        output = model(input_ids=tokens, attention_mask=torch.cat([old, new], dim=1), position_ids=positions, use_cache=True,
                       logits_to_keep=1, **{_argument(model): self._copy(index, slots)})
        return output.logits[:, -1]

    def _copy(self, index: Tensor, slots: int) -> Any:
        """Return a cache with a row for each index, which the model may add to."""
        from transformers import DynamicCache
        return DynamicCache([(keys[index.to(keys.device), :, :slots], values[index.to(values.device), :, :slots])
                             for keys, values in self.layers])


def memory_of(model: Any, output: Any, tokens: Tensor, prompt_mask: Tensor) -> Memory | None:
    """Return the memory of a batch, or None when the model keeps something else than all keys and values.

    Args:
        model: that has just read or written it.
        output: what its `generate` or `forward` returned.
        tokens: (B, L), prompt and completion.
        prompt_mask: (B, P), 1 where the prompt is no padding.
    """
    from transformers.cache_utils import DynamicLayer
    cache = getattr(output, 'cache', None)
    cache = getattr(output, 'past_key_values', None) if cache is None else cache
    layers = getattr(cache, 'layers', [])
    if not layers or any(type(layer) is not DynamicLayer or layer.keys is None for layer in layers):
        return None  # such as sliding windows, and states of linear attention: their past cannot be left
    written = tokens.new_ones((len(tokens), tokens.shape[1] - prompt_mask.shape[1]), dtype=torch.bool)
    # as the models keep it between the prompt and what follows; others count positions as tokens
    offsets = next((module.rope_deltas for module in model.modules() if getattr(module, 'rope_deltas', None) is not None), None)
    if offsets is None:
        offsets = tokens.new_zeros((len(tokens), 1))
    elif offsets.numel() != len(tokens):
        return None
    return Memory([(layer.keys, layer.values) for layer in layers], tokens, torch.cat([prompt_mask.bool(), written], dim=1),
                  prompt_mask.shape[1], offsets.to(tokens.device).view(len(tokens), 1))


def _argument(model: Any) -> str:
    """Return what the model's `forward` calls the cache; transformers is changing the name."""
    base = model.get_base_model() if hasattr(model, 'get_base_model') else model
    return 'cache' if 'cache' in inspect.signature(base.forward).parameters else 'past_key_values'
