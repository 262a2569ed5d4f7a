"""Which reasoning model to use and how to run it, in one object for commands, analyses and notebooks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.shares import torch_device
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.scorer import ReasoningScorer

OF_A_COMPLETION = ('model', 'prompt', 'rating_range', 'dtype', 'max_pixels', 'max_new_tokens', 'seed')


@dataclass
class ReasonerSettings:
    """A reasoning model and how it is run.

    Attributes:
        model: a folder, or 'owner/name' or 'owner/name:folder' on the hub.
        prompt: question instead of the model's own.
        rating_range: scale of its ratings, for a model whose folder does not say.
        dtype: 'auto', 'float32', 'bfloat16' or 'float16'.
        attn_implementation: transformers' name, such as 'sdpa'.
        device: torch's name of the device; None takes a GPU if there is one.
        max_pixels: larger pictures are made smaller.
        max_new_tokens: longest text.
        batch_size: images at once.
        seed: of sampling.

    Raises:
        OptionError: a number is below 1.
    """

    model: str | os.PathLike
    prompt: str | None = None
    rating_range: Sequence[float] | None = None
    dtype: str = 'auto'
    attn_implementation: str | None = None
    device: str | None = None
    max_pixels: int | None = None
    max_new_tokens: int = 512
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ('max_pixels', 'max_new_tokens', 'batch_size'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f'{name}: {value} must be 1 at least.')

    def of_a_completion(self) -> dict[str, Any]:
        """Return what a greedy completion depends on, as plain values: what a folder of completions is claimed with."""
        values = {name: getattr(self, name) for name in OF_A_COMPLETION}
        return {**values, 'model': str(self.model)}

    def scorer(self, mode: str = 'greedy', num_samples: int = 1) -> ReasoningScorer:
        """Load the model on its device.

        Args:
            mode: how the rating is had; see `ReasoningScorer`.
            num_samples: completions of each picture in mode 'mean'.

        Raises:
            OptionError: a setting cannot be used, such as a device that is not there.
            CheckpointError: the model is not found or cannot be loaded.
        """
        device = torch_device(self.device) or torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        net = ReasoningScorer(str(self.model), mode=mode, num_samples=num_samples, seed=self.seed, dtype=self.dtype,
                              max_new_tokens=self.max_new_tokens, batch_size=self.batch_size, max_pixels=self.max_pixels,
                              attn_implementation=self.attn_implementation, score_prompt=self.prompt,
                              rating_range=self.rating_range)
        return net.to(device)

    def load(self) -> ReasoningModel:
        """Load the model with its card, on its device; errors are those of `scorer`."""
        net = self.scorer()
        net.reasoner.card = net.card
        return net.reasoner
