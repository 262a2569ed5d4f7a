"""What an ablation trains: its options, the rows of its table, and the cells, named by all that their results depend on."""

import copy
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.core.files import model_sha256, remembered_sha256
from pyiqa_rali.core.options import from_known_keys, plain, read_yaml
from pyiqa_rali.core.runs import MAY_CHANGE
from pyiqa_rali.core.versions import package_versions
from pyiqa_rali.data.sections import DatasetSection
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.training.rali.options import PathOptions, train_options
from pyiqa_rali.training.rali.run_checks import check_sections
from pyiqa_rali.training.rali.run_folder import OF_LATER_STAGES
from pyiqa_rali.training.rali.text_encoders import resolve_text_encoder
from pyiqa_rali.training.rali.towers import start_file, start_files, weight_file

ABLATION = 'ablation'  # the group of the variants; each sweep is a group too
DIGITS = 12
DATA_KEYS = ('meta_info_file', 'dataroot_target', 'dataroot_photos')
FILE_KEYS = ('meta_info_file', 'reasoning_texts', 'split_file', 'calibration', 'photo_groups')


@dataclass
class SweepOptions:
    """One option at several values.

    Attributes:
        key: the option, such as 'compress:num_basis'.
        values: what it is set to.
    """

    key: str
    values: Annotated[list[Any], MinLen(1)]


@dataclass(kw_only=True)
class AblationOptions:
    """Variants, sweeps and repeats.

    Attributes:
        name: of the folder.
        base: option file of RALI that every cell starts from.
        repeats: changes of each repeat, such as {'manual_seed': 1, 'datasets:*:split_index': ...}.
        variants: changes of each variant; the first is what the others are compared with.
        sweeps: options that are set to several values in turn, by name.
        changes: of all cells.
        datasets: sections that are added to the base's data sets.
        sections: whose correlations are averaged; None takes every test section or, without any, every val section.
        metrics: of the table, among the base's `val: metrics`.
        keep_models: keep each cell's exports and resumable state.
        paper: the paper's average PLCC for variants, shown beside the measured one.
        path: where to write.
    """

    name: str
    base: str
    repeats: Annotated[list[dict[str, Any]], MinLen(1)]
    variants: Annotated[dict[str, dict[str, Any]], MinLen(1)]
    sweeps: dict[str, SweepOptions] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    sections: list[str] | None = None
    metrics: list[str] = field(default_factory=lambda: ['plcc', 'srcc'])
    keep_models: bool = False
    paper: dict[str, float] = field(default_factory=dict)
    path: PathOptions = field(default_factory=PathOptions)
    model_type: Literal['ABLATION'] = 'ABLATION'


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: of the row.
        group: 'ablation', or the sweep's name.
        value: the swept option's value; None outside sweeps.
        changes: of the base's options.
    """

    name: str
    group: str
    value: Any
    changes: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        key: digest of everything that its result depends on.
        encoder: digest of everything that its aligned encoder and features depend on.
        values: its options, without name and folder.
    """

    key: str
    encoder: str
    values: dict[str, Any]


