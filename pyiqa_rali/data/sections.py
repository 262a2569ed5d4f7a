"""Data set sections of an option file: what they may contain, what each is for, and what pyiqa gets of them."""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from annotated_types import MinLen

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.options import Count, Positive, Sparse, Whole, from_known_keys
from pyiqa_rali.data.image_files import PIXEL_LIMIT, ReadingOptions
from pyiqa_rali.data.mos import MosScale

Phase = Literal['train', 'basis', 'val', 'test']
PHASES: tuple[Phase, ...] = get_args(Phase)
Images = Literal['train', 'val', 'test']
Augmentation = Literal['hflip', 'vflip', 'random_crop', 'center_crop', 'resize']  # pyiqa ignores what it does not know

Kind = TypeVar('Kind', bound=type)
SectionClass: TypeAlias = 'type[DatasetOptions]'  # inside that class, `type` is an option


def phase_of(section: str) -> Phase | None:
    """Return what a data set is for, by the part of its section's name before an underscore; None for other names.

    Example:
        >>> phase_of('val_2'), phase_of('basis'), phase_of('KonIQ')
        ('val', 'basis', None)
    """
    begin = section.split('_')[0]
    return next((phase for phase in PHASES if phase == begin), None)


def sections_for(sections: Iterable[str], *phases: Phase) -> list[str]:
    """Return the names of those sections that are for one of the phases, in their order."""
    return [section for section in sections if phase_of(section) in phases]


@dataclass(kw_only=True)
class DatasetOptions(Sparse):
    """What every data set section may contain; `type` decides what else.

    Attributes:
        name: of the data set, in messages and tables.
        type: pyiqa's name of the class, or one of ours: ManifestNRDataset, SyntheticNRDataset, DegradationTable.
        upright: turn pictures as their EXIF orientation says.
        pixel_limit: reject pictures with more pixels than this.
    """

    name: Annotated[str, MinLen(1)] | None = None
    type: str | None = None
    upright: bool = True
    pixel_limit: Count = PIXEL_LIMIT

    @property
    def reading(self) -> ReadingOptions:
        """How pictures are read."""
        return ReadingOptions(self.upright, self.pixel_limit)

    @staticmethod
    def kind_of(values: Mapping[str, Any]) -> SectionClass:
        """Return the dataclass of a section's values by their `type`; any pyiqa type that is not known here is a table."""
        import pyiqa_rali.data.synthetic.options  # noqa: F401  its type is told on import
        return _KINDS.get(str(values.get('type')), TableOptions)


_KINDS: dict[str, type[DatasetOptions]] = {}  # by the `type` that has keys of its own


def of_type(name: str) -> Callable[[Kind], Kind]:
    """Return a decorator for the dataclass of the sections with `type: NAME`."""
    def added(cls: Kind) -> Kind:
        _KINDS[name] = cls
        return cls
    return added


@dataclass(kw_only=True)
class LabelledOptions(DatasetOptions):
    """Data sets with a MOS for each picture.

    Attributes:
        phase: whose images of the split are used; None takes it from the name of the section.
        mos_range: lowest and highest MOS, in the data set's unit; must be given, or come with `pyiqa_name`.
        lower_better: whether a low MOS means good quality; the same.
        reasoning_texts: JSON-lines file with texts on the images.
        share: how much of a step's pictures come from this set, in proportion to the shares of the other training sets.
        supervision: what a training set's MOS teach: 'mos' (None too), their values, or 'order', which picture is the better
            one, and no more.
        batch_size_per_gpu: pictures at once.
        num_worker_per_gpu: processes that read pictures.
        use_shuffle, prefetch_mode, num_prefetch_queue, pin_memory, persistent_workers: pyiqa's keys of its loader.
    """

    phase: Images | None = None
    mos_range: tuple[int | float, int | float] | None = None
    lower_better: bool | None = None
    reasoning_texts: str | None = None
    share: Positive | None = None
    supervision: Literal['mos', 'order'] | None = None
    batch_size_per_gpu: Count | None = None
    num_worker_per_gpu: Whole | None = None
    use_shuffle: bool | None = None
    prefetch_mode: str | None = None
    num_prefetch_queue: Count | None = None
    pin_memory: bool | None = None
    persistent_workers: bool | None = None


LOADER_KEYS = ('batch_size_per_gpu', 'num_worker_per_gpu', 'use_shuffle', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
               'persistent_workers')
NOT_PYIQAS = (*LOADER_KEYS, 'reasoning_texts', 'share', 'supervision', 'pyiqa_name', 'class_column', 'paper_name', 'aspects',
              'prompt_column')


@dataclass
class AspectColumns:
    """The columns of a table of generated pictures with the MOS of each aspect, all on the `mos_range` of the data set.

    Attributes:
        quality: of the picture by itself, what the MOS of other data sets are.
        alignment: of the picture with the prompt that it was made from.
    """

    quality: Annotated[str, MinLen(1)]
    alignment: Annotated[str, MinLen(1)]


@dataclass(kw_only=True)
class TableOptions(LabelledOptions):
    """Data sets of pyiqa: a table of images and MOS, with pyiqa's keys.

    Attributes:
        pyiqa_name: of a data set in pyiqa's own list, which fills in whatever is not given.
        dataroot_target: folder of the images.
        dataroot_ref: folder of the reference images.
        meta_info_file: the table.
        split_file: pyiqa's file of splits.
        split_index: column of the table that says which images are train, val and test, or pyiqa's number of a split.
        split_ratio: of pyiqa's numbered splits.
        override_phase: pyiqa's, over `phase`.
        augment: pyiqa's augmentations.
        img_range: factor on the pixels.
        class_column: column with each image's class of distortion, for the naming reward.
        paper_name: of the data set in the paper's tables; False switches the comparison off.
        aspects: of generated pictures, the columns of their MOS; None for data sets with one MOS.
        prompt_column: of generated pictures, the column of their prompts; goes with `aspects`.
    """

    pyiqa_name: str | None = None
    dataroot_target: str | None = None
    dataroot_ref: str | None = None
    meta_info_file: str | None = None
    split_file: str | None = None
    split_index: int | str | None = None
    split_ratio: int | str | None = None
    override_phase: Images | None = None
    augment: dict[Augmentation, Any] | None = None
    img_range: int | float | None = None
    class_column: str | None = None
    paper_name: str | Literal[False] | None = None
    aspects: AspectColumns | None = None
    prompt_column: Annotated[str, MinLen(1)] | None = None


