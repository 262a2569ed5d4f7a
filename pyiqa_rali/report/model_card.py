"""The page of a checkpoint on the hub, made of what it says about itself and of evaluations of exactly these weights."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.files import yaml_text
from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.core.tables import markdown_table

TAGS = ('image-quality-assessment', 'no-reference', 'pyiqa')
PAPER = '[Reasoning as Representation](https://arxiv.org/abs/2510.11369)'
NOT_STATED = 'not stated'
UNSPECIFIED = 'unspecified'  # what option files write where no licence is known


@dataclass(frozen=True)
class Evaluation:
    """Results of a checkpoint on data sets with human scores.

    Attributes:
        name: of the evaluation.
        rows: of its `results.json`, those of this checkpoint.
        confidence: of the intervals.
        seed: of the bootstrap.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    confidence: float
    seed: int | None


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        repository: 'owner/name'.
        kind: 'RALI' or 'ReasoningScorer'.
        title: heading.
        licence: as the hub names licences, such as apache-2.0.
        scores: range and direction of the scores, in words.
        architecture: (what, value) rows.
        training: the same about how it was trained.
        training_images: what is known of the images that it was trained on.
        evaluations: of exactly these weights.
        limits: Markdown by the author; empty when there is none.
        explains: whether it has a text bank.
    """

    repository: str
    kind: str
    title: str
    licence: str
    scores: str
    architecture: Sequence[tuple[str, str]]
    training: Sequence[tuple[str, str]]
    training_images: str
    evaluations: Sequence[Evaluation] = field(default_factory=list)
    limits: str = ''
    explains: bool = False


def card_text(facts: CardFacts) -> str:
    """Return the README.md of a repository, with the record at its head that the hub reads."""
    head = {'license': facts.licence, 'library_name': 'pyiqa-rali', 'tags': [*TAGS, facts.kind.lower()]}
    parts = [f'---\n{yaml_text(head)}---', f'# {facts.title}', _what(facts), '## Use', _use(facts), '## Scores', facts.scores,
             '## Architecture', _rows(facts.architecture), '## Training', _rows(facts.training),
             f'Training images: {facts.training_images}.', '## Results', _results(facts.evaluations), '## Limits',
             _limits(facts), '## Licence', f'{facts.licence}. The software, pyiqa-rali, is Apache-2.0; pyiqa, which it '
             'extends, is PolyForm-Noncommercial.']
    return '\n\n'.join(parts) + '\n'


def _what(facts: CardFacts) -> str:
    if facts.kind == 'RALI':
        return (f'No-reference image quality by RALI ({PAPER}): an image encoder that was aligned with texts about quality, '
                'and a basis of scored vectors. A metric of [pyiqa](https://github.com/chaofengc/IQA-PyTorch).')
    return ('No-reference image quality by a vision-language model that writes about a picture and rates it. A metric of '
            '[pyiqa](https://github.com/chaofengc/IQA-PyTorch).')


def _use(facts: CardFacts) -> str:
    name = 'rali' if facts.kind == 'RALI' else 'rali-reasoning'
    code = (f'import pyiqa\nfrom PIL import Image\n\n'
            f"metric = pyiqa.create_metric('{name}', pretrained_model_path='{facts.repository}')\n"
            "picture = Image.linear_gradient('L')          # or the path of a file\n"
            'print(metric(picture).item(), metric.score_range, metric.lower_better)\n')
    return (f'```bash\npip install pyiqa-rali\npyiqa-rali score photo.jpg -m {name} --weights {facts.repository}\n```\n\n'
            f'```python\n{code}```\n\n'
            f"`revision='COMMIT'` beside `pretrained_model_path` pins the weights to one commit of this repository. "
            f"`pyiqa_rali.{facts.kind}.from_pretrained('{facts.repository}', revision='COMMIT')` returns the network itself.")


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return markdown_table(['', ''], [list(row) for row in rows]) if rows else f'The checkpoint does not say: {NOT_STATED}.'


def _results(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return 'No evaluation was given when this page was made.'
    parts = []
    for each in evaluations:
        rows = [[row['dataset'], row['images'], *(_measure(row, name) for name in ('plcc', 'srcc', 'krcc')), row['missing']]
                for row in each.rows]
        seed = '' if each.seed is None else f', seed {each.seed}'
        parts.append(f'`pyiqa-rali evaluate -opt {each.name}.yml` ({each.confidence:.0%} bootstrap intervals{seed}; PLCC '
                     'without a fit):\n\n'
                     + markdown_table(['data set', 'images', 'PLCC', 'SRCC', 'KRCC', 'without a score'], rows))
    return '\n\n'.join(parts)


def _measure(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row.get(f'{name}{end}') for end in ('', '_low', '_high'))
    if value is None:
        return 'none'
    return f'{value:.3f}' + ('' if low is None or high is None else f' [{low:.3f}, {high:.3f}]')


def _limits(facts: CardFacts) -> str:
    known = ['The scores are on the scale of the data that it was trained on; those of other metrics are on other scales.',
             'A score depends on the resolution that a picture is given in.']
    if facts.kind == 'RALI' and not facts.explains:
        known.append('It has no text bank and cannot explain its scores.')
    if not facts.evaluations:
        known.append('How well it agrees with human scores is not stated here.')
    return '\n'.join(f'- {each}' for each in known) + (f'\n\n{facts.limits.strip()}' if facts.limits.strip() else '')


def rali_facts(repository: str, metadata: Mapping[str, Any], score_range: str, parameters: str, training_images: str,
               licence: str | None = None, evaluations: Sequence[Evaluation] = (), limits: str = '') -> CardFacts:
    """Return the facts of a checkpoint of RALI.

    Args:
        repository: 'owner/name'.
        metadata: of the checkpoint.
        score_range: of its metric.
        parameters: how many, in words.
        training_images: what its record says.
        licence: instead of the checkpoint's own.
        evaluations: of these weights.
        limits: Markdown.

    Raises:
        OptionError: neither the checkpoint nor the caller names a licence.
    """
    encoder, training = metadata['image_encoder'], metadata.get('training')
    better = 'lower' if metadata['lower_better'] else 'higher'
    architecture = [('image encoder', f'{encoder["name"]} ({encoder["library"]})'), ('parameters', parameters),
                    ('pictures', _told_preprocessing(encoder.get('preprocessing', {})))]
    architecture += _further_parts(metadata)
    trained = [(name, _told(value)) for name, value in training.items()] if isinstance(training, Mapping) else [
        ('training', str(training))] if training else []
    versions = metadata.get('versions', {})
    if versions:
        told = (f'{name} {versions[name]}' for name in ('pyiqa-rali', 'pyiqa', 'torch') if name in versions)
        trained.append(('versions', ', '.join(told)))
    return CardFacts(repository, 'RALI', str(metadata.get('name') or repository.partition('/')[2]),
                     _licence(licence, metadata.get('licence')), f'From {score_range.replace(",", " to")}; {better} is better.',
                     architecture, trained, training_images, evaluations, limits, metadata.get('bank') is not None)


def _further_parts(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a checkpoint tells beside the score, in words."""
    found = []
    if interval := metadata.get('interval'):
        of = ', '.join(interval.get('calibrated_on', [])) or 'unnamed sets'
        found.append(('intervals', f'calibrated on {interval["images"]} images of {of}: score_with_interval'))
    if diagnosis := metadata.get('diagnosis'):
        found.append(('aspects', ', '.join(dict.fromkeys(diagnosis['faults'].values()))))
    if prompts := metadata.get('prompts'):
        of = ', '.join(prompts.get('learned_from', [])) or 'unnamed sets'
        found.append(('alignment with prompts', f'of generated pictures, learned from {of}: score_with_prompts'))
    return found


