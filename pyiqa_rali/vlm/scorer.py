"""The reasoning model as a pyiqa architecture: a vision-language model that writes about quality, and rates it."""

import contextlib
import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import check_choice
from pyiqa_rali.data.decoding import PIXEL_LIMIT
from pyiqa_rali.data.image_files import ReadingOptions, rgb_of
from pyiqa_rali.data.training_images import TrainingImages, record_beside
from pyiqa_rali.model.cascade_rule import load_rule
from pyiqa_rali.model.metric_net import MetricNet
from pyiqa_rali.model.preprocessing import of_any_size_as_rgb_float
from pyiqa_rali.model.sharing import share_as_one_block
from pyiqa_rali.model.value_range import check_range
from pyiqa_rali.vlm.answers import lenient_rating, reasoning_text
from pyiqa_rali.vlm.decoding import RELEASES
from pyiqa_rali.vlm.descriptions import Description, expected_description, mean_description
from pyiqa_rali.vlm.prompts import card_for, given_of_card
from pyiqa_rali.vlm.scorer_options import MODES, SAMPLED_MODES, sampling_of, scale_of, threshold_of

if TYPE_CHECKING:
    from pyiqa_rali.vlm.loading import ReasoningModel

NO_REASONING = '<think>\n\n'  # what a completion begins with when the rating comes at once; the end of it follows


