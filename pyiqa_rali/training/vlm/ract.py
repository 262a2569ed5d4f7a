"""RACT: a reasoning model for several data sets whose MOS scales disagree (arXiv 2510.11369, section on RACT).

Three steps, each writing files that the next one reads: a teacher for each data set by GRPO, its texts on that data set's
images, and one student for all by supervised fine-tuning on those texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.options import OptionSource, Seed, from_known_keys, read_yaml, values_of
from pyiqa_rali.core.runs import claim_run
from pyiqa_rali.data.inspection import refuse_unusable
from pyiqa_rali.data.sections import DatasetOptions
from pyiqa_rali.training.rali.options import PathOptions
from pyiqa_rali.training.vlm.grpo import run_grpo
from pyiqa_rali.training.vlm.options import GrpoOptions, SftOptions, grpo_options, sft_options
from pyiqa_rali.training.vlm.run import ReasoningResults
from pyiqa_rali.training.vlm.run_images import inspect_rows, size_problem
from pyiqa_rali.training.vlm.sft import examples_of, run_sft
from pyiqa_rali.vlm.loading import load_vlm, load_without_weights
from pyiqa_rali.vlm.tables import image_files, known_distortions, rows_of
from pyiqa_rali.vlm.write_texts import OF_NO_TEXT, WritingOptions, write_texts

Step = Literal['teach', 'write', 'tune']
STEPS: tuple[Step, ...] = ('teach', 'write', 'tune')
FIRST_TEACHER = 'first teacher'


@dataclass(kw_only=True)
class RactOptions:
    """One run of RACT.

    Attributes:
        name: of the run.
        manual_seed: of everything.
        datasets: option sections of the data sets, by name.
        teacher: option file of GRPO, whose data sets are replaced by one of these for each teacher.
        texts: how each teacher writes.
        student: sections of an SFT option file without its data sets; `network: pretrained: first teacher` starts from the
            teacher of the first data set.
        steps: some of teach, write, tune, in this order.
        path: where to write.
    """

    name: str
    manual_seed: Seed
    datasets: Annotated[dict[str, DatasetOptions], MinLen(1)]
    teacher: str
    texts: WritingOptions
    student: dict[str, Any]
    steps: Annotated[list[Step], MinLen(1)] = field(default_factory=lambda: list(STEPS))
    path: PathOptions = field(default_factory=PathOptions)
    model_type: Literal['RACT'] = 'RACT'


@dataclass(frozen=True)
class RactResults:
    """What the steps of a run of RACT have produced.

    Attributes:
        folder: its files.
        teachers: the folder of each data set's reasoning model.
        texts: the file of each teacher's texts.
        student: of the last step.
    """

    folder: Path
    teachers: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, Path] = field(default_factory=dict)
    student: ReasoningResults | None = None


def run_ract(options: RactOptions | OptionSource, auto_resume: bool = False, overrides: Sequence[str] = ()) -> RactResults:
    """Run the steps of RACT.

    Args:
        options: of the run: an option file, or an object.
        auto_resume: keep what an interrupted run has finished.
        overrides: 'section:key=value' entries.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    read = ract_options(values_of(options, overrides))
    if processes.world_size() > 1 and 'write' in read.steps:
        raise OptionError(f'steps: {read.steps}: write is for one process, and there are {processes.world_size()}. Run the '
                          'steps one by one, this one without accelerate launch or torchrun: --force_yml steps=[write].')
    root = Path(read.path.experiments_root) / read.name
    run = Ract(read, root, auto_resume)
    run.check()
    run.check_images()
    if processes.is_main():  # the others wait where the trainer's processes join, and touch nothing before that
        claim_run(root, read, auto_resume or read.steps[0] != 'teach', ('steps', 'path', *OF_NO_TEXT))
    results = RactResults(root)
    for step in read.steps:
        results = replace(results, **getattr(run, step)())
    return results


def ract_options(values: Mapping[str, Any]) -> RactOptions:
    """Turn plain values into checked options."""
    options = from_known_keys(RactOptions, values)
    if options.steps != [step for step in STEPS if step in options.steps]:
        raise OptionError(f'steps: {options.steps} must be some of {list(STEPS)}, in this order.')
    return options