def reasoning_facts(repository: str, folder: Path, card: Any, training_images: str, licence: str | None = None,
                    evaluations: Sequence[Evaluation] = (), limits: str = '') -> CardFacts:
    """Return the facts of a reasoning model's folder.

    Args:
        repository: 'owner/name'.
        folder: with transformers' files.
        card: its `ReasoningCard`.
        training_images: what its record says.
        licence: of the weights.
        evaluations: of these weights.
        limits: Markdown.

    Raises:
        OptionError: no licence is named.
    """
    config: dict[str, Any] = {}
    for name in ('config.json', 'adapter_config.json'):
        if (folder / name).is_file():
            config |= json.loads((folder / name).read_text(encoding='utf-8'))
    names = (('model_type', 'model'), ('base_model_name_or_path', 'adapter of'))
    architecture = [(told, str(config[key])) for key, told in names if config.get(key)]
    low, high = card.rating_range
    return CardFacts(repository, 'ReasoningScorer', repository.partition('/')[2], _licence(licence, None),
                     f'Ratings from {low:g} to {high:g}; higher is better.', architecture,
                     [('training', card.training), ('question', card.score_prompt)], training_images, evaluations, limits)


def _licence(given: str | None, own: Any) -> str:
    found = str(given or own or '').strip()
    if not found or found.lower() == UNSPECIFIED:
        raise OptionError('--licence: the checkpoint does not name one; give it as the hub names licences, such as apache-2.0.')
    return found.lower()


def _told_preprocessing(values: Mapping[str, Any]) -> str:
    if values.get('image_size'):
        return f'brought to {values["image_size"]} pixels ({values.get("resize_mode", NOT_STATED)})'
    limit = values.get('resize_size')
    return 'looked at in their own size' + (f', up to {limit} pixels' if limit else '')


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_told(each)}' for name, each in value.items())
    return ', '.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def read_evaluation(folder: str | os.PathLike, is_this: Any) -> Evaluation:
    """Return what an evaluation measured of a checkpoint.

    Args:
        folder: that `pyiqa-rali evaluate` has written.
        is_this: tells of a metric's description in `results.json` whether it is the checkpoint.

    Raises:
        DataError: it is no such folder, or the checkpoint is not among its metrics.
    """
    path = Path(folder) / 'results.json'
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        own = [label for label, metric in found['metrics'].items() if is_this(metric)]
        rows = [row for row in found['results'] if row['metric'] in own]
    except FileNotFoundError:
        raise DataError(f'--results: {folder} has no results.json; give a folder of pyiqa-rali evaluate.') from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'--results: {path} is not what pyiqa-rali evaluate writes ({type(error).__name__}: '
                        f'{error}).') from error
    if not rows:
        raise DataError(f'--results: {folder} is about other weights ({", ".join(found["metrics"])}); evaluate this '
                        'checkpoint, or leave it out.')
    options = Path(folder) / 'options.yml'
    seed = read_yaml(options).get('manual_seed') if options.is_file() else None
    return Evaluation(str(found['name']), rows, float(found['confidence']), seed)
