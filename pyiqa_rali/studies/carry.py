"""Does aligning with texts carry across data sets better than regressing MOS? One encoder, the same pictures, several teachers.

Every arm is trained on each choice of data sets that people scored, for several seeds, and tested on all of them, in-domain and
on sets that it was not trained on. The epoch is chosen on the validation parts of the sets trained on, and on nothing else.
The cells are ordinary training runs, as those of an ablation: named by all that their results depend on, kept and resumed.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Lt, MinLen

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.files import without_nan, write_json, write_text
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.options import Seed, from_known_keys
from pyiqa_rali.core.runs import claim_run
from pyiqa_rali.core.tables import markdown_table, write_csv
from pyiqa_rali.data.sections import sections_for
from pyiqa_rali.figures.carry import Dots, draw_carry
from pyiqa_rali.measures.agreement import bootstrap_indices, percentile_interval, resampled
from pyiqa_rali.studies.ablation.plan import Cell, changed, make_cell
from pyiqa_rali.studies.ablation.run import CELL, run_cell
from pyiqa_rali.training.rali.options import PathOptions

SECTIONS = ('datasets', 'name')  # of a training run: the study makes them
COLUMNS = ('encoder', 'arm', 'trained_on', 'seed', 'tested_on', 'in_domain', 'images', 'srcc', 'plcc', 'key')
RESAMPLES, CONFIDENCE = 1000, 0.95
Scores = dict[tuple[str, str, str], dict[str, dict[int, np.ndarray]]]  # (images, 2) MOS label and score by place, arm and seed
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
    trained_on: list[str] | None = None


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
    trained_on: Annotated[dict[str, list[str]], MinLen(1)]
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
class Result:
    """SRCC of all seeds of one arm on one set.

    Attributes:
        encoder, arm, trained_on, tested_on: names of the options.
        in_domain: whether the set is among those trained on.
        images: that it was tested on.
        srcc: of the seeds, in their order.
        change: of the seeds, minus the first arm's of the same seed.
        interval: 95 % interval of the mean change over images: a paired percentile bootstrap, in which all arms and seeds are
            given the same images. None for the first arm.
    """

    encoder: str
    arm: str
    trained_on: str
    tested_on: str
    in_domain: bool
    images: int
    srcc: tuple[float, ...]
    change: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None


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
        OptionError: a key is unknown or missing, or names something that is not there.
    """
    options = from_known_keys(CarryOptions, values)
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


def _check_names(option: str, names: Sequence[str], known: Any) -> None:
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
        text = markdown(results, self.options)
        write_text(self.root / 'table.md', text)
        figures = []
        for encoder in dict.fromkeys(result.encoder for result in results):
            out = self.root / 'figures' / f'{encoder}.png'
            draw_carry([_dots(result) for result in results if result.encoder == encoder], out, encoder)
            figures.append(out)
        return CarryResult(self.root, results, text, figures)

    def _plan(self) -> Iterator[Place]:
        options = self.options
        for encoder, (arm_name, arm) in itertools.product(options.encoders, options.arms.items()):
            for trained_on, seed in itertools.product(_trainings_of(arm, options), options.seeds):
                sections, tested = sections_of(options, arm, options.trained_on[trained_on])
                values = {**options.training, 'datasets': sections, 'manual_seed': seed, 'bank': None}
                values['path'] = {**(values.get('path') or {}), 'feature_cache': options.path.feature_cache
                                  or str(self.root / 'feature_cache')}
                keys = sections_for(sections, 'val')
                values['val'] = {**(values.get('val') or {}), 'metrics': METRICS, 'key_metric': 'srcc', 'key_dataset': keys}
                try:
                    for changes in (options.encoders[encoder], arm.changes):
                        values = changed(values, changes)
                    cell = make_cell(values)
                except OptionError as error:
                    raise OptionError(f'{encoder}, {arm_name}, {trained_on}: {error}') from error
                yield Place(encoder, arm_name, trained_on, seed, cell, tested)

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
    for number, name in enumerate(trained_on, start=1):
        own = {'share': share} if several else {}
        sections[f'train_{number}'] = {**people[name], 'phase': 'train', 'reasoning_texts': options.sets[name].texts[arm.texts],
                                       **own, 'batch_size_per_gpu': options.sets[name].table.get('batch_size_per_gpu', 64)}
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


