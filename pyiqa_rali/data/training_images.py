"""Which images a model was trained on, so that testing on them does not go unnoticed.

A record is small, 24 bytes per image: a digest of its pixels, one of its name, and its look. It travels with the weights.
A test image was trained on when its pixels are those of a training image, or when it has the name and the look of one: the same
picture in another size or format. A name alone proves nothing: many data sets have a 001.png.
"""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import CheckpointError, DataError, some
from pyiqa_rali.core.files import write_json
from pyiqa_rali.data.inspection import InspectedImage, inspect_images, name_digest

KEY = 'training_images'  # in a checkpoint's metadata
FILE = 'pyiqa_rali_training_images.json'  # beside the weights of a reasoning model
FORMAT_VERSION = 1
CONTENT, NAME, LOOK = range(3)  # columns of the entries
MOST_OTHER_BITS = 10  # bits of 64 in which two looks of one picture may differ; those of two pictures differ in about 30
SHOWN = 5


@dataclass
class TrainingImages:
    """The images that a model was trained on.

    Attributes:
        entries: uint64 (n, 3): content, name and look of each image, without repetition.
        sets: how many images each data set has, by name.
        unrecorded: names of weights that the model was trained from and that keep no record.
    """

    entries: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=np.uint64))
    sets: dict[str, int] = field(default_factory=dict)
    unrecorded: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[InspectedImage]]) -> 'TrainingImages':
        """Return the record of data sets whose images were inspected."""
        images = {name: {image.path: image for image in inspected} for name, inspected in sets.items()}
        rows = [(image.content, name_digest(image.path), image.look) for each in images.values() for image in each.values()]
        return cls(_without_repetition(np.array(rows, dtype=np.uint64).reshape(-1, 3)),
                   {name: len(each) for name, each in images.items()})

    def and_those_of(self, start: 'TrainingImages | None', name: str) -> 'TrainingImages':
        """Return the record of a model that was trained on these images, starting from other weights.

        Args:
            start: the record of those weights; None when they keep none.
            name: of those weights.
        """
        if start is None:
            return TrainingImages(self.entries, self.sets, list(dict.fromkeys([*self.unrecorded, name])))
        return TrainingImages(_without_repetition(np.concatenate([self.entries, start.entries])), {**start.sets, **self.sets},
                              list(dict.fromkeys([*start.unrecorded, *self.unrecorded])))

    def among(self, paths: Iterable[str | os.PathLike]) -> dict[str, bool]:
        """Return those image files that were trained on, and whether their pixels are those of a training image.

        Files that cannot be read are not among them.
        """
        contents = set(self.entries[:, CONTENT].tolist())
        names: dict[int, list[int]] = {}
        for _, name, look in self.entries.tolist():
            names.setdefault(name, []).append(look)
        files = [os.fspath(path) for path in paths]
        found = {}
        for image in inspect_images(files, description='comparing with training images'):
            looks = names.get(name_digest(image.path), [])
            if image.error:
                continue
            if image.content in contents:
                found[image.path] = True
            elif any((image.look ^ look).bit_count() <= MOST_OTHER_BITS for look in looks):
                found[image.path] = False
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `from_json` reads them."""
        return {'format_version': FORMAT_VERSION, 'count': len(self), 'sets': self.sets, 'unrecorded': self.unrecorded,
                'entries': base64.b64encode(self.entries.astype('<u8').tobytes()).decode()}

    @classmethod
    def from_json(cls, values: Any, source: str | os.PathLike) -> 'TrainingImages':
        """Return the record that `to_dict` wrote.

        Raises:
            CheckpointError: it is damaged, or from a later version; the message names its source.
        """
        try:
            if values['format_version'] > FORMAT_VERSION:
                raise CheckpointError(f'{source}: its record of training images has format {values["format_version"]}; this '
                                      f'version reads {FORMAT_VERSION}. Upgrade pyiqa-rali.')
            entries = np.frombuffer(base64.b64decode(values['entries'], validate=True), dtype='<u8').reshape(-1, 3)
            if len(entries) != values['count']:
                raise ValueError(f'{len(entries)} of {values["count"]} images')
            return cls(entries.astype(np.uint64), dict(values['sets']), list(values['unrecorded']))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f'{source}: its record of training images cannot be read ({error!r}). Copy or export it '
                                  'again.') from error

    def save(self, folder: Path) -> None:
        """Write the record beside a model's weights."""
        write_json(folder / FILE, self.to_dict())

    def told(self) -> str:
        """Return how many images there are, for people."""
        sets = some((f'{count} of {name}' for name, count in self.sets.items()), limit=12)
        more = f'; and those of {some(self.unrecorded)}, which keeps no record' if self.unrecorded else ''
        return f'{len(self)} ({sets}){more}' if self.sets else f'{len(self)}{more}'


