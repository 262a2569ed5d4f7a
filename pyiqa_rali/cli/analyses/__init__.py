"""The analyses of `python -m pyiqa_rali analyse KIND`: one module each, with `add_arguments(parser)` and `run(args)`."""

import argparse
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean


def add_sampling(parser: argparse.ArgumentParser, with_seed: bool = True) -> None:
    """Declare the folder, how many images and the seed."""
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for tables, figures and pictures')
    parser.add_argument('--limit', type=int, metavar='N', help='at most so many images of each data set, drawn by the seed')
    if with_seed:
        parser.add_argument('--seed', type=int, default=0, help='of all draws (default: %(default)s)')


def add_datasets(parser: argparse.ArgumentParser, default: list[str] | None = None) -> None:
    """Declare the option file whose data sets are looked at."""
    parser.add_argument('-opt', metavar='FILE', required=True, help='option file with the data sets, such as options/rali.yml')
    parser.add_argument('--sections', nargs='+', metavar='SECTION', default=default, required=default is None,
                        help='which of its data sets' + (f' (default: {" ".join(default)})' if default else ''))


def sections_of(opt: str, wanted: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the option file's values, and the wanted data set sections.

    Raises:
        OptionError: the file has no such section.
    """
    from pyiqa_rali.core.options import read_yaml
    values = read_yaml(opt)
    sections = values.get('datasets') or {}
    for name in wanted:
        if name not in sections:
            raise OptionError(f'--sections: "{name}" is not in {opt} ({", ".join(sections)}).{did_you_mean(name, sections)}')
    return values, {name: sections[name] for name in wanted}


def drawn(count: int, limit: int | None, seed: int) -> list[int]:
    """Return the positions of at most `limit` of `count` images, in order.

    Raises:
        OptionError: the limit is not positive.
    """
    import numpy as np
    if limit is not None and limit < 1:
        raise OptionError(f'--limit: {limit} must be 1 at least.')
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


def model_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a reasoning model's completions depend on."""
    names = ('model', 'prompt', 'rating_range', 'dtype', 'max_pixels', 'max_new_tokens', 'seed')
    return {name: getattr(args, name) for name in names}


def load_reasoner(args: argparse.Namespace) -> Any:
    """Load the model that --model names, with its card, on its device.

    Raises:
        OptionError: a number that is not positive.
    """
    from pyiqa_rali.cli.write_texts import load
    for name in ('batch_size', 'max_new_tokens'):
        if getattr(args, name) < 1:
            raise OptionError(f'--{name.replace("_", "-")}: {getattr(args, name)} must be 1 at least.')
    return load(args)


def add_reasoner(parser: argparse.ArgumentParser) -> None:
    """Declare the reasoning model and how it is run; `--seed` among that."""
    from pyiqa_rali.cli.describe import add_model_arguments
    parser.add_argument('--model', required=True, metavar='FOLDER_OR_REPO',
                        help='a vision-language model: a folder, or owner/name[:folder] on the hub')
    add_model_arguments(parser)
