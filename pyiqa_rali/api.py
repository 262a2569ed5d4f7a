"""What the commands do, as functions for notebooks and programs: typed arguments in, objects out, nothing printed.

Training and evaluation take their options as objects of the same classes that option files are read into; see
`pyiqa_rali.__all__` for all names. Everything heavy is imported by the function that needs it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options import OptionSource, values_of

if TYPE_CHECKING:
    from pyiqa_rali.data.image_files import ReadingOptions
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.scoring.explaining import ExplainedImage
    from pyiqa_rali.scoring.score_table import ImageScore

READERS = {'RALI': 'training.rali.options:train_options', 'GRPO': 'training.vlm.options:grpo_options',
           'SFT': 'training.vlm.options:sft_options', 'RACT': 'training.vlm.ract:ract_options',
           'CHAIN': 'studies.chain.options:chain_options', 'EVALUATE': 'evaluation.options:evaluate_options',
           'ABLATION': 'studies.ablation.plan:ablation_options'}


@dataclass(frozen=True)
class Scores:
    """The scores of images, in the order of the input; no image is left out.

    Attributes:
        metric: what tables call the metric: its name, its weights and a digest of them, its options.
        score_range: of the metric, as pyiqa writes it: '1, 5', or '~1, ~5' when scores can exceed the ends a little.
        lower_better: whether low scores mean good quality.
        images: the score of each image, or why it has none.
        empty: the folders, lists, globs and shards in which no image was found.
    """

    metric: str
    score_range: str
    lower_better: bool
    images: list['ImageScore']
    empty: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The path of each image, or `shard.tar::member`."""
        return [each.image for each in self.images]

    @property
    def scores(self) -> list[float | None]:
        """The score of each image; None where there is none."""
        return [each.score for each in self.images]

    @property
    def errors(self) -> dict[str, str]:
        """Why images have no score, by the name of each that has none."""
        return {each.image: each.error for each in self.images if each.score is None}

    @property
    def intervals(self) -> list[tuple[float, float] | None]:
        """Both ends of the interval of each image; None where there is none."""
        return [(each.further['low'], each.further['high']) if 'low' in each.further else None for each in self.images]

    def rows(self) -> list[dict[str, Any]]:
        """Return image, score, further columns and error of each image, for `pandas.DataFrame`."""
        return [{'image': each.image, 'score': each.score, **each.further, 'error': each.error} for each in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> 'Iterator[ImageScore]':
        return iter(self.images)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of RALI, loaded.

    Attributes:
        net: the network: pictures (N, 3, H, W) in [0, 1] to scores (N, 1).
        metadata: what it says about itself: encoder, MOS range and direction, training, versions, licence.
        path: the file.
    """

    net: 'RALI'
    metadata: dict[str, Any]
    path: Path


def score(images: str | os.PathLike | Iterable[str | os.PathLike], metric: Any = None, weights: str | os.PathLike | None = None,
          *, device: str | None = None, batch_size: int | None = None, workers: int | None = None,
          reading: 'ReadingOptions | None' = None, interval: float | None = None, **options: Any) -> Scores:
    """Score images, as `pyiqa-rali score` does.

    Args:
        images: one or several of the following: an image, a folder (all images below it), a glob, a tar shard, `@FILE` (a
            list).
        metric: name of a no-reference metric of pyiqa, or a metric from `pyiqa.create_metric`; None takes 'rali-lite',
            with weights 'rali'.
        weights: file or folder of an export, for a metric by name.
        device: for a metric by name: such as 'cpu' or 'cuda:1'; None takes a GPU if there is one.
        batch_size: images in one pass; None chooses what suits the device.
        workers: processes; None chooses what suits the device.
        reading: how pictures are read; None turns them upright.
        interval: also compute intervals that hold the MOS of so many images in a hundred, such as 90; see `Scores.intervals`.
        options: of the metric's architecture, for a metric by name, such as precision='bf16'.

    Raises:
        FileNotFoundError: a list, or everything that is named, does not exist.
        OptionError: a metric or an option cannot be used, or a glob matches nothing.
        CheckpointError: the weights cannot be loaded, or have no interval.
    """
    from pyiqa_rali.core.messages import progress_bar
    from pyiqa_rali.data.image_files import READING
    from pyiqa_rali.scoring.engine import score_files, suitable_sizes
    from pyiqa_rali.scoring.further import IntervalColumns, with_labels
    from pyiqa_rali.scoring.metrics import MANY, make_metric, metric_label, with_fastest_backend
    from pyiqa_rali.scoring.sources import ImageSources
    sources = ImageSources(_words(images))
    entries = list(sources)
    if metric is None or isinstance(metric, str):
        name, path = metric or ('rali' if weights else 'rali-lite'), None if weights is None else os.fspath(weights)
        made = make_metric(name, path, device, options)
        label = metric_label(name, path, with_fastest_backend(made, options, may_export=len(entries) >= MANY), made)
    else:
        _refuse_for_made_metric(weights=weights, device=device, **options)
        made, label = metric, str(getattr(metric, 'metric_name', type(metric).__name__))
    further = [] if interval is None else [IntervalColumns(interval)]
    for each in further:
        each.check(made, label)
    label = with_labels(label, further)
    found: list[ImageScore] = []
    with progress_bar(total=len(entries), desc=f'scores: {label}', unit='image') as bar:
        for window in score_files(entries, made, *suitable_sizes(made, batch_size, workers), reading=reading or READING,
                                  further=further):
            found += window
            bar.update(len(window))
    return Scores(label, str(made.score_range), bool(made.lower_better), found, sources.empty)


def explain(images: str | os.PathLike | Iterable[str | os.PathLike], metric: str | None = None,
            weights: str | os.PathLike | None = None, *, device: str | None = None, num_texts: int = 3, num_basis: int = 5,
            reading: 'ReadingOptions | None' = None, with_map: bool = False) -> list['ExplainedImage']:
    """Explain the scores of images, as `pyiqa-rali explain` does: nearest texts, distortions, basis, uncertainty.

    Args:
        images: see `score`.
        metric: 'rali-lite' or 'rali'; None takes 'rali-lite', with weights 'rali'.
        weights: file or folder of an export with a text bank.
        device: such as 'cpu' or 'cuda:1'; None takes a GPU if there is one.
        num_texts: nearest texts of each image.
        num_basis: basis vectors with the largest weights.
        reading: how pictures are read; None turns them upright.
        with_map: whether each has a map of where it is good and bad too (see `RALI.quality_map`).

    Returns:
        The explanation of each image, or why it has none, in the order of the input.

    Raises:
        FileNotFoundError: a list, or everything that is named, does not exist.
        OptionError: an argument cannot be used, or the metric cannot explain its scores.
        CheckpointError: the weights cannot be loaded, or have no text bank.
    """
    from pyiqa_rali.core.messages import progress_bar
    from pyiqa_rali.data.image_files import READING
    from pyiqa_rali.scoring.explaining import explain_entries, make_explainer
    from pyiqa_rali.scoring.sources import ImageSources
    entries = list(ImageSources(_words(images), once=False))
    made = make_explainer(metric, None if weights is None else os.fspath(weights), device)
    found = explain_entries(made, entries, num_texts, num_basis, reading or READING, with_map)
    return [explained for explained, _ in progress_bar(found, total=len(entries), desc='explain', unit='image')]


def load_checkpoint(source: str | os.PathLike, revision: str | None = None, **options: Any) -> Checkpoint:
    """Load a checkpoint of RALI.

    Args:
        source: file or folder of an export, 'rali-lite' (embedded), 'rali' (the user's default, otherwise the released
            checkpoint), or 'owner/name' or 'owner/name:folder' on the hub.
        revision: branch, tag or commit, for weights from the hub.
        options: of `pyiqa_rali.RALI`, such as trainable=True or precision='bf16'.

    Raises:
        CheckpointError: it cannot be found or read.
        OptionError: an option cannot be used.
    """
    from pyiqa_rali.model.locate import locate_checkpoint
    from pyiqa_rali.model.rali import RALI
    path = locate_checkpoint(os.fspath(source), revision)
    net = RALI(pretrained_model_path=path, **options)
    return Checkpoint(net, net.metadata, path)


def read_options(options: OptionSource, overrides: Sequence[str] = ()) -> Any:
    """Return the options of a file as an object, which can be changed and passed to the function that takes such options.

    Args:
        options: an option file.
        overrides: 'section:key=value' entries.

    Returns:
        The class that the file's `model_type` names: TrainOptions, GrpoOptions, SftOptions, RactOptions, ChainOptions,
        EvaluateOptions or AblationOptions.

    Raises:
        OptionError: an option is unknown, missing, or has a value that cannot be used.
    """
    import importlib
    values = values_of(options, overrides)
    kind = str(values.get('model_type', 'RALI'))
    if kind not in READERS:
        raise OptionError(f'model_type: "{kind}" is not one of {", ".join(READERS)}.{did_you_mean(kind, READERS)}')
    module, function = READERS[kind].split(':')
    return getattr(importlib.import_module(f'pyiqa_rali.{module}'), function)(values)


def _words(images: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """Return sources of images as the command line would name them.

    Raises:
        OptionError: there is none.
    """
    words = [os.fspath(images)] if isinstance(images, str | os.PathLike) else [os.fspath(each) for each in images]
    if not words:
        raise OptionError('images: the list is empty; give image files, folders, globs or tar shards.')
    return words


def _refuse_for_made_metric(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise OptionError(f'{name}: {value!r} goes with the name of a metric; this metric is made already. Leave it out.')
