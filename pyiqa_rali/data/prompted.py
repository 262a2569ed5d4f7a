"""Generated pictures in a table: the prompts that they were made from, and the MOS of their alignment with them."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from pyiqa_rali.core.errors import DataError, OptionError, some
from pyiqa_rali.data.delimited import numbers, read_delimited
from pyiqa_rali.data.sections import AspectColumns, DatasetSection, TableOptions
from pyiqa_rali.data.table_pictures import image_column
from pyiqa_rali.data.tables import QualityTable

PROMPT = 'prompt'  # column of a table of prompts
OF_MANIFESTS = ('image_name', 'mos')  # columns that every manifest is read into


@dataclass(frozen=True)
class Prompted:
    """What a data set says of its pictures beside the MOS of their quality, in the order of its items.

    Attributes:
        prompts: of n pictures.
        mos: (n,) of their alignment, in the data set's unit.
        mos_label: (n,) float32, the same in [0, 1], 1 the best alignment.
    """

    prompts: list[str]
    mos: np.ndarray
    mos_label: np.ndarray


def aspects_of(section: DatasetSection) -> AspectColumns | None:
    """Return the columns of a section's aspects; None where it has one MOS.

    Raises:
        OptionError: `aspects` and `prompt_column` are not given together.
    """
    options = section.options
    if not isinstance(options, TableOptions):
        return None
    if (options.aspects is None) != (options.prompt_column is None):
        given, missing = ('aspects', 'prompt_column') if options.prompt_column is None else ('prompt_column', 'aspects')
        raise OptionError(f'datasets: {section.section}: {given}: needs {missing} beside it: alignment is that of a picture '
                          'with its prompt. Example: aspects: {quality: mos_quality, alignment: mos_align} and prompt_column: '
                          'prompt.')
    return options.aspects


def prompts_in(table: QualityTable, section: DatasetSection) -> list[str]:
    """Return the prompt of each picture of a data set, in the order of the items.

    Raises:
        OptionError: the section has no `prompt_column`.
        DataError: there is no such column, or a picture has no prompt.
    """
    column = getattr(section.options, 'prompt_column', None)
    if column is None:
        raise OptionError(f'datasets: {section.section}: prompt_column: must name the column with the prompts.')
    prompts = table.column(column)
    empty = [name for name, prompt in zip(table.image_names(), prompts, strict=True) if not prompt.strip()]
    if empty:
        raise DataError(f'datasets: {section.section}: {len(empty)} of {len(prompts)} pictures have no prompt in the column '
                        f'"{column}": {some(empty)}. A prompt is never guessed: write it into the table, or remove the row.')
    return prompts


def prompted(table: QualityTable, section: DatasetSection) -> Prompted | None:
    """Return prompts and MOS of alignment of a data set; None where the section names no aspects.

    Raises:
        OptionError: the MOS that the table is read with is not that of the quality, or `prompt_column` is missing.
        DataError: a column is missing, or a picture has no prompt or no MOS of alignment within the range.
    """
    aspects = aspects_of(section)
    if aspects is None:
        return None
    _check_quality(table, section, aspects)
    names, cells = table.image_names(), table.column(aspects.alignment)
    mos = numbers(cells, [f'{table.name}: {name}' for name in names], aspects.alignment)
    section.scale.check_labels(mos, f'datasets: {section.section}: aspects: alignment ({aspects.alignment})')
    found = np.array(mos)
    return Prompted(prompts_in(table, section), found, section.scale.normalise(found).astype(np.float32))


def _check_quality(table: QualityTable, section: DatasetSection, aspects: AspectColumns) -> None:
    where = f'datasets: {section.section}: aspects'
    if aspects.quality == aspects.alignment:
        raise OptionError(f'{where}: both are the column "{aspects.quality}". Give quality and alignment a column each.')
    if section.options.type == 'ManifestNRDataset':
        read, headings = section.values.get('mos_column', aspects.quality), OF_MANIFESTS
        if aspects.alignment in headings:
            raise OptionError(f'{where}: alignment: "{aspects.alignment}" is what this reader calls names and MOS of quality. '
                              'Rename the column in the file.')
    else:
        meta_info = table.base.meta_info
        read = str(meta_info.columns[image_column(meta_info.iloc[0].tolist()) + 1])
    if read != aspects.quality:
        raise OptionError(f'{where}: quality: "{aspects.quality}" is not the column that the MOS are read from, "{read}". Name '
                          'that one, or put the column of the quality after that of the images.')


class PromptFile:
    """A table of prompts: names of pictures in its first column, and a column `prompt`.

    A name in the table stands for the picture whose path ends with it, by whole folders; the longest such name counts.

    Args:
        path: the table.

    Attributes:
        digest: what tells these prompts from others.

    Raises:
        DataError: the file is no such table, a picture has two prompts, or none.
    """

    def __init__(self, path: str | os.PathLike):
        table = read_delimited(path)
        columns = [name.lower() for name in table.columns]
        if PROMPT not in columns[1:]:
            raise DataError(f'{path}: has the columns {", ".join(table.columns)}; names of pictures in the first one and a '
                            f'column "{PROMPT}" are expected.')
        self.path, self._prompts, self._taken = str(path), dict[tuple[str, ...], str](), dict[tuple[str, ...], str]()
        for row, (name, prompt) in enumerate(zip(table.cells(0), table.cells(columns.index(PROMPT)), strict=True)):
            if not name.strip() or not prompt.strip():
                raise DataError(f'{table.where(row)}: has no {"prompt" if name.strip() else "name of a picture"}. A prompt is '
                                'never guessed: write it into the table, or remove the row.')
            if self._prompts.setdefault(_parts(name.strip()), prompt) != prompt:
                raise DataError(f'{table.where(row)}: {name} has another prompt in an earlier row. Keep one of the two.')
        self.digest = _digest({'/'.join(parts): prompt for parts, prompt in self._prompts.items()})

    def prompt_of(self, image: str) -> str:
        """Return the prompt of a picture.

        Raises:
            DataError: it has none, or its row is also that of another picture.
        """
        parts = _parts(image)
        key = next((parts[start:] for start in range(len(parts)) if parts[start:] in self._prompts), None)
        if key is None:
            raise DataError(f'no prompt for it in {self.path}')
        if self._taken.setdefault(key, image) != image:
            raise DataError(f'"{"/".join(key)}" in {self.path} is also the name of {self._taken[key]}; write folders before it')
        return self._prompts[key]


class GivenPrompts:
    """Prompts by the whole names of pictures.

    Args:
        prompts: by name.

    Attributes:
        digest: what tells these prompts from others.
    """

    def __init__(self, prompts: Mapping[str, str]):
        self._prompts = dict(prompts)
        self.digest = _digest(self._prompts)

    def prompt_of(self, image: str) -> str:
        """Return the prompt of a picture.

        Raises:
            DataError: it has none.
        """
        if not self._prompts.get(image, '').strip():
            raise DataError('it has no prompt')
        return self._prompts[image]


def _digest(prompts: Mapping[str, str]) -> str:
    """Return what tells these prompts from others."""
    return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:8]


def _parts(name: str) -> tuple[str, ...]:
    """Return folders and name of a path or of a member of a shard."""
    return PurePath(os.path.normpath(name.replace('\\', '/').replace('::', '/'))).parts
