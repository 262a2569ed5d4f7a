"""What a reasoning model is asked, the scale of its answers, and the file beside its weights that records both."""

import json
import math
import os
import re
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.options import from_known_keys, read_yaml
from pyiqa_rali.vlm.decoding import missing_prompts

CARD_FILE = 'pyiqa_rali_reasoning.json'
FORMAT_VERSION = 1
FORMAT_WITH_SYSTEM = 2  # written only with a system prompt: earlier versions, which know none, then ask for an update
DEGRADATIONS = ('noise', 'compression', 'blur', 'darken', 'null')
SEVERITIES = ('slight', 'moderate', 'obvious', 'serious', 'catastrophic')

FIELD = re.compile(r'\{(\w*[\w.]*)(?:![rsa])?(?::[^{}"\']*)?\}')  # what `str.format` fills in; braces of JSON hold more

SCORE_PROMPT = (
    'Judge the technical quality of this picture: its sharpness, noise, compression, exposure and colours. Reason first, '
    'between <think> and </think>. Then rate it from {low:g} (bad) to {high:g} (excellent), with up to two decimals, as JSON '
    'between <answer> and </answer>, for example <answer>{{"{key}": {example}}}</answer>.')
DEGRADATION_PROMPT = (
    'Find out how this picture was degraded. Reason first, between <think> and </think>. Then name the main degradation, one '
    'of ' + ', '.join(DEGRADATIONS) + ' (null: not degraded), and its severity, one of ' + ', '.join(SEVERITIES) + ' (null '
    'when there is none), as JSON between <answer> and </answer>, for example <answer>{{"distortion_class": "noise", '
    '"severity": "obvious"}}</answer>.')


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about one picture.

    Attributes:
        question: the user's text, which follows the picture.
        system: the system message before it, verbatim; None leaves it to the model's chat template, which may insert one of its
            own.
    """

    question: str
    system: str | None = None


def filled_in(template: str, **values: Any) -> str:
    """Return a text with its fields filled in: as `str.format` does it, or with the braces of JSON in it as they stand.

    Prompts often show the JSON that they ask for. Where a text is no template of `str.format`, because it has braces around
    something that is no name, and where no brace that opens is written twice, all braces but those of the fields stay.

    Raises:
        KeyError, IndexError, ValueError, AttributeError: it is neither.

    Example:
        >>> filled_in('From {low:g}, as {{"rating": 3}}', low=1.0), filled_in('From {low:g}, as {"a": {"b": 3}}', low=1.0)
        ('From 1, as {"rating": 3}', 'From 1, as {"a": {"b": 3}}')
    """
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError):
        if '{{' in template or any(field[1] not in values for field in FIELD.finditer(template)):
            raise  # a field that is not known, or braces that are written twice only in places
    return FIELD.sub(lambda field: field[0].format(**values), template)


@dataclass
class ReasoningCard:
    """What a reasoning model must be asked, and what its answers mean.

    Attributes:
        score_prompt: the question for a rating; `{low}`, `{high}`, `{key}` and `{example}` are filled in.
        degradation_prompt: the question for degradation class and severity.
        rating_range: lowest and highest rating that the model writes; higher is better.
        rating_key: the key of the rating in the answer's JSON.
        with_rating: whether it was trained to write a rating; otherwise its texts are valid without one.
        training: a sentence on how it was trained.
        system_prompt: the system message, word for word (nothing is filled in); None leaves it to the chat template.
    """

    score_prompt: str = SCORE_PROMPT
    degradation_prompt: str = DEGRADATION_PROMPT
    rating_range: list[float] = field(default_factory=lambda: [1.0, 5.0])
    rating_key: str = 'rating'
    with_rating: bool = True
    training: str = 'unspecified'
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        if not _is_range(self.rating_range):
            raise OptionError(f'rating_range: {self.rating_range!r} must be [lowest, highest], two numbers such as [1, 5].')
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise OptionError(f'system_prompt: {self.system_prompt!r} is empty. Leave it out for what the chat template does '
                              'by itself.')

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest rating."""
        low, high = self.rating_range
        return low, high

    def prompt(self, task: str = 'score') -> Prompt:
        """Return what is asked for a task, 'score' or 'degradation'."""
        low, high = self.rating_range
        template = {'score': self.score_prompt, 'degradation': self.degradation_prompt}[task]
        try:
            question = filled_in(template, low=low, high=high, key=self.rating_key,
                                 example=f'{low + 0.605 * (high - low):.2f}')
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise OptionError(f'prompts: {task}_prompt: {template!r} cannot be filled in ({error!r}). Known are {{low}}, '
                              '{high}, {key} and {example}; write all other braces twice, or, as in JSON, all of them '
                              'once.') from error
        return Prompt(question, self.system_prompt)

    def save(self, folder: Path) -> None:
        """Write the card beside a model's weights."""
        values = asdict(self)
        version = FORMAT_VERSION if values['system_prompt'] is None else FORMAT_WITH_SYSTEM
        if version == FORMAT_VERSION:
            del values['system_prompt']
        write_json(folder / CARD_FILE, {'format_version': version, **values})