def ablation_options(values: dict[str, Any]) -> AblationOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown or missing, or there is nothing to compare.
    """
    options = from_known_keys(AblationOptions, values)
    unknown = [name for name in options.paper if name not in options.variants]
    if unknown:
        raise OptionError(f'paper: "{unknown[0]}" is not one of the variants ({", ".join(options.variants)}).'
                          f'{did_you_mean(unknown[0], options.variants)}')
    for name in options.sweeps:
        if name == ABLATION:
            raise OptionError(f'sweeps: {name}: needs another name: the group of the variants is called so.')
    return options


def variants_of(options: AblationOptions) -> list[Variant]:
    """Return the rows of the table: variants, then sweeps."""
    rows = [Variant(name, ABLATION, None, changes or {}) for name, changes in options.variants.items()]
    reference = rows[0].changes
    for name, sweep in options.sweeps.items():
        rows += [Variant(f'{name} = {"~" if value is None else value}', name, value, {**reference, sweep.key: value})
                 for value in sweep.values]
    names = [row.name for row in rows]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise OptionError(f'variants, sweeps: "{repeated}" appears in them twice.')
    return rows


def plan(options: AblationOptions) -> tuple[list[tuple[Variant, int, str]], dict[str, Cell]]:
    """Return (variant, repeat, cell's key) of every place in the table, and the different cells by key.

    Raises:
        OptionError, DataError: the options of a cell cannot be used; the message names its variant.
    """
    base = read_yaml(options.base)
    base['datasets'] = {**(base.get('datasets') or {}), **options.datasets}
    places, cells, pictures = [], {}, Pictures()
    for variant in variants_of(options):
        for number, repeat in enumerate(options.repeats):
            values = copy.deepcopy(base)
            try:
                for changes in (options.changes, repeat, variant.changes):
                    values = changed(values, changes)
                if not options.keep_models:  # a bank is for explanations by the export, which is discarded
                    values['bank'] = None
                cell = make_cell(values, pictures)
            except (OptionError, DataError) as error:
                raise type(error)(f'{variant.name}, repeat {number}: {error}') from error
            cells[cell.key] = cell
            places.append((variant, number, cell.key))
    return places, cells


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return options with 'section:key' entries set; '*' stands for every section at that level.

    Raises:
        OptionError: there is no such section.
    """
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *parents, last = key.split(':')
        sections = [values]
        for name in parents:
            sections = [child for section in sections for child in _children(section, name, key)]
        for section in sections:
            section[last] = value
    return values


def _children(section: dict[str, Any], name: str, key: str) -> list[dict[str, Any]]:
    if name == '*':
        return [child for child in section.values() if isinstance(child, dict)]
    if not isinstance(section.get(name), dict):
        known = [each for each, child in section.items() if isinstance(child, dict)]
        raise OptionError(f'"{key}": there is no section "{name}"; there are {", ".join(known)}.{did_you_mean(name, known)}')
    return [section[name]]


class Pictures:
    """Digests of the pictures of data set sections, for a plan with many cells: each set is looked through once.

    Pictures are told apart by the bytes of their files; those of a set that generates them, by the bytes of its photographs.
    """

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def digest(self, section: DatasetSection) -> str | None:
        """Return the digest of the pictures of a section, in their order; None before its data are there.

        A plan can be made before them; the training itself names what is missing.

        Raises:
            OptionError, DataError: its table is there, and cannot be read.
        """
        asked = digest(section.for_pyiqa())
        if not _data_are_there(section.values):
            return None
        if asked not in self._digests:
            table = build_table(section.section, section.values, seed=0)  # no seed changes which files there are
            self._digests[asked] = digest([_digest_or_none(path) for path in table.files()])
        return self._digests[asked]


def _data_are_there(values: Mapping[str, Any]) -> bool:
    """Whether the files and folders that a section names for its pictures exist, as far as it names any."""
    given = [values.get(key) for key in DATA_KEYS]
    named = [path for each in given for path in (each if isinstance(each, list) else [each])]
    return all(os.path.exists(os.path.expanduser(path)) for path in named if isinstance(path, str))


def _digest_or_none(path: str) -> str | None:
    """Return the digest of a picture; None where none can be read, which the training itself names and refuses."""
    try:
        return remembered_sha256(path)
    except OSError:
        return None


def make_cell(values: dict[str, Any], pictures: Pictures) -> Cell:
    """Check a cell's options and compute its digests.

    Pictures, tables, texts, weights and package versions are part of them.

    Args:
        values: its options, without name and folder.
        pictures: of the plan that the cell belongs to.

    Raises:
        OptionError, DataError: the options, or the tables that they name, cannot be used.
    """
    options = train_options({**values, 'name': 'cell'})
    sections = check_sections(options)
    values_of_all = plain(options)
    start = values_of_all['path']['pretrain_network']
    named = {f'{name}:{key}': section.values.get(key) for name, section in sections.items() for key in FILE_KEYS}
    named['encoder'] = _installed((options.network.get('image_encoder') or {}).get('pretrained'), weight_file)
    named['text_encoder'] = _installed(options.text_encoder.path, resolve_text_encoder)
    content: dict[str, str | None] = {key: file_digest(path) for key, path in named.items()
                                      if isinstance(path, str) and os.path.exists(path)}
    content |= {f'{name}:pictures': pictures.digest(section) for name, section in sections.items()}
    begins = [file_digest(str(file)) if os.path.exists(file) else file for file in map(start_file, start_files(start))]
    begin = {'pretrain_network': begins if isinstance(start, list) else begins[0] if begins else start,
             'strict_load': values_of_all['path']['strict_load'], 'versions': package_versions()}
    kept = {name: value for name, value in values_of_all.items() if name not in ('name', 'path', *MAY_CHANGE)}
    later = {name for name in OF_LATER_STAGES['compress'] if name != 'export'}  # export: dtype rounds the encoder
    early = {name: value for name, value in kept.items() if name not in later}
    return Cell(digest(kept, begin, content), digest(early, begin, content), values)


def _installed(source: Any, path_of: Callable[[str], Any]) -> Any:
    """Return where weights from an installed package are; anything else as it is."""
    return str(path_of(source)) if isinstance(source, str) and source.startswith('installed:') else source


@functools.cache
def file_digest(path: str) -> str:
    """Return the digest of a file or of a model's folder, computed once per process."""
    return model_sha256(path)


def digest(*parts: Any) -> str:
    """Return a short digest of plain values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
