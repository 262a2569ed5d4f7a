"""What `make-dataset` is asked for: options, the list of pictures to make, and the folder's own record of both."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, MinLen

from pyiqa_rali.core.errors import OptionError, some
from pyiqa_rali.core.files import sha256
from pyiqa_rali.core.options import NotNegative, checked
from pyiqa_rali.core.runs import claim_folder
from pyiqa_rali.data.distortions import DEFAULT_TYPES, check_codecs, check_names
from pyiqa_rali.data.photographs import Photograph
from pyiqa_rali.data.reasoning_texts import PRISTINE
from pyiqa_rali.data.synthetic.options import Level
from pyiqa_rali.data.synthetic.pseudo_mos import DEFAULT_METRICS
from pyiqa_rali.data.synthetic.quality_texts import MOST_TEXTS

COMPOSITE = 'composite'
IMAGES, RECORDS, SETTINGS = 'images', '.records', 'settings.json'
KINDS_PER_BLOCK = 8
Side = Annotated[int, Ge(32), Le(4096)]
AnySeed = Annotated[int, Ge(0), Le(2 ** 63)]


@dataclass(frozen=True)
class DatasetSettings:
    """Options of a data set on disk.

    Attributes:
        out: the folder to fill.
        photos: folder of photographs; None takes those that the dependencies install.
        groups: table of crops and photographs (see `list_photographs`).
        size: height and width of the pictures in pixels.
        types: distortions, each at every level.
        levels: levels in [0.5, 5.5].
        composites: pictures with two distortions, for each photograph file.
        metrics: full-reference metrics of the label.
        calibration: file with their quantiles; None takes the package's.
        seed: seeds what the distortions draw and the wording of the texts.
        hold_out: distortions that are kept out of training; they make a test set of their own.
        split_seed: seeds the first split; the next ones count up from it.
        splits: how many splits by photograph.
        ratios: shares of train, val and test.
        texts_per_image: reasoning texts of each picture.
    """

    out: str
    photos: str | None = None
    groups: str | None = None
    size: tuple[Side, Side] = (192, 256)
    types: Annotated[tuple[str, ...], MinLen(1)] = DEFAULT_TYPES
    levels: Annotated[tuple[Level, ...], MinLen(1)] = (1, 2, 3, 4, 5)
    composites: Annotated[int, Ge(0), Le(1000)] = 5
    metrics: tuple[str, ...] = DEFAULT_METRICS
    calibration: str | None = None
    seed: AnySeed = 0
    hold_out: tuple[str, ...] = ()
    split_seed: AnySeed = 0
    splits: Annotated[int, Ge(1), Le(99)] = 1
    ratios: tuple[NotNegative, NotNegative, NotNegative] = (0.7, 0.1, 0.2)
    texts_per_image: Annotated[int, Ge(1), Le(MOST_TEXTS)] = 4


@dataclass(frozen=True)
class Block:
    """A piece of work: some kinds of distortion of one photograph file, and the name that its files start with."""

    photograph: Photograph
    stem: str
    kinds: tuple[str, ...]
    number: int

    @property
    def record(self) -> str:
        """Name of the file that says that the block is done."""
        return f'{self.stem}__{self.number}.json'


def check_settings(settings: DatasetSettings) -> None:
    """Check the options before anything is made.

    Raises:
        OptionError: a value that cannot be used.
    """
    checked(settings)
    check_names(settings.types, 'types')
    check_codecs(settings.types, 'types')
    check_names(settings.hold_out, 'hold_out')
    unused = [name for name in settings.hold_out if name not in settings.types]
    if unused:
        raise OptionError(f'hold_out: {some(unused)} not among the types; what is not made need not be held out.')
    if set(settings.types) == set(settings.hold_out):
        raise OptionError('types: no distortion is left to train on; give more types or hold out fewer.')
    for name, values in (('types', settings.types), ('levels', settings.levels), ('metrics', settings.metrics)):
        if len(set(values)) < len(values):
            raise OptionError(f'{name}: {", ".join(map(str, values))} has one twice.')
    if settings.composites and len(settings.types) < 2:
        raise OptionError(f'composites: {settings.composites} pictures with two distortions cannot be made of one type.')


def plan(settings: DatasetSettings, photographs: list[Photograph]) -> list[Block]:
    """Return the blocks of work, in the order of the table."""
    shared = Counter(item.path.stem for item in photographs)
    kinds = (PRISTINE, *settings.types, *([COMPOSITE] if settings.composites else []))
    return [Block(item, item.path.stem if shared[item.path.stem] == 1 else item.path.name.replace('.', '_'),
                  kinds[start:start + KINDS_PER_BLOCK], start // KINDS_PER_BLOCK)
            for item in photographs for start in range(0, len(kinds), KINDS_PER_BLOCK)]


def generator(*identity: Any) -> np.random.Generator:
    """Return a generator that is seeded by what a picture is, and by nothing else."""
    digest = hashlib.sha256(json.dumps(identity).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], 'little'))


def claim_dataset(settings: DatasetSettings, photographs: list[Photograph]) -> None:
    """Write down what is made in the folder, or check that it is the same as before.

    Splits, held-out types and texts may change from run to run: they are written anew each time.

    Raises:
        OptionError: the folder holds something else.
    """
    made = {'size': list(settings.size), 'types': list(settings.types), 'levels': list(settings.levels),
            'composites': settings.composites, 'metrics': list(settings.metrics),
            'calibration': sha256(settings.calibration) if settings.calibration else None, 'seed': settings.seed,
            'photographs': {item.path.name: [item.photograph_id, item.path.stat().st_size] for item in photographs}}
    claim_folder(Path(settings.out) / SETTINGS, made, 'out', kind='data set of ours',
                 remedy='Give the same options to continue it, or another folder.')
