"""Does aligning with texts carry across data sets better than regressing MOS? One encoder, the same pictures, several teachers.

Every arm is trained on each choice of data sets that people scored, for several seeds, and tested on all of them, in-domain and
on sets that it was not trained on. The epoch is chosen on the validation parts of the sets trained on, and on nothing else.
The cells are ordinary training runs, as those of an ablation: named by all that their results depend on, kept and resumed.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Lt, MinLen

from pyiqa_rali.core.errors import DataError, OptionError, did_you_mean
from pyiqa_rali.core.files import without_nan, write_json, write_text
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.options import Seed, from_known_keys
from pyiqa_rali.core.runs import claim_run
from pyiqa_rali.core.tables import write_csv
from pyiqa_rali.data.sections import sections_for
from pyiqa_rali.figures.carry import Dots, draw_carry
from pyiqa_rali.studies.ablation.plan import Cell, Pictures, changed, make_cell
from pyiqa_rali.studies.ablation.run import CELL, run_cell
from pyiqa_rali.studies.carry_results import Result, Scores, markdown, summarised, with_intervals
from pyiqa_rali.training.rali.options import PathOptions

SECTIONS = ('datasets', 'name')  # of a training run: the study makes them
COLUMNS = ('encoder', 'arm', 'trained_on', 'seed', 'tested_on', 'in_domain', 'images', 'srcc', 'plcc', 'key')
METRICS = {metric: {'type': f'calculate_{metric}'} for metric in ('srcc', 'plcc')}


@dataclass(kw_only=True)
class SetOptions:
    """A data set that people scored.

    Attributes:
        table: its section, as in the option file of a training run; a column of splits tells train, val and test.
        texts: reasoning texts of its training pictures by kind, JSON-lines files.
        whole_when_unseen: test on all its pictures where it is not trained on, and not on its test part alone.
    """

    table: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    whole_when_unseen: bool = False


@dataclass(kw_only=True)
class ArmOptions:
    """One way to teach.

    Attributes:
        texts: the kind of texts.
        changes: of the training's options, such as 'align:contrastive_weight': 0.
        added: further training sets, of `added`.
        added_share: share of each step's pictures that they have together.
        trained_on: of `trained_on`, those that this arm is trained on; None means all.
    """

    texts: str
    changes: dict[str, Any] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    added_share: Annotated[float, Gt(0), Lt(1)] = 0.4
    trained_on: Annotated[list[str], MinLen(1)] | None = None


@dataclass(kw_only=True)
class CarryOptions:
    """What is trained, and what it is tested on.

    Attributes:
        name: of the folder.
        training: options of all trainings, without datasets and name.
        encoders: changes of each encoder that the arms start from, by name.
        seeds: `manual_seed` of the repeats.
        sets: that people scored, by name.
        trained_on: names of the sets of each training.
        arms: by name; the first is what the others are compared with.
        added: training sets that arms may take besides.
        tests: sets that are only tested on.
        path: where to write.
    """

    name: str
    training: dict[str, Any]
    encoders: Annotated[dict[str, dict[str, Any]], MinLen(1)]
    seeds: Annotated[list[Seed], MinLen(1)]
    sets: Annotated[dict[str, SetOptions], MinLen(1)]
    trained_on: Annotated[dict[str, Annotated[list[str], MinLen(1)]], MinLen(1)]
    arms: Annotated[dict[str, ArmOptions], MinLen(1)]
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    path: PathOptions = field(default_factory=PathOptions)
    model_type: Literal['CARRY'] = 'CARRY'


@dataclass(frozen=True)
class Place:
    """One training in the table.

    Attributes:
        encoder, arm, trained_on: names of the options.
        seed: of the repeat.
        cell: the training.
        tested: name of the tested set by the training's section.
    """

    encoder: str
    arm: str
    trained_on: str
    seed: int
    cell: Cell
    tested: dict[str, str]


@dataclass(frozen=True)
class CarryResult:
    """What a study leaves.

    Attributes:
        root: its folder: results.csv, results.json, table.md, and a figure for each encoder.
        results: one for each arm, training and tested set.
        markdown: the tables.
        figures: PNG files.
    """

    root: Path
    results: list[Result]
    markdown: str
    figures: list[Path]


def carry_options(values: dict[str, Any]) -> CarryOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown or missing, or names something that is not there, or one thing twice.
    """
    options = from_known_keys(CarryOptions, values)
    _refuse_repeated('seeds', options.seeds)
    for name in options.tests:
        if name in options.sets:
            raise OptionError(f'tests: {name}: is one of sets, which are all tested on. Remove it, or give it another name.')
    for name in SECTIONS:
        if name in options.training:
            raise OptionError(f'training: {name}: is made by the study. Remove it.')
    for name, sets in options.trained_on.items():
        _check_names(f'trained_on: {name}', sets, options.sets)
    for name, arm in options.arms.items():
        _check_names(f'arms: {name}: added', arm.added, options.added)
        _check_names(f'arms: {name}: trained_on', arm.trained_on or (), options.trained_on)
        for each in {each for training in _trainings_of(arm, options) for each in options.trained_on[training]}:
            _check_names(f'arms: {name}: texts: {each}', [arm.texts], options.sets[each].texts)
    return options