class Ract:
    """The steps of one run.

    Args:
        options: of the run.
        root: its folder.
        resume: keep what is finished.
    """

    def __init__(self, options: RactOptions, root: Path, resume: bool):
        self.options, self.root, self.resume = options, root, resume

    def check(self) -> None:
        """Check the options of all teachers and of the student before the first step, which may take days.

        Raises:
            OptionError: some cannot be used; the message names the section, or the teacher's option file.
        """
        for section, made in ((f'teacher: {self.options.teacher}', self._all_teacher_options),
                              ('student', self.student_options)):
            try:
                made()
            except OptionError as error:
                raise OptionError(f'{section}: {error}') from error

    def check_images(self) -> None:
        """Read the images of all data sets before the first step: a damaged one in the last set would only be found after days.

        Raises:
            DataError: images that cannot be used; all of them are named.
            CheckpointError: the model that they are for cannot be found.
        """
        options = self._all_teacher_options()
        start = options[0].network if 'teach' in self.options.steps else None
        first = self.teacher(next(iter(self.options.datasets)))
        if start is None and not first.exists():
            return  # the steps themselves report which one has to be run first
        processor = load_without_weights(first if start is None else start.pretrained).processor
        rows = [row for each in options for row in rows_of('train', each.datasets['train'], each.prompts, each.manual_seed)]
        if processes.world_size() > 1:  # as the trainers do later: a separate group could not be left and joined again
            from accelerate import PartialState
            PartialState(cpu=not torch.cuda.is_available())
        refuse_unusable(inspect_rows(rows).values(), 'images', size_problem(processor))

    def teacher_options(self, name: str, table: DatasetOptions) -> GrpoOptions:
        """Return the options of a data set's teacher."""
        values = read_yaml(self.options.teacher)
        values.update(name=f'teacher_{name}', manual_seed=self.options.manual_seed, datasets={'train': table},
                      path={'experiments_root': str(self.root)})
        values['val'] = {**(values.get('val') or {}), 'val_freq': None}
        return grpo_options(values)

    def student_options(self) -> SftOptions:
        """Return the options of the student."""
        values = {'model_type': 'SFT', **self.options.student, 'name': 'student', 'manual_seed': self.options.manual_seed,
                  'path': {'experiments_root': str(self.root)}}
        if (values.get('network') or {}).get('pretrained') == FIRST_TEACHER:
            first = self.teacher(next(iter(self.options.datasets)))
            values['network'] = {**values['network'], 'pretrained': str(first)}
        values['datasets'] = {f'train_{name}': {**table.given(), 'reasoning_texts': str(self.texts(name))}
                              for name, table in self.options.datasets.items()}
        values['val'] = {**(values.get('val') or {}), 'val_freq': None}
        return sft_options(values)

    def _all_teacher_options(self) -> list[GrpoOptions]:
        return [self.teacher_options(name, table) for name, table in self.options.datasets.items()]

    def teacher(self, name: str) -> Path:
        """Return the folder of a data set's reasoning model."""
        return self.root / f'teacher_{name}' / 'models' / 'reasoning'

    def texts(self, name: str) -> Path:
        """Return the file of a teacher's texts."""
        return self.root / 'texts' / f'{name}.jsonl'

    def teach(self) -> dict[str, Any]:
        """One reasoning model for each data set, by GRPO."""
        for name, table in self.options.datasets.items():
            run_grpo(self.teacher_options(name, table), self.resume)
        return {'teachers': {name: self.teacher(name) for name in self.options.datasets}}

    def write(self) -> dict[str, Any]:
        """Each teacher's texts on the images of its own data set."""
        reports = {}
        for name, table in self.options.datasets.items():
            if not self.teacher(name).exists():
                raise CheckpointError(f'{self.teacher(name)}: does not exist. Run the step before (steps: [teach, write, '
                                      'tune]).')
            reasoner = load_vlm(self.teacher(name))
            reasoner.model.to('cuda' if torch.cuda.is_available() else 'cpu')
            images = image_files('train', table, self.options.manual_seed)
            known = known_distortions('train', table, self.options.manual_seed)
            settings = WritingOptions(**{**asdict(self.options.texts), 'seed': self.options.manual_seed})
            reports[name] = asdict(write_texts(reasoner, images, self.texts(name), settings,
                                               reading=table.reading, distortions=known))
        write_json(self.root / 'texts' / 'report.json', reports)
        return {'texts': {name: self.texts(name) for name in self.options.datasets}}

    def tune(self) -> dict[str, Any]:
        """One student for all data sets, by supervised fine-tuning on the texts."""
        missing = [str(self.texts(name)) for name in self.options.datasets if not self.texts(name).exists()]
        if missing:
            raise CheckpointError(f'{missing[0]}: does not exist. Run the step before (steps: [write, tune]).')
        options = self.student_options()
        return {'student': run_sft(options, *examples_of(options), auto_resume=self.resume)}
