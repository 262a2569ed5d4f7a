"""A cluster that scores, simulated task by task: where listing, sending, reading or writing becomes the bottleneck.

The tasks are those of the real engine. One process lists names, one sends tasks, all share storage and the place of the table,
and every core scores; a task waits for each of them in turn. What each can do in a second is measured (`studies.scale.measure`)
or given.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.scoring.cluster.tasks import size_of_task

MACHINES = {16: 'c7a.4xlarge', 64: 'c7a.16xlarge', 192: 'c7a.48xlarge'}  # names of machines with so many cores
SPREAD = 0.1  # standard deviation of the logarithm of a task's time: pictures differ, and so do machines
STAGES = ('listing', 'sending', 'reading', 'scoring', 'writing')


@dataclass(frozen=True)
class Rates:
    """What each part can do.

    Attributes:
        scoring: images per second of one core, with reading and decoding where storage is not waited for.
        listing: names per second of the process that lists; by default what was measured of a list.
        sending: tasks per second of the process that was started; by default what was measured.
        reading: bytes per second of storage, all machines together.
        image: bytes of an image.
        writing: files of the table per second, all machines together.
        start: seconds until a process scores its first image.
    """

    scoring: float
    listing: float = 56_000.0
    sending: float = 87.0
    reading: float = 10e9
    image: float = 100e3
    writing: float = 1000.0
    start: float = 15.0

    def __post_init__(self) -> None:
        """Raise OptionError for a number that is not above 0."""
        for name, value in vars(self).items():
            if not value > 0:
                raise OptionError(f'{name}: {value} must be above 0.')


@dataclass
class Outcome:
    """What a cluster needs for a job.

    Attributes:
        cores: of all machines.
        seconds: from the start to the last row.
        images: in the job.
        used: the share of the time that each stage is busy; for scoring, of all cores.
    """

    cores: int
    seconds: float
    images: int
    used: dict[str, float] = field(default_factory=dict)

    @property
    def bottleneck(self) -> str:
        """The stage that is busy for the largest share of the time."""
        return max(self.used, key=lambda stage: self.used[stage])

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def core_hours(self) -> float:
        """Hours of one core that are paid for."""
        return self.cores * self.seconds / 3600


def task_sizes(images: int) -> Iterator[int]:
    """Yield the number of images of each task of a job."""
    number = 0
    while images > 0:
        size = min(images, size_of_task(number))
        yield size
        images, number = images - size, number + 1


def simulate(images: int, cores: int, rates: Rates, seed: int = 0) -> Outcome:
    """Run a job of files, as the engine cuts it, on a simulated cluster.

    Args:
        images: in the job.
        cores: of all machines, one process each.
        rates: what each part can do.
        seed: of the tasks' times.

    Raises:
        OptionError: there is no image or no core.
    """
    if images < 1 or cores < 1:
        raise OptionError(f'images: {images} and cores: {cores} must be at least 1.')
    rng = random.Random(seed)
    free = [rates.start] * cores  # when each core can take its next task: a heap
    listed = sent = read = written = end = 0.0  # when each of the others has done its part of the last task
    busy = dict.fromkeys(STAGES, 0.0)
    for size in task_sizes(images):
        parts = {'listing': size / rates.listing, 'sending': 1 / rates.sending, 'reading': size * rates.image / rates.reading,
                 'scoring': size / rates.scoring * rng.lognormvariate(0, SPREAD), 'writing': 1 / rates.writing}
        listed += parts['listing']
        sent = max(listed, sent) + parts['sending']  # tasks are sent, and taken, in their order
        begun = max(sent, heapq.heappop(free))
        read = max(begun, read) + parts['reading']
        scored = max(begun + parts['scoring'], read)  # pictures are scored while others are read
        written += parts['writing']  # of all files so far, if they had come one after the other
        done = scored + parts['writing']
        heapq.heappush(free, done)
        end = max(end, done, written)
        for stage, seconds in parts.items():
            busy[stage] += seconds
    return Outcome(cores, end, images, {stage: seconds / end / (cores if stage == 'scoring' else 1)
                                        for stage, seconds in busy.items()})


def table(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Return rows for a table of outcomes."""
    rows = []
    for outcome in outcomes:
        machines = {cores: outcome.cores / cores for cores in MACHINES if outcome.cores >= cores and outcome.cores % cores == 0}
        cores, count = max(machines.items(), default=(0, 0.0))
        rows.append({
            'cores': f'{outcome.cores:,}'.replace(',', ' '),
            'machines': f'{count:.0f} x {MACHINES[cores]}' if count else '',
            'hours': f'{outcome.seconds / 3600:.2f}',
            'machine hours': f'{count * outcome.seconds / 3600:.0f}' if count else '',
            'images/s': f'{outcome.rate:.0f}',
            'busy': ', '.join(f'{stage} {share:.0%}' for stage, share in outcome.used.items()),
            'bottleneck': outcome.bottleneck,
        })
    return rows
