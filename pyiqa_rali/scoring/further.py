"""What a table may say beside the score: columns that a net computes from the image features that the score comes from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pyiqa_rali.core.errors import CheckpointError, OptionError, first_line

if TYPE_CHECKING:
    from torch import Tensor

LOW, HIGH, UNLIKE, HANDED_ON, ALIGNMENT = 'low', 'high', 'unlike', 'handed_on', 'alignment'


class Further(Protocol):
    """Columns beside the score; each picture is encoded once for all of them.

    Attributes:
        columns: their names, in order.
        label: what the column `metric` says of them, so that a table never holds two kinds.
    """

    columns: Sequence[str]
    label: str

    def __call__(self, net: Any, features: 'Tensor', scores: 'Tensor', images: Sequence[str]) -> 'Tensor':
        """Return the columns (N, len(columns)) for image features (N, C) and scores (N, 1) of a `RALI`.

        Other nets have no image features to give: `features` are the scores then.

        Args:
            net: that scored.
            features: (N, C).
            scores: (N, 1).
            images: names of the N pictures.
        """


class IntervalColumns:
    """The ends of the interval around the score, and whether a picture is unlike those of the calibration (1 or 0).

    Args:
        percent: of the images like those of the calibration, whose MOS lies within.

    Raises:
        OptionError: see `coverage_of`.
    """

    def __init__(self, percent: float):
        from pyiqa_rali.model.interval import coverage_of
        self.coverage = coverage_of(percent)
        self.columns: Sequence[str] = (LOW, HIGH, UNLIKE)
        self.label = f'interval={percent:g}'

    def check(self, metric: Any, name: str) -> None:
        """Raise OptionError or CheckpointError where a metric has no interval of this coverage.

        Args:
            metric: of pyiqa.
            name: its name, for the message.
        """
        from pyiqa_rali.model.interval import NO_INTERVAL
        from pyiqa_rali.model.rali import RALI
        net = getattr(metric, 'net', None)
        if not isinstance(net, RALI):
            raise OptionError(f'--interval: "{name}" has no intervals; those of RALI that were calibrated have. Leave it out.')
        if net.interval is None:
            raise CheckpointError(f'{name}: {NO_INTERVAL}')
        net.interval.quantile(self.coverage)

    def __call__(self, net: Any, features: 'Tensor', scores: 'Tensor', images: Sequence[str]) -> 'Tensor':
        """Return low, high and unlike (N, 3)."""
        import torch
        found = net.intervals_of(features, scores, self.coverage)
        return torch.cat([found.low, found.high, found.unlike.to(found.low.dtype)], dim=1)


class AspectColumns:
    """How good each aspect of quality is, in [0, 1], as a checkpoint's diagnosis reads it.

    Args:
        metric: of pyiqa.
        name: its name, for messages.

    Raises:
        OptionError: it is no RALI.
        CheckpointError: its checkpoint has no diagnosis.
    """

    def __init__(self, metric: Any, name: str):
        self.label = 'aspects'
        from pyiqa_rali.model.diagnosis import NO_ASPECTS
        from pyiqa_rali.model.rali import RALI
        net = getattr(metric, 'net', None)
        if not isinstance(net, RALI):
            raise OptionError(f'--aspects: "{name}" has no aspects; those of RALI that have a diagnosis have. Leave it out.')
        if net.diagnosis is None:
            raise CheckpointError(f'{name}: {NO_ASPECTS}')
        self.columns: Sequence[str] = net.diagnosis.aspects

    def __call__(self, net: Any, features: 'Tensor', scores: 'Tensor', images: Sequence[str]) -> 'Tensor':
        """Return the aspects (N, number of aspects)."""
        return net.diagnosis.read(features).values.to(scores.dtype)


class Prompts(Protocol):
    """Where the prompts of pictures are found; see `data.prompted`.

    Attributes:
        digest: what tells these prompts from others.
    """

    digest: str

    def prompt_of(self, image: str) -> str:
        """Return the prompt of the picture of this name, or raise DataError where it has none."""


class AlignmentColumn:
    """How well each generated picture agrees with the prompt that it was made from, in the unit of the training MOS.

    Args:
        prompts: of the pictures. One without a prompt has a reason in place of its score.
        metric: of pyiqa.
        name: its name, for messages.

    Raises:
        OptionError: it is no RALI.
        CheckpointError: its checkpoint has no alignment with prompts.
    """

    def __init__(self, prompts: Prompts, metric: Any, name: str):
        self.columns: Sequence[str] = (ALIGNMENT,)
        self.label = f'{ALIGNMENT}={prompts.digest}'  # a table continues with the prompts that it was begun with
        self._prompts = prompts
        from pyiqa_rali.model.prompt_scorer import NO_ALIGNMENT
        from pyiqa_rali.model.rali import RALI
        net = getattr(metric, 'net', None)
        if not isinstance(net, RALI):
            raise OptionError(f'--prompts: "{name}" looks at no prompt; a RALI that was trained with aspects does. Leave it '
                              'out.')
        if net.prompts is None:
            raise CheckpointError(f'{name}: {NO_ALIGNMENT}')

    def __call__(self, net: Any, features: 'Tensor', scores: 'Tensor', images: Sequence[str]) -> 'Tensor':
        """Return the alignment (N, 1)."""
        return net.prompt_scores_of(features, scores, [self._prompts.prompt_of(image) for image in images]).alignment


class HandedOn:
    """Whether a cascade has handed a picture on to its slow metric (1 or 0)."""

    def __init__(self) -> None:
        self.columns: Sequence[str] = (HANDED_ON,)
        self.label = ''

    def __call__(self, net: Any, features: 'Tensor', scores: 'Tensor', images: Sequence[str]) -> 'Tensor':
        """Return (N, 1), for the pictures that the net has just scored."""
        return net.handed_on.to(scores).unsqueeze(1)


def further_of(metric: Any, name: str, interval: IntervalColumns | None = None, aspects: bool = False,
               prompts: Prompts | None = None) -> list[Further]:
    """Return the columns beside the score of a metric: its own, and those that were asked for.

    Args:
        metric: of pyiqa.
        name: its name, for messages.
        interval: that was asked for.
        aspects: whether they were.
        prompts: of the pictures, where alignment with them was asked for.

    Raises:
        OptionError, CheckpointError: it does not have what was asked for.
    """
    from pyiqa_rali.scoring.cascade import Cascade
    found: list[Further] = [HandedOn()] if isinstance(getattr(metric, 'net', None), Cascade) else []
    if interval is not None:
        interval.check(metric, name)
        found.append(interval)
    if aspects:
        found.append(AspectColumns(metric, name))
    return found if prompts is None else [*found, AlignmentColumn(prompts, metric, name)]


def further_of_several(metrics: Sequence[Any], names: Sequence[str], interval: IntervalColumns | None = None,
                       aspects: bool = False) -> tuple[list[list[Further]], list[str]]:
    """Return the columns beside the score of each of several metrics, of those that were asked for the ones that it has.

    Returns:
        The columns of each metric, and what is to be told of metrics that do not have some; a single metric must have all.

    Raises:
        OptionError: no metric has what was asked for.
    """
    if len(metrics) == 1:
        return [further_of(metrics[0], names[0], interval, aspects)], []
    told: list[str] = []
    found = [further_of(metric, name) for metric, name in zip(metrics, names, strict=True)]
    options = (('--interval', interval, False), ('--aspects', None, aspects))
    for option, own_interval, own_aspects in [each for each in options if each[1] is not None or each[2]]:
        reasons: list[str] = []
        for own, metric, name in zip(found, metrics, names, strict=True):
            try:
                own += [each for each in further_of(metric, name, own_interval, own_aspects)
                        if not isinstance(each, HandedOn)]
            except (OptionError, CheckpointError) as error:
                reasons.append(first_line(error).removeprefix(f'{option}: ').removesuffix(' Leave it out.'))
        if len(reasons) == len(metrics):
            raise OptionError(f'{option}: no metric has these columns. ' + ' '.join(reasons))
        told += [f'No columns of {option} for one of the metrics: {reason}' for reason in reasons]
    return found, told


def columns_of(further: Sequence[Further]) -> tuple[str, ...]:
    """Return the names of all columns."""
    return tuple(name for each in further for name in each.columns)


def with_labels(metric: str, further: Sequence[Further]) -> str:
    """Return what the column `metric` says of a metric whose table has further columns."""
    return ' '.join([metric, *(each.label for each in further if each.label)])