@of_type('ManifestNRDataset')
@dataclass(kw_only=True)
class ManifestOptions(TableOptions):
    """Data sets in layouts that pyiqa has no reader for; see `ManifestNRDataset`.

    Attributes:
        format: deqa, agiqa3k or pipal.
        mos_column: the column of the MOS; None takes the format's own.
    """

    format: str | None = None
    mos_column: str | None = None


@dataclass(frozen=True)
class DatasetSection:
    """A section with its gaps filled: what a run works with.

    Attributes:
        section: its name under `datasets:`, such as val_1.
        options: what it contains, with what pyiqa knows about the data set.
        values: the same as plain values, only those that were given.
    """

    section: str
    options: LabelledOptions
    values: dict[str, Any]

    @property
    def phase(self) -> Phase | None:
        """What the data set is for, by the name of its section."""
        return phase_of(self.section)

    @property
    def images(self) -> str:
        """Whose images of the split are used: train, val or test."""
        return self.options.phase or ('train' if self.phase == 'basis' else self.phase or self.section)

    @property
    def scale(self) -> MosScale:
        """Range and direction of the MOS.

        Raises:
            OptionError: one of them is missing; neither is ever guessed.
        """
        mos_range, lower_better = self.options.mos_range, self.options.lower_better
        if mos_range is None or lower_better is None:
            key, told = ('mos_range', _found_range(self.values)) if mos_range is None else ('lower_better', '')
            raise OptionError(f'datasets: {self.section}: {key}: must be given; it is never guessed. {told}Example: '
                              'mos_range: [1, 5] and lower_better: false.')
        return MosScale(mos_range, lower_better)

    def for_pyiqa(self) -> dict[str, Any]:
        """Return what pyiqa's data set builder is given; it leaves the MOS as they are."""
        given = {key: value for key, value in self.values.items() if key not in NOT_PYIQAS}
        aspects = self.values.get('aspects')
        if aspects and self.options.type == 'ManifestNRDataset':  # other tables have the MOS where pyiqa expects it
            given.setdefault('mos_column', aspects['quality'])
        return {**given, 'phase': self.images, 'mos_normalize': False}


def dataset_section(section: str, options: DatasetOptions | Mapping[str, Any]) -> DatasetSection:
    """Return a section with what pyiqa knows of the data set.

    Args:
        section: its name under `datasets:`.
        options: what it holds, as in an option file or read from one.

    Raises:
        OptionError: pyiqa does not know the data set, or a key is unknown or has a value that cannot be used.
    """
    given = dict(options.given() if isinstance(options, DatasetOptions) else options)
    values = {**_known_to_pyiqa(section, given.get('pyiqa_name')), **given}
    if values.get('type') is None or values.get('name') is None:
        raise OptionError(f'datasets: {section}: needs name and type (such as GeneralNRDataset), or pyiqa_name.')
    read: DatasetOptions = from_known_keys(DatasetOptions.kind_of(values), values, f'datasets: {section}')
    if not isinstance(read, LabelledOptions):
        raise OptionError(f'datasets: {section}: type: {read.type} has no MOS and cannot be used here.')
    return DatasetSection(section, read, read.given())


def refuse_keys(datasets: Mapping[str, DatasetOptions], keys: Iterable[str], why: str) -> None:
    """Raise OptionError, naming the section and the key, when one of the keys is given where it has no effect."""
    for section, options in datasets.items():
        for key in keys:
            if key in options.given():
                raise OptionError(f'datasets: {section}: {key}: {why}. Remove it.')


def _known_to_pyiqa(section: str, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    names = _data_sets_of_pyiqa()
    if name not in names:
        raise OptionError(f'datasets: {section}: pyiqa_name: "{name}" is not a data set that pyiqa knows ({", ".join(names)}).'
                          f'{did_you_mean(name, names)}')
    return {key: copy.deepcopy(value) for key, value in names[name].items() if key != 'phase'}


@functools.cache
def _data_sets_of_pyiqa() -> dict[str, dict[str, Any]]:
    """Return pyiqa's data sets by name. pyiqa parses its whole list at each call, which took most of an ablation's planning."""
    from pyiqa import get_dataset_info
    return get_dataset_info()


def _found_range(values: Mapping[str, Any]) -> str:
    """Return the range of a table's MOS, for a message; nothing where it cannot be read."""
    from pyiqa_rali.core.errors import DataError
    from pyiqa_rali.data.delimited import read_delimited
    from pyiqa_rali.data.manifests import range_told, read_manifest
    from pyiqa_rali.data.pyiqa_tables import TABLES
    try:
        if values.get('type') == 'ManifestNRDataset':
            rows = read_manifest(values['meta_info_file'], values['format'], values.get('mos_column'))
            return range_told(values, rows) + ' '
        labels = read_delimited(values['meta_info_file']).numbers(TABLES[values['type']].names_at[-1] + 1)
        return f'The MOS of {values["meta_info_file"]} range from {min(labels):g} to {max(labels):g}. '
    except (DataError, OptionError, LookupError):
        return ''
