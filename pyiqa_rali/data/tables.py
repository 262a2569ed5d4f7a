"""pyiqa's data sets from an option file: any of its types, any that it knows by name, with checked MOS."""

import contextlib
import logging
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from pyiqa_rali.core.errors import DataError, OptionError, first_line, some
from pyiqa_rali.data.decoding import decoding
from pyiqa_rali.data.image_files import READING, ReadingOptions, UnreadableImage
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.reasoning_texts import Distortions, paired
from pyiqa_rali.data.sections import DatasetOptions, dataset_section
from pyiqa_rali.data.table_pictures import image_column, reads_rows, row_paths, row_pictures

logger = logging.getLogger(__name__)


class QualityTable(Dataset):
    """A pyiqa data set whose items are reproducible: `mos` as the table has it, `mos_label` in [0, 1], higher better.

    An item is requested as an index or as (index, draw): the draw seeds whatever is random in the item, so that a resumed run
    draws the same again.

    Args:
        base: the data set that pyiqa built; its items have `img`, `img_path` and, as pyiqa's do, the MOS as `mos_label`.
        scale: range and direction of its MOS.
        name: the data set's name in the option file.
        seed: the run's seed.
        reading: how pictures are read.
    """

    def __init__(self, base: Any, scale: MosScale, name: str, seed: int, reading: ReadingOptions = READING):
        self.base, self.scale, self.name, self.seed, self.reading = base, scale, name, seed, reading
        self.draws_anew = bool(getattr(base, 'draws_anew', False))
        self.siblings = int(getattr(base, 'siblings', 1))  # so many items in a row are one picture at different levels

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list) -> list[dict[str, Any]]:
        """Return items for torch's loader, a whole batch at once where the data set supports that."""
        pairs = [key if isinstance(key, tuple) else (key, 0) for key in keys]
        if hasattr(self.base, '__getitems__'):
            items = self.base.__getitems__([index for index, _ in pairs])
        else:
            items = [self._table_item(index, draw) for index, draw in pairs]
        for item, (index, _) in zip(items, pairs, strict=True):
            item['mos'] = self._mos(index, item)
            item['mos_label'] = torch.tensor([self.scale.normalise(item['mos'])], dtype=torch.float32)
        return items

    def _mos(self, index: int, item: dict[str, Any]) -> float:
        """Return the MOS of an item as its table has it; the MOS of a generated picture is only in the item."""
        rows = getattr(self.base, 'paths_mos', None)
        return float(item['mos_label']) if rows is None else float(rows[index][image_column(rows[index]) + 1])

    def image_names(self) -> list[str]:
        """Return the path of each image, in the order of the items; pictures that are generated have none."""
        return [path for path, _ in self.images_and_mos()]

    def images_and_mos(self) -> list[tuple[str, float]]:
        """Return path and MOS, in the data set's unit, of each image; reference images of full-reference sets are left out."""
        return [self.image_and_mos(index) for index in range(len(self.base.paths_mos))]

    def image_and_mos(self, index: int) -> tuple[str, float]:
        """Return path and MOS, in the data set's unit, of one image."""
        row = self.base.paths_mos[index]
        return row_paths(self.base, index)[0], float(row[image_column(row) + 1])

    def source_files(self) -> list[str]:
        """Return the files that the pictures come from: the images, or the photographs of a set that generates its pictures."""
        photographs = getattr(self.base, 'photographs', None)
        return self.image_names() if photographs is None else [str(photograph.path) for photograph in photographs]

    def files(self) -> list[str]:
        """Return all files that are read, reference images of full-reference sets among them."""
        if not hasattr(self.base, 'paths_mos'):
            return self.source_files()
        return [path for index in range(len(self.base.paths_mos)) for path in row_paths(self.base, index)]

    def table_names(self) -> list[str]:
        """Return the image names of the whole table, all splits, as they are in its first column."""
        meta_info = getattr(self.base, 'meta_info', None)
        if meta_info is None or not len(meta_info):
            return []
        return [str(name) for name in meta_info.iloc[:, image_column(meta_info.iloc[0].tolist())]]

    def column(self, name: str) -> list[str]:
        """Return what a further column of the table says about each image, in the order of the items; '' for empty cells.

        Raises:
            DataError: the table has no such column, or contradicts itself about an image that appears twice in it.
        """
        meta_info = self.base.meta_info
        if name not in meta_info:
            raise DataError(f'{self.name}: {self.base.opt["meta_info_file"]} has no column "{name}"; it has '
                            f'{", ".join(map(str, meta_info))}.')
        written = getattr(self.base, 'written', None)  # pandas turns a 3 into 3.0 where another cell is empty
        cells = (meta_info[name].astype(object).fillna('').astype(str) if written is None else
                 [cell.strip() for cell in written.cells(list(meta_info).index(name))])
        of_image: dict[str, str] = {}
        two: dict[str, set[str]] = {}
        for image, cell in zip(self.table_names(), cells, strict=True):
            path = os.path.normpath(os.path.join(self.base.opt['dataroot_target'], image))
            if of_image.setdefault(path, cell) != cell:
                two.setdefault(path, {of_image[path]}).add(cell)
        found = [os.path.normpath(path) for path, _ in self.images_and_mos()]  # manifests write ./data/ without the ./
        ambiguous = [path for path in dict.fromkeys(found) if path in two]
        if ambiguous:
            raise DataError(f'{self.name}: {self.base.opt["meta_info_file"]}: {len(ambiguous)} images have two values in the '
                            f'column "{name}": {some(ambiguous)}. Keep one of their rows.')
        return [of_image[path] for path in found]

    def distortions(self) -> list[Distortions]:
        """Return the known distortions of each image, in the order of the items, where the table has them as `make-dataset`
        does.

        They are in the columns distortion and level; None for an image about which nothing is known.
        """
        unknown: list[Distortions] = [None] * len(self)
        meta_info = getattr(self.base, 'meta_info', None)
        if meta_info is None or not {'distortion', 'level'} <= set(meta_info):
            return unknown
        try:
            return [paired(kind or None, level or None)
                    for kind, level in zip(self.column('distortion'), self.column('level'), strict=True)]
        except ValueError as error:  # another table's columns of these names
            logger.warning('%s: its columns distortion and level are not those of make-dataset (%s); what is wrong with its '
                           'images counts as unknown.', self.name, first_line(error))
            return unknown

    def _table_item(self, index: int, draw: int) -> dict[str, Any]:
        try:
            if not reads_rows(self.base):  # a type that builds its items in its own way
                with seeded(self.seed, draw), decoding(self.reading.pixel_limit):
                    return self.base[index]
            paths, pictures = row_paths(self.base, index), self.pictures(index, draw)
        except UnreadableImage as error:
            raise DataError(f'{self.name}: {error} Fix or remove it, and its row in the table.') from error
        except Exception as error:  # decoders raise a dozen classes, augmentations others (a crop that is too large)
            raise DataError(f'{self.name}: {row_paths(self.base, index)[0]}: {first_line(error)}. Fix or remove it, and its '
                            'row in the table.') from error
        row = self.base.paths_mos[index]
        tensors = [torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255) * self.base.img_range
                   for picture in pictures]
        item = {'img': tensors[0], 'img_path': paths[0], 'mos_label': torch.tensor([float(row[image_column(row) + 1])])}
        return item if len(paths) == 1 else {**item, 'ref_img': tensors[1], 'ref_img_path': paths[1]}

    def pictures(self, index: int, draw: int = 0) -> list[Image.Image]:
        """Return the 8-bit picture of an item, and its reference if there is one, augmented as the draw says.

        Raises:
            UnreadableImage: one of them cannot be read; the message names it.
        """
        with seeded(self.seed, draw):
            return row_pictures(self.base, index, self.reading)


