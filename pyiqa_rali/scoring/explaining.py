"""Explanations of many images: a metric that can explain, and one result for every image."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError, first_line
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.model.explanation import NO_BANK, NUM_BASIS, NUM_TEXTS, Explanation, check_counts
from pyiqa_rali.model.prompt_scorer import NO_ALIGNMENT
from pyiqa_rali.model.quality_map import QualityMap
from pyiqa_rali.scoring.entries import ImageEntry, read_entry
from pyiqa_rali.scoring.further import Prompts
from pyiqa_rali.scoring.metrics import make_metric

RALI = {'metric_opts': {'type': 'RALI'}}  # a name that pyiqa does not know is rejected where the metric is created


@dataclass(frozen=True)
class Interval:
    """An interval around a score.

    Attributes:
        low: its lower end, in the unit of the score.
        high: its upper end.
        coverage: share of the images like those of its calibration whose MOS lies within.
        unlike: whether the image is unlike those: the coverage is then unknown.
    """

    low: float
    high: float
    coverage: float
    unlike: bool


@dataclass(frozen=True)
class Aligned:
    """How well a generated picture agrees with the prompt that it was made from.

    Attributes:
        prompt: of the picture.
        alignment: in the unit of the training MOS of alignment.
        agreement: in [0, 1], that it comes from.
    """

    prompt: str
    alignment: float
    agreement: float


@dataclass(frozen=True)
class ExplainedImage:
    """The explanation of one image's score, or why it has none.

    Attributes:
        image: path of the file, or `shard.tar::member`.
        explanation: None when there is none.
        error: why there is none; empty otherwise.
        quality_map: where the image is good and bad; None unless it was asked for.
        interval: around the score; None where the checkpoint has none.
        aligned: with its prompt; None unless prompts were given.
    """

    image: str
    explanation: Explanation | None = None
    error: str = ''
    quality_map: QualityMap | None = None
    interval: 'Interval | None' = None
    aligned: 'Aligned | None' = None


def make_explainer(metric: str | None, weights: str | None, device: str | None) -> Any:
    """Make a metric that can explain.

    Args:
        metric: its name; None takes rali-lite, with weights rali.
        weights: file or folder of an export.
        device: torch's name of the device; None takes a GPU if there is one.

    Raises:
        OptionError: the metric is of another architecture.
        CheckpointError: its checkpoint has no text bank.
    """
    made = make_rali(metric, weights, device)
    if made.net.bank is None:
        raise CheckpointError(f'{weights or made.metric_name}: {NO_BANK}')
    return made


def make_rali(metric: str | None, weights: str | None, device: str | None) -> Any:
    """Make a metric whose net is a RALI, as maps of quality need it; a text bank it need not have.

    Args:
        metric: its name; None takes rali-lite, with weights rali.
        weights: file or folder of an export.
        device: torch's name of the device; None takes a GPU if there is one.

    Raises:
        OptionError: the metric is of another architecture.
        CheckpointError: the weights cannot be used.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    name = metric or ('rali' if weights else 'rali-lite')
    if DEFAULT_CONFIGS.get(name, RALI)['metric_opts']['type'] != 'RALI':
        raise OptionError(f'--metric: "{name}" has no basis and no text bank; only rali and rali-lite explain their scores.')
    return make_metric(name, weights, device)


def explain_entries(metric: Any, images: Iterable[ImageEntry], num_texts: int = NUM_TEXTS, num_basis: int = NUM_BASIS,
                    reading: ReadingOptions = READING,
                    with_map: bool = False,
                    prompts: Prompts | None = None) -> Iterator[tuple[ExplainedImage, np.ndarray | None]]:
    """Explain images one by one, in their order.

    Args:
        metric: of `make_explainer`.
        images: entries of `ImageSources`.
        num_texts: nearest texts.
        num_basis: basis vectors.
        reading: how pictures are read.
        with_map: whether where an image is good and bad is told too.
        prompts: of the images, to tell the alignment with them too; one without a prompt cannot be explained.

    Yields:
        The explanation and the pixels (H, W, 3) that it belongs to; None for a picture that cannot be explained.

    Raises:
        OptionError: fewer than one text or basis vector is asked for.
        CheckpointError: there are prompts, and the checkpoint has no alignment with them.
    """
    from pyiqa_rali.data.synthetic.dataset import as_tensor
    check_counts(num_texts, num_basis)
    if prompts is not None and metric.net.prompts is None:
        raise CheckpointError(NO_ALIGNMENT)
    device = next(metric.net.parameters()).device
    for entry in images:
        try:
            pixels = read_entry(entry, reading)
            pictures = as_tensor([pixels]).to(device)
            found = metric.net.explain(pictures, num_texts, num_basis)[0]
            where, interval = map_of(metric.net, pictures) if with_map else None, interval_of(metric.net, pictures)
            aligned = None if prompts is None else aligned_of(metric.net, pictures, prompts.prompt_of(entry.name))
        except UnreadableImage as error:
            yield ExplainedImage(entry.name, None, error.reason), None
        except (ValueError, RuntimeError, DataError) as error:  # such as a picture that is too small, or without a prompt
            yield ExplainedImage(entry.name, None, first_line(error)), None
        else:
            yield ExplainedImage(entry.name, found, quality_map=where, interval=interval, aligned=aligned), pixels


def interval_of(net: Any, pictures: Any) -> Interval | None:
    """Return the interval around the score of a picture (1, 3, H, W); None where the checkpoint of a net has none."""
    if net.interval is None:
        return None
    found = net.score_with_interval(pictures)
    return Interval(float(found.low), float(found.high), found.coverage, bool(found.unlike))


def aligned_of(net: Any, pictures: Any, prompt: str) -> Aligned:
    """Return how well a picture (1, 3, H, W) agrees with its prompt, by a net that can tell."""
    found = net.score_with_prompts(pictures, prompt)
    return Aligned(prompt, float(found.alignment), float(found.agreement))


def map_of(net: Any, pictures: Any) -> QualityMap:
    """Return where a picture (1, 3, H, W) is good and bad.

    Args:
        net: a RALI.
        pictures: as it takes them.

    Raises:
        OptionError: its encoder has no positions.
    """
    return QualityMap(net.quality_map(pictures)[0].tolist(), net.map_region(*pictures.shape[-2:]))


def bank_votes(metric: Any) -> Callable[[np.ndarray], list[tuple[str, float, float | None]]]:
    """Return what asks a metric's text bank about a picture: (class, share of the vote, level) of each class, largest first.

    Args:
        metric: of `make_explainer`.
    """
    from pyiqa_rali.data.synthetic.dataset import as_tensor
    device = next(metric.net.parameters()).device

    def votes(pixels: np.ndarray) -> list[tuple[str, float, float | None]]:
        found = metric.net.explain(as_tensor([pixels]).to(device), 1, 1)[0]
        return [(vote.distortion, vote.share, vote.level) for vote in found.votes]
    return votes
