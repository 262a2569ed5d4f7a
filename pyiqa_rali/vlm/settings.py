"""Which reasoning model to use and how to run it, in one object for commands, analyses and notebooks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.processes import torch_device
from pyiqa_rali.data.training_images import record_beside, told_of
from pyiqa_rali.vlm.chat import what_is_asked
from pyiqa_rali.vlm.decoding import LEFT_TO_CHECKPOINT, RELEASES
from pyiqa_rali.vlm.loading import ReasoningModel, cached_vlm, generation_config_of, load_without_weights
from pyiqa_rali.vlm.prompts import card_for, given_of_card, read_prompts
from pyiqa_rali.vlm.scorer import ReasoningScorer

OF_A_COMPLETION = ('model', 'prompt', 'system_prompt', 'rating_range', 'dtype', 'max_pixels', 'max_new_tokens', 'seed')


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
        max_pixels: larger pictures are scaled down.
        max_new_tokens: longest text.
        batch_size: images at once.
        seed: of sampling.
        system_prompt: system message instead of the model's own.
        prompts: a YAML file with prompts; see `prompts.read_prompts`.
        release: which published model it is, a key of `decoding.RELEASES`.

    Raises:
        OptionError: a number is below 1, or prompts cannot be used.
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
    system_prompt: str | None = None
    prompts: str | os.PathLike | None = None
    release: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers and the prompts, before a model is looked for."""
        for name in ('max_pixels', 'max_new_tokens', 'batch_size'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f'{name}: {value} must be at least 1.')
        given_of_card(self.prompts, **self.given_prompts())

    def of_a_completion(self) -> dict[str, Any]:
        """Return what a greedy completion depends on, as plain values, to claim a folder of completions with."""
        values = {name: getattr(self, name) for name in OF_A_COMPLETION}
        read = {} if self.prompts is None else {'prompts': read_prompts(self.prompts)}
        return {**values, **read, 'model': str(self.model)}

    def scorer(self, mode: str = 'greedy', num_samples: int = 1) -> ReasoningScorer:
        """Load the model on its device.

        Args:
            mode: how the rating is obtained; see `ReasoningScorer`.
            num_samples: completions of each picture in mode 'mean'.

        Raises:
            OptionError: a setting cannot be used, such as a device that does not exist.
            CheckpointError: the model is not found or cannot be loaded.
        """
        device = torch_device(self.device) or torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        net = ReasoningScorer(str(self.model), mode=mode, num_samples=num_samples, seed=self.seed, dtype=self.dtype,
                              max_new_tokens=self.max_new_tokens, batch_size=self.batch_size, max_pixels=self.max_pixels,
                              attn_implementation=self.attn_implementation, release=self.release,
                              prompts=self.prompts, **self.given_prompts())
        return net.to(device)

    def given_prompts(self) -> dict[str, Any]:
        """Return the parts of the model's card that are given, besides the file `prompts`."""
        return {'score_prompt': self.prompt, 'system_prompt': self.system_prompt, 'rating_range': self.rating_range}

    def load_without_weights(self) -> ReasoningModel:
        """Load processor and card alone.

        Raises:
            OptionError: a setting cannot be used.
            CheckpointError: the model is not found, or nothing says on which scale it rates.
        """
        reasoner = load_without_weights(self.model, self.dtype, max_pixels=self.max_pixels)
        reasoner.card = card_for(reasoner.card, reasoner.folder, self.prompts, self.release, **self.given_prompts())
        return reasoner

    def info(self) -> dict[str, Any]:
        """Return what the model will be asked, without its weights and without a download.

        Returns:
            'model', 'trained' (the card's sentence), 'rating_range', 'rating_key', 'training_images' (how many), and what
            `chat.what_is_asked` returns; for a published model also 'release', how its own code decodes and where its prompts
            are. A model that is not on this machine has 'system_prompt' and 'question' instead.

        Raises:
            OptionError: a setting cannot be used.
            CheckpointError: there is no such folder, or the model says nothing about its scale.
        """
        folder = cached_vlm(self.model)
        if folder is None:
            card = card_for(None, self.model, self.prompts, self.release, **self.given_prompts())
            asked: dict[str, Any] = {'system_prompt': card.system_prompt, 'question': card.prompt().question,
                     'chat': 'unknown: the model is not in the cache of the hub; give its folder'}
        else:
            reasoner = replace(self, model=folder).load_without_weights()
            card = reasoner.asked
            asked = what_is_asked(reasoner.processor, card.prompt())
        found: dict[str, Any] = {'model': str(self.model if folder is None else folder), 'trained': card.training,
                                 'rating_range': card.rating_range, 'rating_key': card.rating_key,
                                 'training_images': told_of(None if folder is None else record_beside(folder)), **asked}
        if self.release is not None:
            release = RELEASES[self.release]
            sampling = release.sampling if folder is None else release.sampling.with_values_of(generation_config_of(folder))
            found['release'] = {'decoding (mode: release)': {
                **{name: "the checkpoint's" if name in LEFT_TO_CHECKPOINT and value is None else value
                   for name, value in vars(sampling).items()}, 'max_new_tokens': release.max_new_tokens},
                'prompts': f'{release.prompts_file} of the GitHub repository {release.repository}'}
        return found

    def load(self) -> ReasoningModel:
        """Load the model with its card, on its device; errors are those of `scorer`."""
        net = self.scorer()
        net.reasoner.card = net.card
        return net.reasoner
