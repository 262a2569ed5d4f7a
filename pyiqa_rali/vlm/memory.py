"""What a model has already read: its keys and values, from which many continuations start without reading again.

A rating's probability is needed after every beginning that it may have. Reading picture, question and reasoning again for each
would take many times as long as writing did. So the beginnings form a tree on top of what was read: all of the same length are
read in one pass, and each sees what was read, its own ancestors and itself.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_AT_ONCE = 512  # branches that are read in one pass: each has logits for the whole vocabulary
MASKED = ('eager', 'sdpa')  # attention implementations that accept any mask


@dataclass
class Memory:
    """Keys and values of a batch, one row for each picture, in the order in which the tokens were read.

    Attributes:
        layers: keys and values (B, heads, S, width) of each layer; the last tokens may have none of the S slots.
        tokens: (B, L), prompt and completion, L >= S.
        used: (B, L), whether a slot holds a token; padding has none.
        prompt_length: slots of the prompt, its padding included.
        offsets: (B, 1), the difference between a text token's position and the number of tokens before it: in models with
            three-dimensional rotary embeddings a picture takes up fewer positions than tokens.
    """

    layers: list[tuple[Tensor, Tensor]]
    tokens: Tensor
    used: Tensor
    prompt_length: int
    offsets: Tensor


class Branches:
    """Continuations of what a model remembers: one stem for each row, and a tree of branches on each.

    Args:
        model: the one that wrote the memory.
        memory: of a batch.
        kept: for each row, how many tokens of its completion are left as they are.
        pending: for each row, tokens that follow these instead of what the model wrote.
        reduced: reduces logits (..., V) to what is needed of them, before those of many branches are held at once.
    """

    def __init__(self, model: Any, memory: Memory, kept: Sequence[int], pending: Sequence[Sequence[int]],
                 reduced: Callable[[Tensor], Tensor]):
        from transformers import DynamicCache
        self.model, self.reduced, device = model, reduced, memory.tokens.device
        # the last token that is kept is read again, because logits come with a token
        ends = [memory.prompt_length + count - 1 for count in kept]
        slots = max(ends)
        self.cache = DynamicCache([(keys[:, :, :slots], values[:, :, :slots]) for keys, values in memory.layers])
        stems = [[int(memory.tokens[row, end]), *more] for row, (end, more) in enumerate(zip(ends, pending, strict=True))]
        remembered = memory.used[:, :slots] & (torch.arange(slots, device=device) < torch.tensor(ends, device=device)[:, None])
        starts = (remembered.sum(dim=1, keepdim=True) + memory.offsets).flatten().tolist()
        self._seen_by_all = remembered
        found = self._read(stems, [list(range(start, start + len(stem))) for start, stem in zip(starts, stems, strict=True)],
                           [[list(range(slots, slots + place + 1)) for place in range(len(stem))] for stem in stems])
        lengths = torch.tensor([len(stem) for stem in stems], device=device)
        self._of_stems = found[torch.arange(len(stems)), lengths.cpu() - 1]
        inside = torch.arange(int(lengths.max()), device=device) < lengths[:, None]  # shorter stems are padded on the right
        self._seen_by_all = torch.cat([remembered, inside], dim=1)
        # for each row and path: the slots of its tokens, and the position of the next one
        self._known: list[dict[tuple[int, ...], tuple[list[int], int]]] = [
            {(): ([], start + len(stem))} for start, stem in zip(starts, stems, strict=True)]

    def following(self, rows: Sequence[int], paths: Sequence[tuple[int, ...]]) -> Tensor:
        """Return what `reduced` makes of the logits of what follows some branches, (n, ...) on the CPU.

        Args:
            rows: the row of each.
            paths: the tokens of each after the stem, all of the same length; each path without its last token must have been
                asked about before.
        """
        if not paths[0]:
            return self._of_stems[list(rows)]
        found: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        left = [[path for row_of, path in zip(rows, paths, strict=True) if row_of == row] for row in range(len(self._known))]
        widest = max(1, MOST_AT_ONCE // len(left))
        while any(left):
            part, left = [each[:widest] for each in left], [each[widest:] for each in left]
            read = self._grow(part)
            found.update({(row, path): read[row, place] for row, each in enumerate(part) for place, path in enumerate(each)})
        return torch.stack([found[row, path] for row, path in zip(rows, paths, strict=True)])

    def _grow(self, paths: list[list[tuple[int, ...]]]) -> Tensor:
        """Read the last tokens of some paths of each row; return what is needed of their logits, (B, most, ...)."""
        length = self.cache.get_seq_length()
        positions: list[list[int]] = []
        slots: list[list[list[int]]] = []
        for known, own in zip(self._known, paths, strict=True):
            parents = [known[path[:-1]] for path in own]
            positions.append([position for _, position in parents])
            slots.append([[*before, length + place] for place, (before, _) in enumerate(parents)])
            known.update({path: (seen, position + 1) for path, seen, position in
                          zip(own, slots[-1], positions[-1], strict=True)})
        return self._read([[path[-1] for path in own] for own in paths], positions, slots)

    @torch.no_grad()
    def _read(self, tokens: list[list[int]], positions: list[list[int]], slots: list[list[list[int]]]) -> Tensor:
        """Let the model read tokens, which stay in the cache; return what is needed of their logits, (B, most, ...).

        Args:
            tokens: for each row; rows are padded on the right to the same length.
            positions: of these.
            slots: those that each of them sees, including its own, besides the ones that all tokens of its row see.
        """
        most, length, device = max(map(len, tokens)), self.cache.get_seq_length(), self._seen_by_all.device
        visible = torch.zeros(len(tokens), most, length + most, dtype=torch.bool, device=device)
        visible[:, :, :self._seen_by_all.shape[1]] = self._seen_by_all[:, None]
        marks = [(row, place, slot) for row, own in enumerate(slots) for place, seen in enumerate(own) for slot in seen]
        visible[tuple(torch.tensor(marks, device=device).T)] = True
        dtype = next(self.model.parameters()).dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, torch.finfo(dtype).min)
        ids, spots = (torch.tensor([each + [0] * (most - len(each)) for each in values], device=device)
                      for values in (tokens, positions))
        with _any_mask(self.model):
            logits = self.model(input_ids=ids, attention_mask=mask[:, None], position_ids=spots, use_cache=True,
                                **{_argument(self.model): self.cache}).logits
        return self.reduced(logits).cpu()


def memory_of(model: Any, output: Any, tokens: Tensor, prompt_mask: Tensor) -> Memory | None:
    """Return the memory of a batch, or None when the model keeps anything other than all keys and values.

    Args:
        model: that has just read or written it.
        output: what its `generate` or `forward` returned.
        tokens: (B, L), prompt and completion.
        prompt_mask: (B, P), 1 where the prompt is not padding.
    """
    from transformers.cache_utils import DynamicLayer
    cache = getattr(output, 'cache', None)
    cache = getattr(output, 'past_key_values', None) if cache is None else cache
    layers = getattr(cache, 'layers', [])
    if not layers or any(type(layer) is not DynamicLayer or layer.keys is None for layer in layers):
        return None  # such as sliding windows and states of linear attention, which cannot be rewound
    written = tokens.new_ones((len(tokens), tokens.shape[1] - prompt_mask.shape[1]), dtype=torch.bool)
    # as the models keep it between the prompt and what follows; others count positions as tokens
    offsets = next((module.rope_deltas for module in model.modules() if getattr(module, 'rope_deltas', None) is not None), None)
    if offsets is None:
        offsets = tokens.new_zeros((len(tokens), 1))
    elif offsets.numel() != len(tokens):
        return None
    return Memory([(layer.keys, layer.values) for layer in layers], tokens, torch.cat([prompt_mask.bool(), written], dim=1),
                  prompt_mask.shape[1], offsets.to(tokens.device).view(len(tokens), 1))


@contextlib.contextmanager
def _any_mask(model: Any) -> Iterator[None]:
    """Compute attention in a way that accepts any mask, for as long as the block runs."""
    base = _base(model)
    before = base.config.get_text_config()._attn_implementation
    if before in MASKED:
        yield
        return
    base.set_attn_implementation({'text_config': 'sdpa'})
    try:
        yield
    finally:
        base.set_attn_implementation({'text_config': before})


def _argument(model: Any) -> str:
    """Return the name of the cache in the model's `forward`; transformers is changing it."""
    return 'cache' if 'cache' in inspect.signature(_base(model).forward).parameters else 'past_key_values'


def _base(model: Any) -> Any:
    """Return the model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, 'get_base_model') else model