def _refuse_repeated(option: str, values: Sequence[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise OptionError(f'{option}: {value} is named {values.count(value)} times, and would count as often. Name it '
                              'once.')


def _check_names(option: str, names: Sequence[str], known: Any) -> None:
    _refuse_repeated(option, names)
    for name in names:
        if name not in known:
            raise OptionError(f'{option}: "{name}" is not one of {", ".join(known) or "none"}.{did_you_mean(name, known)}')


def _trainings_of(arm: ArmOptions, options: CarryOptions) -> list[str]:
    return list(options.trained_on) if arm.trained_on is None else arm.trained_on


class Carry:
    """A planned study and its folder, `path: experiments_root` / `name`.

    Args:
        options: what is trained and tested.

    Raises:
        OptionError, DataError: the options of a training cannot be used; the message names its arm.
    """

    def __init__(self, options: CarryOptions):
        self.options = options
        self.root = Path(options.path.experiments_root) / options.name
        self.places = list(self._plan())

    @property
    def left(self) -> list[Place]:
        """The trainings that are not finished."""
        return [place for place in self.places if not self._result(place).exists()]

    def summary(self) -> str:
        """Return how much there is to do, in one line."""
        return f'{len(self.places)} trainings; {len(self.left)} are left.'

    def run(self) -> CarryResult:
        """Train what is missing, then write the tables and draw."""
        claim_run(self.root, self.options, continues=True, free=list(vars(self.options)))
        for place in progress_bar(self.left, desc='carry', unit='training'):
            run_cell(self.root / 'cells', self.root / 'encoders', place.cell, keep_models=False)
        return self.report()

    def report(self) -> CarryResult:
        """Write the tables of the trainings that are finished, and draw them."""
        rows = [row for place in self.places if self._result(place).exists() for row in self._rows(place)]
        write_csv(self.root / 'results.csv', COLUMNS, rows)
        results = with_intervals(summarised(rows, list(self.options.arms)), list(self.options.arms), self._scores())
        write_json(self.root / 'results.json', without_nan([vars(result) for result in results]))
        text = markdown(results, list(self.options.arms), list(self.options.trained_on), len(self.options.seeds))
        write_text(self.root / 'table.md', text)
        figures = []
        for encoder in dict.fromkeys(result.encoder for result in results):
            out = self.root / 'figures' / f'{encoder}.png'
            draw_carry([_dots(result) for result in results if result.encoder == encoder], out, encoder)
            figures.append(out)
        return CarryResult(self.root, results, text, figures)

    def _plan(self) -> Iterator[Place]:
        options, pictures = self.options, Pictures()
        for encoder, (arm_name, arm) in itertools.product(options.encoders, options.arms.items()):
            for trained_on, seed in itertools.product(_trainings_of(arm, options), options.seeds):
                sections, tested = sections_of(options, arm, options.trained_on[trained_on])
                self._check_texts(arm_name, options.trained_on[trained_on])
                values = {**options.training, 'datasets': sections, 'manual_seed': seed, 'bank': None}
                values['path'] = {**(values.get('path') or {}), 'feature_cache': options.path.feature_cache
                                  or str(self.root / 'feature_cache')}
                keys = sections_for(sections, 'val')
                values['val'] = {**(values.get('val') or {}), 'metrics': METRICS, 'key_metric': 'srcc', 'key_dataset': keys}
                try:
                    for changes in (options.encoders[encoder], arm.changes):
                        values = changed(values, changes)
                    cell = make_cell(values, pictures)
                except (OptionError, DataError) as error:
                    raise type(error)(f'{encoder}, {arm_name}, {trained_on}: {error}') from error
                yield Place(encoder, arm_name, trained_on, seed, cell, tested)

    def _check_texts(self, arm_name: str, trained_on: Sequence[str]) -> None:
        """Raise OptionError where an arm's texts are not there: a study that finds out after hours is no plan."""
        kind = self.options.arms[arm_name].texts
        for name in trained_on:
            path = self.options.sets[name].texts[kind]
            if not Path(path).is_file():
                raise OptionError(f'sets: {name}: texts: {kind}: {path} is not a file, and the arm "{arm_name}" learns from '
                                  'it. Write it first (pyiqa-rali prepare-people, measure-texts or write-texts), or name in '
                                  "the arm's trained_on what it can be trained on.")

    def _result(self, place: Place) -> Path:
        return self.root / 'cells' / place.cell.key / CELL

    def _scores(self) -> Scores:
        """Return MOS labels and scores of the tested images, by encoder, training, tested set, arm and seed."""
        found: Scores = {}
        for place in self.places:
            if self._result(place).exists():
                for section, name in place.tested.items():
                    arms = found.setdefault((place.encoder, place.trained_on, name), {})
                    table = self.root / 'cells' / place.cell.key / 'score' / f'{section}.csv'
                    with open(table, encoding='utf-8', errors='surrogateescape', newline='') as stream:
                        arms.setdefault(place.arm, {})[place.seed] = np.array(
                            [[float(row['mos_label']), float(row['score'])] for row in csv.DictReader(stream)])
        return found

    def _rows(self, place: Place) -> list[dict[str, Any]]:
        best = json.loads(self._result(place).read_text(encoding='utf-8'))['best']
        rows = []
        for section, name in place.tested.items():
            table = self.root / 'cells' / place.cell.key / 'score' / f'{section}.csv'
            with open(table, encoding='utf-8', errors='surrogateescape') as stream:
                images = sum(1 for _ in stream) - 1
            rows.append({'encoder': place.encoder, 'arm': place.arm, 'trained_on': place.trained_on, 'seed': place.seed,
                         'tested_on': name, 'in_domain': name in self.options.trained_on[place.trained_on], 'images': images,
                         'srcc': best[f'{section}/srcc'], 'plcc': best[f'{section}/plcc'], 'key': place.cell.key})
        return rows


def carry(options: CarryOptions) -> CarryResult:
    """Train the arms of a study that are not trained yet, and return its tables; see `Carry`."""
    return Carry(options).run()


def sections_of(options: CarryOptions, arm: ArmOptions, trained_on: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the data set sections of one training, and the name of the tested set by its section.

    Args:
        options: of the study.
        arm: which texts and further sets.
        trained_on: names of the sets.
    """
    people = {name: {'name': name, **options.sets[name].table} for name in options.sets}
    sections: dict[str, Any] = {}
    several = len(trained_on) + len(arm.added) > 1
    share = (1 - arm.added_share if arm.added else 1) / len(trained_on)
    batch_size = options.sets[trained_on[0]].table.get('batch_size_per_gpu', 64)  # of all training sets together
    for number, name in enumerate(trained_on, start=1):
        own = {'share': share} if several else {}
        sections[f'train_{number}'] = {**people[name], 'phase': 'train', 'reasoning_texts': options.sets[name].texts[arm.texts],
                                       **own, 'batch_size_per_gpu': batch_size}
        sections[f'val_{number}'] = {**people[name], 'phase': 'val'}
    for number, name in enumerate(arm.added, start=len(trained_on) + 1):
        sections[f'train_{number}'] = {'name': name, **options.added[name], 'share': arm.added_share / len(arm.added)}
    tested = {}
    for number, name in enumerate([*options.sets, *options.tests], start=1):
        table = dict(people[name]) if name in people else {'name': name, **options.tests[name]}
        table.setdefault('phase', 'test')
        if name in people and name not in trained_on and options.sets[name].whole_when_unseen:
            table.pop('split_index', None)
        sections[f'test_{number}'], tested[f'test_{number}'] = table, name
    return sections, tested


def _dots(result: Result) -> Dots:
    return Dots(result.arm, result.trained_on, result.tested_on, result.in_domain, np.array(result.srcc))
