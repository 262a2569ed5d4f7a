"""Pictures whose distortions are known, one after the other: a data set of `make-dataset`, or drawn from photographs."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.reasoning_texts import Distortions, paired
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset
from pyiqa_rali.data.synthetic.settings import IMAGES
from pyiqa_rali.data.synthetic.tables import TABLE

COLUMNS = ('image_name', 'mos', 'distortion', 'level')


@dataclass(frozen=True)
class KnownPicture:
    """A picture and what is known of it.

    Attributes:
        image: its name.
        pixels: uint8 (H, W, 3), RGB.
        mos: its label.
        distortions: (type, level) pairs, none for a pristine picture.
    """

    image: str
    pixels: np.ndarray
    mos: float
    distortions: Distortions


class TablePictures:
    """The pictures of a data set of `make-dataset`.

    Args:
        folder: the data set.

    Raises:
        OptionError: the folder holds no such table.
        DataError: the table lacks a column or a value.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        path = self.folder / TABLE
        if not path.is_file():
            raise OptionError(f'FOLDER: {path} does not exist. Give a data set of python -m pyiqa_rali make-dataset.')
        with open(path, encoding='utf-8', newline='') as stream:
            rows = list(csv.DictReader(stream))
        missing = [name for name in COLUMNS if not rows or name not in rows[0]]
        if missing:
            raise DataError(f'{path}: lacks {", ".join(missing)}; the distortions of its pictures are not known.')
        try:
            self.rows = [(row['image_name'], float(row['mos']), paired(row['distortion'], row['level'])) for row in rows]
        except ValueError as error:
            raise DataError(f'{path}: cannot be read ({error}).') from error

    def names(self) -> list[str]:
        """Return the names of the pictures in the order of the table."""
        return [name for name, _, _ in self.rows]

    def read(self, indices: Sequence[int]) -> Iterator[KnownPicture]:
        """Yield pictures.

        Raises:
            DataError: a picture cannot be read.
        """
        for index in indices:
            name, mos, pairs = self.rows[index]
            yield KnownPicture(name, read_rgb(self.folder / IMAGES / name), mos, pairs)


class DrawnPictures:
    """Pictures of a `SyntheticNRDataset`, drawn when they are asked for.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: SyntheticNRDataset):
        self.dataset = dataset

    def names(self) -> list[str]:
        """Return a name for each picture."""
        return [str(index) for index in range(len(self.dataset))]

    def read(self, indices: Sequence[int]) -> Iterator[KnownPicture]:
        """Yield pictures with their labels."""
        for index, item in zip(indices, self.dataset.__getitems__(list(indices)), strict=True):
            pixels = (item['img'].permute(1, 2, 0) * 255).round().byte().numpy()
            yield KnownPicture(str(index), pixels, float(item['mos_label']), paired(item['distortion'], item['levels']))
