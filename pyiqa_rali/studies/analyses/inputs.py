"""What analyses read: data set sections of an option file, a random sample of their images, and a model's texts about them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.core.runs import KeyedRows
from pyiqa_rali.vlm.generation import complete, decode
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.settings import ReasonerSettings
from pyiqa_rali.vlm.tables import read_picture

OptionFile = str | os.PathLike | Mapping[str, Any]  # the file, or its values as read from YAML


def sections_of(opt: OptionFile, wanted: Sequence[str]) -> tuple[Mapping[str, Any], dict[str, dict[str, Any]]]:
    """Return an option file's values, and those of its data set sections that are asked for.

    Raises:
        OptionError: the file has no such section.
    """
    values = opt if isinstance(opt, Mapping) else read_yaml(opt)
    sections = values.get('datasets') or {}
    for name in wanted:
        if name not in sections:
            source = 'the options' if isinstance(opt, Mapping) else opt
            raise OptionError(f'sections: "{name}" is not in {source} ({", ".join(sections)}).{did_you_mean(name, sections)}')
    return values, {name: sections[name] for name in wanted}


def drawn(count: int, limit: int | None, seed: int) -> list[int]:
    """Return the positions of at most `limit` of `count` images, in order; None takes all.

    Raises:
        OptionError: the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise OptionError(f'limit: {limit} must be at least 1.')
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


def greedy_completions(reasoner: ReasoningModel, paths: Sequence[str], rows: KeyedRows,
                       settings: ReasonerSettings) -> list[list[int]]:
    """Return the token ids of one completion for each image; those already in the file are not generated again."""
    left = [path for path in paths if path not in rows.done]
    with progress_bar(total=len(paths), initial=len(paths) - len(left), desc='reasoning', unit='image') as bar:
        for start in range(0, len(left), settings.batch_size):
            chunk = left[start:start + settings.batch_size]
            found = complete(reasoner, [read_picture(path) for path in chunk], reasoner.asked.prompt(),
                             settings.max_new_tokens)
            rows.add([{'key': path, 'tokens': tokens, 'text': decode(reasoner, tokens)}
                      for path, tokens in zip(chunk, found, strict=True)])
            bar.update(len(chunk))
    return [rows.done[path]['tokens'] for path in paths]
