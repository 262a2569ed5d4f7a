"""The photographs that synthetic data starts from, and their split by photograph."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.data.delimited import read_delimited
from pyiqa_rali.data.image_files import READING, ReadingOptions, read_size
from pyiqa_rali.data.image_formats import image_extensions

GROUPS_FILE = 'photos.csv'
PHASES = ('train', 'val', 'test')
BUNDLED_SKIMAGE = ('astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'motorcycle_right.png', 'rocket.jpg',
                   'camera.png', 'brick.png', 'grass.png', 'gravel.png', 'hubble_deep_field.jpg')
BUNDLED_PYIQA = ('ResultsCalibra', 'ref_dir')
BUNDLED_GROUPS = {'motorcycle_left.png': 'motorcycle', 'motorcycle_right.png': 'motorcycle'}


@dataclass(frozen=True)
class Photograph:
    """One picture file, and the photograph that it is (a crop of)."""

    path: Path
    photograph_id: str


def list_photographs(folder: str | Path | Sequence[str | Path] | None,
                     groups_csv: str | Path | None = None) -> list[Photograph]:
    """Return the pictures of one or several folders, or those that the dependencies install, sorted by name.

    Args:
        folder: a folder of pictures, or several, whose names then come before those of their photographs; None takes the
            installed ones.
        groups_csv: a table with columns `image` and `photo`, for several crops of one photograph; `photos.csv` in the
            folder is taken by itself. Without one, each file is a photograph of its own.

    Raises:
        OptionError: a folder does not exist or is named twice, or one table is given for several folders.
        DataError: it holds no pictures, or the table misses some.
    """
    if folder is None:
        return bundled_photographs()
    if isinstance(folder, str | Path):
        return _photographs_of(folder, groups_csv)
    folders = [Path(each).expanduser() for each in folder]
    if len({each.resolve() for each in folders}) < len(folders):
        raise OptionError(f'photographs: {", ".join(map(str, folders))} has a folder twice. Name each once.')
    if len(folders) == 1:
        return _photographs_of(folders[0], groups_csv)
    if groups_csv:
        raise OptionError(f'groups: {groups_csv} cannot say which of {len(folders)} folders its pictures are in. Put a '
                          f'{GROUPS_FILE} into each folder that needs one.')
    return [replace(item, photograph_id=f'{name}/{item.photograph_id}')
            for name, each in zip(_names(folders), folders, strict=True) for item in _photographs_of(each, None)]


def _names(folders: list[Path]) -> list[str]:
    """Return a different name for each folder: its own or, where two have the same, all of the path that they do not share."""
    paths = [each.resolve() for each in folders]
    names = [each.name for each in paths]
    return names if len(set(names)) == len(names) else [os.path.relpath(each, os.path.commonpath(paths)) for each in paths]


def _photographs_of(folder: str | Path, groups_csv: str | Path | None) -> list[Photograph]:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise OptionError(f'photographs: {folder} is not a folder.')
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in image_extensions())
    if not files:
        raise DataError(f'{folder}: holds no pictures.')
    table = Path(groups_csv) if groups_csv else folder / GROUPS_FILE
    if not groups_csv and not table.exists():
        return [Photograph(path, path.stem) for path in files]
    groups = _read_groups(table)
    missing = [path.name for path in files if path.name not in groups]
    if missing:
        raise DataError(f'{table}: {len(missing)} pictures of {folder} are not in it: {some(missing)}.')
    return [Photograph(path, groups[path.name]) for path in files]


def _read_groups(table: Path) -> dict[str, str]:
    if not table.is_file():
        raise OptionError(f'groups: {table} is not a file.')
    groups = read_delimited(table)
    if not {'image', 'photo'} <= set(groups.columns):
        raise DataError(f'{table}: needs the columns image and photo; it has {", ".join(groups.columns)}.')
    image, photo = groups.columns.index('image'), groups.columns.index('photo')
    return {row[image].strip(): row[photo].strip() for row in groups.rows}


def bundled_photographs() -> list[Photograph]:
    """Return the photographs that scikit-image and pyiqa install, without importing either.

    Raises:
        DataError: fewer than ten are there.
    """
    files = [path for path in _installed('scikit-image') if path.parent.name == 'data' and path.name in BUNDLED_SKIMAGE]
    files += [path for path in _installed('pyiqa') if path.parts[-3:-1] == BUNDLED_PYIQA]
    files = sorted((path for path in files if path.is_file()), key=lambda path: path.name)
    if len(files) < 10:
        raise DataError(f'only {len(files)} photographs came with scikit-image and pyiqa; name a folder of photographs.')
    return [Photograph(path, BUNDLED_GROUPS.get(path.name, path.stem)) for path in files]


def _installed(distribution: str) -> list[Path]:
    try:
        return [Path(item.locate()) for item in metadata.files(distribution) or ()]
    except metadata.PackageNotFoundError:
        return []


def check_sizes(photographs: list[Photograph], least: tuple[int, int], reading: ReadingOptions = READING) -> None:
    """Check from the headers that every picture can be opened and holds a crop of `least` (height, width) pixels.

    Raises:
        DataError: pictures that cannot be opened or are too small, counted and named.
    """
    broken, small = [], []
    for item in photographs:
        try:
            height, width = read_size(item.path, reading)
        except DataError as error:
            broken.append(str(error))
            continue
        if height < least[0] or width < least[1]:
            small.append(f'{item.path.name} ({width} x {height})')
    if broken:
        raise DataError(f'{len(broken)} of {len(photographs)} photographs cannot be opened; fix or remove them: '
                        f'{some(broken)}')
    if small:
        raise DataError(f'{len(small)} of {len(photographs)} photographs are smaller than the crop of {least[1]} x {least[0]} '
                        f'pixels (width x height): {some(small)}. Remove them, or choose a smaller crop.')


def split_photographs(photographs: list[Photograph], split_seed: int,
                      ratios: tuple[float, float, float]) -> dict[str, list[Photograph]]:
    """Split into train, val and test by photograph, never by crop; the same seed gives the same split.

    Raises:
        OptionError: ratios that are negative or add up to zero.
        DataError: a phase that has a share gets no photographs.
    """
    if len(ratios) != 3 or min(ratios) < 0 or sum(ratios) <= 0:
        raise OptionError(f'split_ratios: {list(ratios)} must be three shares for train, val and test.')
    names = sorted({item.photograph_id for item in photographs})
    order = np.random.default_rng(split_seed).permutation(len(names))
    bounds = np.rint(np.cumsum([0, *ratios]) / sum(ratios) * len(names)).astype(int)
    phase_of = {names[order[position]]: phase for phase, start, end in zip(PHASES, bounds[:-1], bounds[1:], strict=True)
                for position in range(start, end)}
    split = {phase: [item for item in photographs if phase_of[item.photograph_id] == phase] for phase in PHASES}
    for phase, ratio in zip(PHASES, ratios, strict=True):
        if ratio > 0 and not split[phase]:
            raise DataError(f'split_ratios: {list(ratios)} of {len(names)} photographs leave none for {phase}. '
                            'Add photographs, or give it no share.')
    return split