@contextlib.contextmanager
def seeded(seed: int, draw: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's generators for one item, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    derived = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def build_table(section: str, options: DatasetOptions | Mapping[str, Any], seed: int) -> QualityTable:
    """Build one data set of the option file with pyiqa, and check its MOS.

    Args:
        section: its name under `datasets:`, such as 'val_1'; see `phase_of`.
        options: what it contains; `pyiqa_name` fills in what pyiqa knows about a data set.
        seed: the run's seed.

    Raises:
        OptionError: a key is unknown, or MOS range or direction is missing.
        DataError: labels are outside the range, not numbers, or all the same.
    """
    whole = dataset_section(section, options)
    scale, for_pyiqa = whole.scale, whole.for_pyiqa()
    base = _build(section, for_pyiqa)
    if not len(base):
        raise DataError(f'datasets: {section}: holds no images in phase "{whole.images}"{_splits_told(base)}. Check '
                        'split_index and phase.')
    table = QualityTable(base, scale, str(whole.options.name), seed, whole.options.reading)
    if hasattr(base, 'paths_mos'):
        scale.check_labels([mos for _, mos in table.images_and_mos()], f'datasets: {section}')
    return table


def _build(section: str, options: dict[str, Any]) -> Any:
    """Return pyiqa's data set: the one defined here where its class only reads a table of names and MOS, else pyiqa's own."""
    from pyiqa_rali.data.pyiqa_tables import TABLES
    cls = TABLES.get(options['type'])
    if cls is not None:
        for key in ('dataroot_target', 'meta_info_file'):
            if options.get(key) is None:
                raise OptionError(f'datasets: {section}: {key}: must be given.')
    try:
        if cls is not None:
            return cls(options)
        from pyiqa.data import build_dataset
        return build_dataset(options)
    except (DataError, OptionError) as error:
        raise type(error)(f'datasets: {section}: {error}') from error
    except (OSError, AssertionError, LookupError, TypeError, ValueError) as error:  # pandas' own are ValueErrors
        raise DataError(f'datasets: {section}: pyiqa cannot build it from {options.get("meta_info_file")}: {error}. Check '
                        'dataroot_target, meta_info_file and split_index.') from error


def _splits_told(base: Any) -> str:
    """Return what the chosen column of splits contains, for a message."""
    from pyiqa_rali.data.pyiqa_tables import split_column
    column, meta_info = split_column(getattr(base, 'opt', {})), getattr(base, 'meta_info', None)
    if meta_info is None or column not in meta_info:
        return ''
    return f'; the column {column} has {some(sorted(set(meta_info[column].astype(str))))}'
