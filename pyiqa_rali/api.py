"""What the commands do, as functions for notebooks and programs: typed arguments in, objects out, nothing printed.

Training and evaluation take their options as objects of the same classes that option files are read into; see
`pyiqa_rali.__all__` for all names. Everything heavy is imported by the function that needs it.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options import OptionSource, values_of

if TYPE_CHECKING:
    import pandas

    from pyiqa_rali.data.image_files import ReadingOptions
    from pyiqa_rali.data.prompted import GivenPrompts
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.scoring.explaining import ExplainedImage
    from pyiqa_rali.scoring.score_table import ImageScore

logger = logging.getLogger(__name__)

READERS = {'RALI': 'training.rali.options:train_options', 'GRPO': 'training.vlm.options:grpo_options',
           'SFT': 'training.vlm.options:sft_options', 'RACT': 'training.vlm.ract:ract_options',
           'CHAIN': 'studies.chain.options:chain_options', 'EVALUATE': 'evaluation.options:evaluate_options',
           'ABLATION': 'studies.ablation.plan:ablation_options', 'CASCADE': 'studies.cascade:cascade_options'}


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


def score(images: Any, metric: Any = None, weights: str | os.PathLike | None = None,
          *, device: str | None = None, batch_size: int | None = None, workers: int | None = None,
          reading: 'ReadingOptions | None' = None, channels: str | None = None, interval: float | None = None,
          aspects: bool = False, image_prompts: 'Sequence[str] | Mapping[str, str] | None' = None, **options: Any) -> Scores:
    """Score images, as `pyiqa-rali score` does.

    Args:
        images: one or several of the following, of any sizes: an image, a folder (all images below it), a glob, a tar shard, a
            Parquet file, `@FILE` (a list), an address; the bytes of a file or a file open for reading them, a picture of
            Pillow, an array, a tensor (3, H, W) in [0, 1], or a stack (N, ...) of either. Pictures in memory are called
            `images[3]`, by their place.
        metric: name of a no-reference metric of pyiqa, or a metric from `pyiqa.create_metric`; None takes 'rali-lite',
            with weights 'rali'.
        weights: file or folder of an export, for a metric by name.
        device: for a metric by name: such as 'cpu' or 'cuda:1'; None takes a GPU if there is one.
        batch_size: images in one pass; None chooses what suits the device.
        workers: processes; None chooses what suits the device.
        reading: how pictures are read; None turns them upright.
        interval: also compute intervals that hold the MOS of so many images in a hundred, such as 90; see `Scores.intervals`.
        channels: the order of the colours of arrays, 'rgb', 'bgr', 'rgba', 'bgra' or 'gray' (see `from_array`); without it
            arrays are rejected, because their numbers do not tell.
        aspects: also tell how good focus, noise, exposure and other aspects are, in [0, 1]; see `ImageScore.further`.
        image_prompts: also tell how well generated pictures agree with the prompts that they were made from: one for each
            image, in their order, or by the name of the image; see `ImageScore.further`.
        options: of the metric's architecture, for a metric by name, such as precision='bf16'.

    Raises:
        FileNotFoundError: a list, or everything that is named, does not exist.
        OptionError: a metric or an option cannot be used, or a glob matches nothing.
        CheckpointError: the weights cannot be loaded, or have no interval, no diagnosis or no alignment with prompts.
    """
    from pyiqa_rali.core.messages import progress_bar
    from pyiqa_rali.data.image_files import READING
    from pyiqa_rali.scoring.engine import score_files, suitable_sizes
    from pyiqa_rali.scoring.further import IntervalColumns, further_of, with_labels
    from pyiqa_rali.scoring.given import entries_of
    from pyiqa_rali.scoring.metrics import MANY, make_metric, metric_label, with_fastest_backend
    entries, empty = entries_of(images, channels, (reading or READING).fetching)
    if metric is None or isinstance(metric, str):
        name, path = metric or ('rali' if weights else 'rali-lite'), None if weights is None else os.fspath(weights)
        made = make_metric(name, path, device, options)
        label = metric_label(name, path, with_fastest_backend(made, options, may_export=len(entries) >= MANY), made)
    else:
        _refuse_for_made_metric(weights=weights, device=device, **options)
        made, label = metric, str(getattr(metric, 'metric_name', type(metric).__name__))
    given = None if image_prompts is None else _given_prompts(image_prompts, [entry.name for entry in entries])
    further = further_of(made, label, None if interval is None else IntervalColumns(interval), aspects, given)
    label = with_labels(label, further)
    found: list[ImageScore] = []
    with progress_bar(total=len(entries), desc=f'scores: {label}', unit='image') as bar:
        for window in score_files(entries, made, *suitable_sizes(made, batch_size, workers), reading=reading or READING,
                                  further=further):
            found += window
            bar.update(len(window))
    return Scores(label, str(made.score_range), bool(made.lower_better), found, empty)


def _given_prompts(prompts: 'Sequence[str] | Mapping[str, str]', names: Sequence[str]) -> 'GivenPrompts':
    """Return the prompts of images by their names.

    Raises:
        OptionError: there are not as many as images, one is empty, or an image has two.
    """
    from pyiqa_rali.data.prompted import GivenPrompts
    from pyiqa_rali.model.prompt_scorer import checked_prompts
    if isinstance(prompts, Mapping):
        return GivenPrompts(prompts)
    found: dict[str, str] = {}
    for name, prompt in zip(names, checked_prompts(prompts, len(names)), strict=True):
        if found.setdefault(name, prompt) != prompt:
            raise OptionError(f'image_prompts: {name} is given twice, with two prompts. Score it twice.')
    return GivenPrompts(found)


def score_metrics(images: Any, metrics: Iterable[str], *, device: str | None = None, batch_size: int | None = None,
                  workers: int | None = None, reading: 'ReadingOptions | None' = None,
                  channels: str | None = None, interval: float | None = None, aspects: bool = False) -> dict[str, Scores]:
    """Score images with several metrics, reading each image once, as `pyiqa-rali score -m A -m B` does.

    Args:
        images: see `score`.
        metrics: names of no-reference metrics of pyiqa.
        device: such as 'cpu' or 'cuda:1'; None takes a GPU if there is one.
        batch_size: images in one pass; None chooses what suits the device.
        workers: processes; None chooses what suits the device.
        reading: how pictures are read; None turns them upright.
        channels: the order of the colours of arrays; see `score`.
        interval: see `score`; of the metrics that have intervals. The others are logged.
        aspects: see `score`; of the metrics that have aspects. The others are logged.

    Returns:
        The scores of each metric, by its name.

    Raises:
        FileNotFoundError, OptionError, CheckpointError: see `score`; a metric must not be named twice, and one must have
            what is asked for.
    """
    from pyiqa_rali.core.messages import progress_bar
    from pyiqa_rali.data.image_files import READING
    from pyiqa_rali.scoring.engine import suitable_sizes
    from pyiqa_rali.scoring.further import IntervalColumns, further_of_several, with_labels
    from pyiqa_rali.scoring.given import entries_of
    from pyiqa_rali.scoring.metrics import MANY, make_metric, metric_label, with_fastest_backend
    from pyiqa_rali.scoring.several import check_names, score_with_several
    names = list(metrics)
    if not names:
        raise OptionError('metrics: the list is empty; give names such as rali-lite.')
    check_names(names, 'metrics')
    entries, empty = entries_of(images, channels, (reading or READING).fetching)
    made = [make_metric(name, None, device) for name in names]
    further, told = further_of_several(made, names, None if interval is None else IntervalColumns(interval), aspects)
    for message in told:
        logger.warning('%s', message)
    labels = [with_labels(metric_label(name, None, with_fastest_backend(each, {}, may_export=len(entries) >= MANY), each), its)
              for name, each, its in zip(names, made, further, strict=True)]
    found: list[list[ImageScore]] = [[] for _ in names]
    with progress_bar(total=len(entries), desc=f'scores: {", ".join(names)}', unit='image') as bar:
        for window in score_with_several(entries, made, *suitable_sizes(made[0], batch_size, workers),
                                         reading=reading or READING, further=further):
            for own, scores in zip(found, window, strict=True):
                own += scores
            bar.update(len(window[0]))
    return {name: Scores(label, str(each.score_range), bool(each.lower_better), own, empty)
            for name, label, each, own in zip(names, labels, made, found, strict=True)}


def score_column(column: 'pandas.Series[Any]', metric: Any = None, weights: str | os.PathLike | None = None,
                 *, channels: str | None = None, **options: Any) -> 'pandas.Series[float]':
    """Score a column of pandas: one picture in each cell, one score in each cell of the result.

    Args:
        column: paths, addresses, bytes, pictures of Pillow, arrays, tensors or, as `datasets` writes them,
            {'bytes': ..., 'path': ...}. An empty cell has no score; a folder or a glob is no picture.
        metric: see `score`.
        weights: see `score`.
        channels: the order of the colours of arrays; see `score`.
        options: further arguments of `score`.

    Returns:
        Scores with the same index, NaN where there is none, called as tables call the metric. `attrs['errors']` says why, by
        the index; of rows with the same label, all reasons.

    Raises:
        OptionError, CheckpointError: see `score`.
    """
    import pandas

    from pyiqa_rali.scoring.given import cell_entry
    if not isinstance(column, pandas.Series):
        raise OptionError(f'column: is a {type(column).__name__}; it must be a column of pandas, such as table["path"].')
    entries = [cell_entry(value, place, channels) for place, value in enumerate(column)]
    if not entries:
        return pandas.Series([], index=column.index, dtype='float64')
    found = score(entries, metric, weights, **options)
    values = pandas.Series(found.scores, index=column.index, dtype='float64', name=found.metric)
    errors: dict[Any, list[str]] = {}
    for label, each in zip(column.index, found, strict=True):
        if each.error and each.error not in errors.setdefault(label, []):
            errors[label].append(each.error)
    values.attrs['errors'] = {label: '; '.join(reasons) for label, reasons in errors.items() if reasons}
    return values


def explain(images: Any, metric: str | None = None, weights: str | os.PathLike | None = None, *, device: str | None = None,
            num_texts: int = 3, num_basis: int = 5, reading: 'ReadingOptions | None' = None,
            channels: str | None = None, with_map: bool = False,
            image_prompts: 'Sequence[str] | Mapping[str, str] | None' = None) -> list['ExplainedImage']:
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
        image_prompts: of generated pictures, as in `score`: the alignment with them is told too.
        channels: the order of the colours of arrays; see `score`.

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
    from pyiqa_rali.scoring.given import entries_of
    entries, _ = entries_of(images, channels, (reading or READING).fetching, once=False)
    made = make_explainer(metric, None if weights is None else os.fspath(weights), device)
    given = None if image_prompts is None else _given_prompts(image_prompts, [entry.name for entry in entries])
    found = explain_entries(made, entries, num_texts, num_basis, reading or READING, with_map, given)
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
        EvaluateOptions, AblationOptions or CascadeOptions.

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


def _refuse_for_made_metric(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise OptionError(f'{name}: {value!r} goes with the name of a metric; this metric is made already. Leave it out.')
