"""Rows for training a reasoning model: images by path, with MOS on the rating scale or with a degradation."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.options import from_known_keys, plain
from pyiqa_rali.data.image_files import PIXEL_LIMIT, READING, ReadingOptions, UnreadableImage, read_rgb
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.reasoning_texts import Distortions
from pyiqa_rali.data.sections import DatasetOptions, TableOptions
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.vlm.chat import training_messages_of
from pyiqa_rali.vlm.degradations import DegradationOptions, read_degradations
from pyiqa_rali.vlm.prompts import ReasoningCard

CACHED_IMAGES = 256
ADDED = ('upright', 'pixel_limit')  # fields that version 0.1 did not have


@dataclass(repr=False)
class Row:
    """One image to ask about.

    Attributes:
        image_path: the file.
        dataset: name of its data set.
        task: 'score' or 'degradation'.
        mos: its MOS on the rating scale, higher better; NaN for the degradation task.
        distortion_class: with the degradation task, or from the `class_column` of a data set with scores.
        severity: with the degradation task.
        upright: as in `ReadingOptions`.
        pixel_limit: as in `ReadingOptions`.
    """

    image_path: str
    dataset: str
    task: str = 'score'
    mos: float = float('nan')
    distortion_class: str = ''
    severity: str = ''
    upright: bool = True
    pixel_limit: int = PIXEL_LIMIT

    def __repr__(self) -> str:
        """Tell the fields as version 0.1 did: the digest of a run's examples is taken of this, and runs of it go on."""
        told = [item for item in dataclasses.fields(self) if item.name not in ADDED or getattr(self, item.name) != item.default]
        return f'Row({", ".join(f"{item.name}={getattr(self, item.name)!r}" for item in told)})'

    def picture(self) -> Image.Image:
        """Read the image.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        return read_picture(self.image_path, ReadingOptions(self.upright, self.pixel_limit))


def rows_of(section: str, options: DatasetOptions | Mapping[str, Any], card: ReasoningCard, seed: int) -> list[Row]:
    """Return the rows of one data set section.

    Args:
        section: its name under `datasets:`.
        options: what it holds; `type: DegradationTable` reads classes and severities (`read_degradations`), everything else is
            pyiqa's, and `class_column` names the table's column with each image's class of distortion, where it has one.
        card: the rating scale.
        seed: the run's seed.

    Raises:
        OptionError, DataError: the section or its table cannot be used.
    """
    read: DatasetOptions = from_known_keys(DatasetOptions.kind_of(plain(options)), plain(options), f'datasets: {section}')
    if isinstance(read, DegradationOptions):
        return [Row(image, str(read.name), 'degradation', distortion_class=kind, severity=severity, upright=read.upright,
                    pixel_limit=read.pixel_limit) for image, kind, severity in read_degradations(section, read)]
    if isinstance(read, SyntheticOptions):
        raise OptionError(f'datasets: {section}: type: SyntheticNRDataset has no files; write a data set with python -m '
                          'pyiqa_rali make-dataset and name its table.')
    class_column = read.class_column if isinstance(read, TableOptions) else None
    table = build_table(section, read, seed)
    images = table.images_and_mos()
    classes = [''] * len(images) if class_column is None else table.column(class_column)
    ratings = MosScale(card.rating_range, False)
    return [Row(path, table.name, mos=table.scale.on(ratings, mos), distortion_class=kind,
                upright=table.reading.upright, pixel_limit=table.reading.pixel_limit)
            for (path, mos), kind in zip(images, classes, strict=True)]


def image_files(section: str, options: DatasetOptions | Mapping[str, Any], seed: int) -> list[Path]:
    """Return the image files of one section, each once, for texts on them; arguments and errors are those of `rows_of`."""
    return [Path(path) for path in dict.fromkeys(row.image_path for row in rows_of(section, options, ReasoningCard(), seed))]


def known_distortions(section: str, options: DatasetOptions | Mapping[str, Any], seed: int) -> list[Distortions] | None:
    """Return the known distortions of the images of `image_files`, for their texts; None where no table has them."""
    read = from_known_keys(DatasetOptions.kind_of(plain(options)), plain(options), f'datasets: {section}')
    if isinstance(read, DegradationOptions):
        return None
    table = build_table(section, read, seed)
    return list(dict(zip(table.image_names(), table.distortions(), strict=True)).values())


def training_set(rows: list[Row], card: ReasoningCard, completions: list[str] | None = None) -> Any:
    """Return a `datasets.Dataset` for TRL whose images are read when they are requested.

    Its columns are those of `Row`; an item has `prompt` and `image` too.

    Args:
        rows: what to ask about.
        card: the prompts.
        completions: what is to be answered, for supervised fine-tuning; items then have `completion`.
    """
    import datasets
    prompts = {task: training_messages_of(card.prompt(task)) for task in sorted({row.task for row in rows})}

    def with_images(batch: dict[str, list]) -> dict[str, list]:
        asked = [prompts[task] for task in batch['task']]
        made = {**batch, 'prompt': asked, 'image': read_pictures(batch)}
        if completions is not None:
            made['completion'] = [[{'role': 'assistant', 'content': text}] for text in batch['completion']]
        return made

    columns = [vars(row) if completions is None else {**vars(row), 'completion': completions[number]}
               for number, row in enumerate(rows)]
    return datasets.Dataset.from_list(columns).with_transform(with_images)


def read_pictures(batch: dict[str, list]) -> list[Image.Image]:
    """Read the images of a batch of rows, given as columns."""
    return [read_picture(path, ReadingOptions(upright, pixel_limit)) for path, upright, pixel_limit in
            zip(batch['image_path'], batch['upright'], batch['pixel_limit'], strict=True)]


@functools.lru_cache(maxsize=CACHED_IMAGES)
def read_picture(path: str, reading: ReadingOptions = READING) -> Image.Image:
    """Read an image; the most recent ones are kept, since every rollout requests its image again.

    Raises:
        DataError: it cannot be read; the message names it.
    """
    try:
        return Image.fromarray(read_rgb(path, reading))
    except UnreadableImage as error:
        raise DataError(f'{error} Fix or remove it, and its row in the table.') from error