def read_prompts(path: str | os.PathLike) -> dict[str, Any]:
    """Return the parts of a card that a YAML file gives, such as `score_prompt` and `system_prompt`.

    Args:
        path: the file; its keys are those of a `ReasoningCard`, at the top or below `prompts:` as in option files.

    Raises:
        OptionError: the file is missing, or a key is unknown or has a value that cannot be used.
    """
    try:
        values = read_yaml(path)
    except OptionError as error:
        raise OptionError(f'prompts: {str(error).removeprefix("-opt: ")}') from error
    values = values.get('prompts', values)
    from_known_keys(ReasoningCard, values, f'prompts: {path}').prompt()
    return dict(values)


def card_for(card: ReasoningCard | None, source: str | os.PathLike, prompts: str | os.PathLike | None = None,
             release: str | None = None, **given: Any) -> ReasoningCard:
    """Return what a model is asked: its own card, with given values in place of the card's.

    Warns when a published model is not asked as it was trained.

    Args:
        card: that of the model's folder, if it has one.
        source: the folder, for the message.
        prompts: a YAML file; see `read_prompts`.
        release: which published model it is, a key of `decoding.RELEASES`.
        **given: values of the card, such as `score_prompt`; None leaves one as it is.

    Raises:
        CheckpointError: nothing says on which scale the model rates.
        OptionError: a value cannot be used, or is given twice.
    """
    values = given_of_card(prompts, **given)
    if card is None and 'rating_range' not in values:
        raise CheckpointError(f'{source}: does not say on which scale it rates (no {CARD_FILE}). Give rating_range, '
                              'such as [1, 5], and score_prompt if it was trained with one of its own.')
    # a folder's card says what the model was trained with; one without a system prompt gives none
    asked = values if card is None else {**vars(card), **values}
    message = None if release is None else missing_prompts(release, asked)
    if message is not None:
        warnings.warn(message, stacklevel=3)
    return replace(card or ReasoningCard(), **values)


def given_of_card(prompts: str | os.PathLike | None = None, **given: Any) -> dict[str, Any]:
    """Return what is given of a card, checked: to be called before a model is looked for.

    Args:
        prompts: a YAML file; see `read_prompts`.
        **given: values of the card; None where there is none.

    Raises:
        OptionError: a value cannot be used, or is given twice.
    """
    values = {} if prompts is None else {name: _listed(value) if name == 'rating_range' else value
                                        for name, value in read_prompts(prompts).items()}
    for name, value in given.items():
        value = _listed(value) if name == 'rating_range' else value
        if value is not None and values.setdefault(name, value) != value:
            raise OptionError(f'{name}: is {value!r} as an argument and {values[name]!r} in prompts: {prompts}. Give it '
                              'once.')
    ReasoningCard(**values).prompt()
    return values


def _listed(bounds: Any) -> Any:
    """Return a range as a list of floats; anything else is left for the card to reject."""
    return [float(bound) for bound in bounds] if _is_range(bounds) else bounds


def _is_range(values: Any) -> bool:
    """Whether these are two finite numbers, the first of them smaller."""
    return (isinstance(values, list | tuple) and len(values) == 2
            and all(isinstance(value, int | float) and math.isfinite(value) for value in values) and values[0] < values[1])


def read_card(folder: Path) -> ReasoningCard | None:
    """Return the card of a model folder, or None when it has none.

    Raises:
        CheckpointError: the file is not such a card, or is from a later version.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        version = values.pop('format_version')
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f'{path}: is not a card of a reasoning model ({error!r}).') from error
    if version not in (FORMAT_VERSION, FORMAT_WITH_SYSTEM):
        raise CheckpointError(f'{path}: has format {version}; this version reads {FORMAT_VERSION} and {FORMAT_WITH_SYSTEM}. '
                              'Upgrade pyiqa-rali.')
    try:
        return from_known_keys(ReasoningCard, values, str(path))
    except OptionError as error:
        raise CheckpointError(str(error)) from error