def told_of(record: TrainingImages | None) -> str:
    """Return what a checkpoint says about its training images, for people."""
    return 'unknown: it keeps no record of them' if record is None else record.told()


def record_in(metadata: Mapping[str, Any], source: str | os.PathLike = 'checkpoint') -> TrainingImages | None:
    """Return the record in a checkpoint's metadata; None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    return None if metadata.get(KEY) is None else TrainingImages.from_json(metadata[KEY], source)


def record_beside(folder: str | os.PathLike) -> TrainingImages | None:
    """Return the record beside a model's weights; None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    return record_in_file(Path(folder) / FILE)


def record_in_file(path: Path) -> TrainingImages | None:
    """Return the record in a JSON file; None where there is no such file.

    Raises:
        CheckpointError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise CheckpointError(f'{path}: cannot be read ({error}). Copy or export the model again.') from error
    return TrainingImages.from_json(values, path)


@dataclass(frozen=True)
class Overlap:
    """The images of one data set that a model was trained on.

    Attributes:
        images: how many images the data set has.
        trained_on: those that the model was trained on; None where it keeps no record.
        alike: how many of them are not copies of a training image, but have the name and the look of one.
        unrecorded: weights that it was trained from and that keep no record.
    """

    images: int
    trained_on: list[str] | None
    alike: int = 0
    unrecorded: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        count = None if self.trained_on is None else len(self.trained_on)
        return {'images': self.images, 'trained_on': count, 'alike': self.alike, 'first': (self.trained_on or [])[:SHOWN],
                'unrecorded': list(self.unrecorded)}


def overlap_told(values: Mapping[str, Any]) -> str:
    """Return what `Overlap.plain` holds, for people: how many images, and the first few."""
    if values['trained_on'] is None:
        return 'unknown'
    first = [os.path.basename(path) for path in values['first']]
    more = values['trained_on'] - len(first)
    told = f'{values["trained_on"]} of {values["images"]}' + (f': {", ".join(first)}' if first else '')
    told += f' (+{more} more)' if more else ''
    return told + (f'; unknown for {some(values["unrecorded"])}, which it was trained from' if values['unrecorded'] else '')


def overlap(record: TrainingImages | None, paths: Iterable[str | os.PathLike]) -> Overlap:
    """Return which of the image files the model with this record was trained on."""
    paths = [os.fspath(path) for path in paths]
    if record is None:
        return Overlap(len(paths), None)
    found = record.among(paths)
    return Overlap(len(paths), list(found), sum(not copy for copy in found.values()), tuple(record.unrecorded))


def refuse_overlap(found: Overlap, where: str, option: str, choice: str) -> None:
    """Raise DataError when a model would be tested on images that it was trained on, unless they are only to be counted.

    Args:
        found: the images.
        where: data set and model, for the message.
        option: that lets them be counted.
        choice: its value.
    """
    if found.trained_on and choice == 'fail':
        alike = f' ({found.alike} of them as a picture of that name and look)' if found.alike else ''
        raise DataError(f'{where}: {len(found.trained_on)} of {found.images} test images were trained on{alike}: '
                        f'{some(found.trained_on, SHOWN)}. Use others, or set {option}: count to go on all the same and have '
                        'their number in the results.')


def _without_repetition(entries: np.ndarray) -> np.ndarray:
    return np.unique(entries, axis=0) if len(entries) else entries