class ReasoningScorer(MetricNet):
    """No-reference score from a vision-language model's rating (Q-Insight, arXiv 2503.22679; VisualQuality-R1, 2505.14460).

    Args:
        pretrained: a folder or hub repository, 'owner/name' or 'owner/name:folder', or a `ReasoningModel` that is loaded
            already; `pretrained_model_path` takes precedence.
        pretrained_model_path: the same; whole weights or a peft adapter.
        mode: 'expectation' (greedy reasoning, then the expectation over the rating's digits; deterministic), 'greedy' (the
            rating as written), 'mean' (of `num_samples` sampled completions), 'release' (one completion, drawn as the code of a
            published model draws it; for the metrics `qinsight` and `visualquality-r1`), 'at_once' (the expectation over the
            rating without any reasoning) or 'adaptive' (at once, and with reasoning where the rating is unsure).
        num_samples: completions for each picture in mode 'mean'.
        temperature: of sampling; None takes 1.
        top_k: of sampling, only so many most likely tokens may follow; None has no bound.
        top_p: of sampling, only the most likely tokens with this probability; None has no bound.
        seed: of sampling; each picture's own seed is derived from it and its pixels.
        resamples: further attempts after a rating that cannot be parsed, before the expectation is taken.
        max_new_tokens: longest completion; None takes 512, or the release's in mode 'release'.
        batch_size: pictures that the model sees at once.
        dtype: 'auto', 'float32', 'bfloat16' or 'float16'.
        attn_implementation: transformers' name, such as 'sdpa' or 'flash_attention_2'.
        device_map: transformers' device map, for models that one device cannot hold.
        min_pixels: smaller pictures are enlarged.
        max_pixels: larger ones are scaled down, which bounds the number of image tokens.
        score_prompt: asked instead of the prompt in the model's own card.
        system_prompt: the system message, instead of the one in the card; without either, the chat template decides (`info`
            shows what it inserts).
        prompts: a YAML file with `score_prompt`, `system_prompt` and other keys of a card.
        rating_range: the scale of its ratings; needed when the model has no card.
        mos_range: map the ratings linearly to this range; None returns them on their own scale.
        lower_better: with `mos_range`, whether its low end means good quality.
        release: which published model it is, a key of `decoding.RELEASES`.
        threshold: in mode adaptive: reason where the standard deviation of the rating, at once, is above this; or `share`.
        share: in mode adaptive: reason where it is above that of this share of the validation images of `rule`.
        rule: in mode adaptive: file that `pyiqa-rali cascade` has written for this model in the modes at_once and expectation;
            it brings ratings after reasoning to the scale of those at once. With a threshold it may be left out: ratings then
            stay as they are.
        upright: turn pictures that are given as files or by Pillow as their EXIF orientation says.
        pixel_limit: refuse such pictures with more pixels than this.
        revision: branch, tag or commit, for a model from the hub.

    Raises:
        CheckpointError: the model cannot be found or loaded.
        OptionError: an argument has a value that cannot be used.
    """

    def __init__(self, pretrained: 'str | ReasoningModel | None' = None, pretrained_model_path: str | os.PathLike | None = None,
                 mode: str = 'expectation', num_samples: int = 5, temperature: float | None = None, top_k: int | None = None,
                 top_p: float | None = None, seed: int = 0, resamples: int = 2, max_new_tokens: int | None = None,
                 batch_size: int = 8, dtype: str = 'auto', attn_implementation: str | None = None,
                 device_map: str | dict | None = None, min_pixels: int | None = None, max_pixels: int | None = None,
                 score_prompt: str | None = None, system_prompt: str | None = None,
                 prompts: str | os.PathLike | None = None, rating_range: Sequence[float] | None = None,
                 mos_range: Sequence[float] | None = None, lower_better: bool | None = None, release: str | None = None,
                 threshold: float | None = None, share: float | None = None, rule: str | os.PathLike | None = None,
                 upright: bool = True, pixel_limit: int = PIXEL_LIMIT, revision: str | None = None):
        super().__init__()
        self.reading = ReadingOptions(upright, pixel_limit)
        check_choice('mode', mode, MODES)
        check_choice('release', release, (None, *RELEASES))
        self.sampling, longest = sampling_of(mode, release, temperature=temperature, top_k=top_k, top_p=top_p)
        max_new_tokens = longest if max_new_tokens is None else max_new_tokens
        for name, value in (('num_samples', num_samples), ('batch_size', batch_size), ('max_new_tokens', max_new_tokens)):
            if not isinstance(value, int) or value < 1:
                raise OptionError(f'{name}: {value!r} must be a whole number of at least 1.')
        self.mode, self.num_samples, self.seed = mode, num_samples, seed
        self.resamples, self.max_new_tokens, self.batch_size = resamples, max_new_tokens, batch_size
        self.spread = device_map is not None
        source: Any = pretrained_model_path if pretrained_model_path is not None else pretrained
        if source in (None, True, False):
            raise OptionError('pretrained_model_path: must name a folder, or a hub repository as owner/name, of a '
                              'vision-language model. There is no default.')
        own = {'score_prompt': score_prompt, 'system_prompt': system_prompt, 'rating_range': rating_range}
        given_of_card(prompts, **own)  # before gigabytes are looked for
        from pyiqa_rali.vlm.loading import ReasoningModel, load_vlm
        if not isinstance(source, ReasoningModel):  # a model that is passed in may be in training
            source = load_vlm(source, dtype, attn_implementation, device_map, min_pixels, max_pixels, revision=revision)
            source.model.requires_grad_(False)  # no gradient passes through a text
        self._reasoner = _Hidden(source)
        self.model = self.reasoner.model
        self.card = card_for(source.card, source.folder, prompts, release, **own)
        self.scale = scale_of(mos_range, lower_better)
        self.failures = 0
        self.rule = None if rule is None else load_rule(rule)
        self.threshold = threshold_of(mode, threshold, share, self.rule)
        self.counts = {'scored': 0, 'reasoned': 0}

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, revision: str | None = None, **options: Any) -> 'ReasoningScorer':
        """Return the scorer of a folder, or of a repository on the hub.

        Args:
            source: a folder, 'owner/name' or 'owner/name:folder'.
            revision: branch, tag or commit of a repository: a commit pins the weights.
            options: of the constructor.

        Raises:
            CheckpointError, OptionError: as the constructor.
        """
        return cls(pretrained_model_path=source, revision=revision, **options)

    @property
    def reasoner(self) -> Any:
        """The `ReasoningModel`: model, processor, card and folder."""
        return self._reasoner.value

    @property
    def training_images(self) -> TrainingImages | None:
        """The record of the images that the model was trained on; None where its folder keeps none.

        Raises:
            CheckpointError: it cannot be read.
        """
        return record_beside(self.reasoner.folder)

    @property
    def score_range(self) -> str:
        """The range of the scores as pyiqa writes it, such as '1, 5'."""
        low, high = self.scale.mos_range if self.scale else self.card.rating_range
        return f'{low:g}, {high:g}'

    @property
    def lower_better(self) -> bool:
        """Whether low scores mean good quality."""
        return bool(self.scale and self.scale.lower_better)

    @property
    def info(self) -> dict[str, Any]:
        """What the model is asked and how it answers.

        Returns:
            'model', 'system_prompt' (the one that the model sees, or None), 'system_prompt_from', 'chat' (as the model
            reads it), 'rating_range', 'rating_key', 'mode', 'decoding' and 'max_new_tokens'.
        """
        from pyiqa_rali.vlm.chat import what_is_asked
        sampled = vars(self.sampling.with_values_of(self.model.generation_config))
        return {'model': str(self.reasoner.folder), **what_is_asked(self.reasoner.processor, self.card.prompt()),
                'rating_range': self.card.rating_range, 'rating_key': self.card.rating_key, 'mode': self.mode,
                'decoding': sampled if self.mode in SAMPLED_MODES else 'greedy', 'max_new_tokens': self.max_new_tokens}

    def train(self, mode: bool = True) -> 'ReasoningScorer':
        """Leave the mode as it is when a surrounding model is trained: it never changes scores."""
        return self if mode else super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, 1), float32; NaN where no rating was obtained.

        Args:
            images: (N, 3 or 1, H, W) in [0, 1] of any float type, or uint8 or uint16.

        Raises:
            OptionError: a gradient is requested, and none can flow to the pixels, because the score is read from a text.
        """
        if torch.is_grad_enabled() and images.requires_grad:
            raise OptionError('as_loss: a reasoning model cannot be a loss: its score is read from a text, and no gradient '
                              'flows to the pixels. Use rali or rali-lite.')
        ratings = [each.rating for each in self.describe(images)]
        failed = sum(rating != rating for rating in ratings)
        if failed:
            self.failures += failed
            warnings.warn(f'{failed} of {len(ratings)} pictures have NO SCORE (NaN): no rating could be read from the '
                          f'completions; {self.failures} so far.', stacklevel=2)
        scores = [self._to_mos(rating) for rating in ratings]
        return torch.tensor(scores, dtype=torch.float32, device=images.device).unsqueeze(1)

    def describe(self, images: Tensor | Sequence[Image.Image]) -> list[Description]:
        """Return reasoning text, rating and how it was read, for each picture.

        Args:
            images: (N, 3 or 1, H, W) in [0, 1], uint8 or uint16, or pictures of Pillow.

        Raises:
            UnreadableImage: a picture of Pillow cannot be decoded, or its pixels have no known range.
        """
        pictures = (to_pil(images) if torch.is_tensor(images)
                    else [Image.fromarray(rgb_of(image, self.reading)) for image in images])
        found = []
        with _undisturbed(self.model):
            for start in range(0, len(pictures), self.batch_size):
                found += self._describe_batch(pictures[start:start + self.batch_size])
        return found

    def scores_and_spreads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N,) and their standard deviations (N,), in the unit of the scores, in the mode at_once."""
        found = self.describe(images)
        low, high = self.card.rating_range
        unit = 1.0 if self.scale is None else (self.scale.mos_range[1] - self.scale.mos_range[0]) / (high - low)
        return (torch.tensor([self._to_mos(each.rating) for each in found], device=images.device),
                torch.tensor([each.spread * unit for each in found], device=images.device))

    def _apply(self, *args: Any, **kwargs: Any) -> 'ReasoningScorer':
        """Move or cast the model, unless a device map has placed it already."""
        return self if self.spread else super()._apply(*args, **kwargs)

    def _describe_batch(self, pictures: list[Image.Image]) -> list[Description]:
        if self.mode in SAMPLED_MODES:
            return self._mean_of_samples(pictures, self.num_samples if self.mode == 'mean' else 1)
        if self.mode in ('at_once', 'adaptive'):
            found = self._at_once(pictures)
            return self._with_reasoning(pictures, found) if self.mode == 'adaptive' else found
        return self._reasoned(pictures)

    def _at_once(self, pictures: list[Image.Image]) -> list[Description]:
        """Return each picture's expected rating when the model may not reason."""
        from pyiqa_rali.vlm.ratings import ratings_and_spreads
        begun = self.reasoner.processor.tokenizer.encode(NO_REASONING, add_special_tokens=False)
        found = ratings_and_spreads(self.reasoner, pictures, self.card.prompt(), [begun] * len(pictures), self.card.bounds,
                                    self.card.rating_key, self.batch_size)
        return [Description('', rating, 'failed' if math.isnan(rating) else 'at_once', '', spread) for rating, spread in found]

    def _with_reasoning(self, pictures: list[Image.Image], found: list[Description]) -> list[Description]:
        """Let the model reason about pictures whose rating is unsure, or that have none at once."""
        unsure = [place for place, each in enumerate(found) if not each.spread <= self.threshold]  # NaN too
        self.counts['scored'] += len(found)
        self.counts['reasoned'] += len(unsure)
        for place, each in zip(unsure, self._reasoned([pictures[place] for place in unsure]) if unsure else [], strict=True):
            if each.status != 'failed' and self.rule is not None:
                low, high = self.card.rating_range
                rating = float(self.rule.mapped(torch.tensor([each.rating], dtype=torch.float64)))
                each.rating = min(max(rating, low), high)
            each.spread = found[place].spread
            if each.status != 'failed' or found[place].status == 'failed':
                found[place] = each
        return found

    def _reasoned(self, pictures: list[Image.Image]) -> list[Description]:
        """Return what the model says of each picture after its reasoning, read as the mode says."""
        if self.mode in ('expectation', 'adaptive'):
            completions, memory = self._complete_and_remember(pictures)
            ratings = self._expect(pictures, completions, memory)
            return [expected_description(text, rating) for text, rating in zip(self._decode(completions), ratings, strict=True)]
        completions = self._complete(pictures, None)
        found = [self._read(text, 'parsed') for text in self._decode(completions)]
        return self._with_ratings(pictures, found, completions)

    def _mean_of_samples(self, pictures: list[Image.Image], count: int) -> list[Description]:
        """Return each picture's mean rating; text and completion are those of its first sample with a rating."""
        samples = []
        for number in range(count):
            completions = self._complete(pictures, number)
            samples.append(self._with_ratings(pictures, [self._read(text, 'parsed') for text in self._decode(completions)],
                                        completions, number))
        return [mean_description([row[position] for row in samples]) for position in range(len(pictures))]

    def _with_ratings(self, pictures: list[Image.Image], found: list[Description], completions: list[list[int]],
                sample: int = 0) -> list[Description]:
        """Sample again where there is no rating, then take the expectation."""
        for attempt in range(1, self.resamples + 1):
            missing = [position for position, each in enumerate(found) if each.status == 'failed']
            if not missing:
                return found
            again = self._complete([pictures[position] for position in missing], sample, attempt)
            for position, text in zip(missing, self._decode(again), strict=True):
                found[position] = self._read(text, 'resampled')
        missing = [position for position, each in enumerate(found) if each.status == 'failed']
        if missing:
            left = [completions[position] for position in missing]
            ratings = self._expect([pictures[position] for position in missing], left)
            for position, text, rating in zip(missing, self._decode(left), ratings, strict=True):
                found[position] = expected_description(text, rating)
        return found

    def _read(self, text: str, status: str) -> Description:
        rating = lenient_rating(text, self.card.bounds, self.card.rating_key)
        return Description(reasoning_text(text), float('nan') if rating is None else rating,
                           'failed' if rating is None else status, text)

    def _complete(self, pictures: list[Image.Image], sample: int | None, attempt: int = 0) -> list[list[int]]:
        from pyiqa_rali.core.seeds import derived_seed
        from pyiqa_rali.vlm.generation import complete
        seeds = None if sample is None else [derived_seed(self.seed, digest(picture), sample, attempt) for picture in pictures]
        return complete(self.reasoner, pictures, self.card.prompt(), self.max_new_tokens, seeds, self.sampling)

    def _complete_and_remember(self, pictures: list[Image.Image]) -> tuple[list[list[int]], Any]:
        from pyiqa_rali.vlm.generation import complete_and_remember
        return complete_and_remember(self.reasoner, pictures, self.card.prompt(), self.max_new_tokens)

    def _expect(self, pictures: list[Image.Image], completions: list[list[int]], memory: Any = None) -> list[float]:
        from pyiqa_rali.vlm.ratings import expected_ratings
        return expected_ratings(self.reasoner, pictures, self.card.prompt(), completions,
                                self.card.bounds, self.card.rating_key, self.batch_size, memory)

    def _decode(self, completions: list[list[int]]) -> list[str]:
        from pyiqa_rali.vlm.generation import decode
        return [decode(self.reasoner, completion) for completion in completions]

    def _to_mos(self, rating: float) -> float:
        if self.scale is None:
            return rating
        low, high = self.card.rating_range
        return self.scale.denormalise((rating - low) / (high - low))


class _Hidden:
    """Keeps model and processor together without registering the model a second time."""

    def __init__(self, value: Any):
        self.value = value


def to_pil(images: Tensor) -> list[Image.Image]:
    """Return (N, 3 or 1, H, W) pictures, in [0, 1], uint8 or uint16, as 8-bit RGB.

    Raises:
        OptionError: the shape is wrong, or values are not in [0, 1] (see `model.value_range`).
    """
    pixels = of_any_size_as_rgb_float(images.detach()) * 255
    check_range(images, finite=True)
    pixels = pixels.clamp(0, 255).round().to(torch.uint8).cpu()
    return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]


def digest(picture: Image.Image) -> int:
    """Return a number that depends on a picture's size and pixels."""
    content = repr(picture.size).encode() + picture.tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], 'little')


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Generate as for scoring, whatever the surroundings: without dropout, and in the weights' own precision."""
    training, kind = model.training, next(model.parameters()).device.type
    plain = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()
    if training:
        model.eval()
    try:
        with plain:
            yield
    finally:
        if training:
            model.train()


share_as_one_block(ReasoningScorer)