def summarised(rows: Sequence[dict[str, Any]], arms: Sequence[str]) -> list[Result]:
    """Put the seeds of the same arm, training and test together, and compare them with the first arm's.

    Args:
        rows: of results.csv.
        arms: in their order.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row['encoder'], row['trained_on'], row['tested_on'], row['arm']), []).append(row)
    results = []
    for (encoder, trained_on, tested_on, arm), members in groups.items():
        reference = {row['seed']: row['srcc'] for row in groups.get((encoder, trained_on, tested_on, arms[0]), ())}
        change = tuple(row['srcc'] - reference[row['seed']] for row in members if row['seed'] in reference)
        results.append(Result(encoder, arm, trained_on, tested_on, members[0]['in_domain'], members[0]['images'],
                              tuple(row['srcc'] for row in members), change))
    return results


def with_intervals(results: Sequence[Result], arms: Sequence[str], scores: Scores) -> list[Result]:
    """Return the results with the interval of each arm's mean change against the first arm.

    Args:
        results: of `summarised`.
        arms: in their order.
        scores: of the same arms, trainings and tested sets.
    """
    memory: dict[tuple[str, ...], dict[int, np.ndarray]] = {}

    def resamples(place: tuple[str, str, str], arm: str) -> dict[int, np.ndarray]:
        """Return SRCC of each resample by seed. That of the first arm is needed by all others."""
        if (*place, arm) not in memory:
            found = {}
            for seed, table in scores[place][arm].items():
                mos, score = table[:, 0], table[:, 1]
                indices = bootstrap_indices(len(mos), RESAMPLES, 0, place[2])
                found[seed] = resampled('srcc', score, mos, indices)
            memory[*place, arm] = found
        return memory[*place, arm]

    finished = []
    for result in results:
        place = (result.encoder, result.trained_on, result.tested_on)
        if result.arm != arms[0] and result.change:
            own, first = resamples(place, result.arm), resamples(place, arms[0])
            mean = np.mean([own[seed] - first[seed] for seed in own if seed in first], axis=0)
            result = replace(result, interval=percentile_interval(mean, CONFIDENCE))
        finished.append(result)
    return finished


def markdown(results: Sequence[Result], options: CarryOptions) -> str:
    """Return one table for each encoder: an arm and its training sets a row, a tested set a column."""
    first = next(iter(options.arms))
    parts = [f'SRCC, median [lowest, highest] of {len(options.seeds)} seeds. *Italic*: tested in-domain, on the test part of a '
             f'set trained on. In brackets after it: the median change against "{first}" of the same seed, and the 95 % '
             f'interval of the mean change over images (paired bootstrap of {RESAMPLES}), **bold** where it excludes 0.']
    for encoder in dict.fromkeys(result.encoder for result in results):
        own = [result for result in results if result.encoder == encoder]
        tested = list(dict.fromkeys(result.tested_on for result in own))
        lines = []
        for trained_on, arm in itertools.product(options.trained_on, options.arms):
            found = {result.tested_on: result for result in own if (result.trained_on, result.arm) == (trained_on, arm)}
            if found:
                lines.append([trained_on, arm, *(_cell(found[name], arm == first) for name in tested)])
        parts += [f'## {encoder}', markdown_table(['trained on', 'arm', *tested], lines)]
    return '\n\n'.join(parts) + '\n'


def _cell(result: Result, is_reference: bool) -> str:
    low, high = (_short(bound) for bound in (min(result.srcc), max(result.srcc)))
    text = f'{_short(float(np.median(result.srcc)))} [{low}, {high}]'
    text = f'*{text}*' if result.in_domain else text
    if is_reference or not result.change:
        return text
    change = _short(float(np.median(result.change)), '+')
    if result.interval is None:
        return f'{text} ({change})'
    least, most = result.interval
    told = f'{change} [{_short(least, "+")}, {_short(most, "+")}]'
    return f'{text} (**{told}**)' if least > 0 or most < 0 else f'{text} ({told})'


def _short(value: float, sign: str = '') -> str:
    return f'{value:{sign}.3f}'.replace('0.', '.', 1)


def _dots(result: Result) -> Dots:
    return Dots(result.arm, result.trained_on, result.tested_on, result.in_domain, np.array(result.srcc))
