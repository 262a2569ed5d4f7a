"""Published values, for comparison with measured ones."""

import csv
import re
from importlib import resources
from typing import Any

from pyiqa_rali.core.errors import OptionError, did_you_mean

FILE = 'paper_values.csv'
# the measure compared with a published one, by the fit before the published PLCC; no fit changes SRCC
MEASURES = {'none': {'plcc': 'plcc', 'srcc': 'srcc'}, 'logistic4': {'plcc_fitted': 'plcc', 'srcc': 'srcc'},
            'unknown': {'plcc': 'plcc', 'plcc_fitted': 'plcc', 'srcc': 'srcc'}}
FITS = {'none': 'without fit', 'logistic4': 'after a logistic fit with four parameters',
        'unknown': 'not known whether after a fit'}
ALIASES = {  # other usual names: the paper's
    'deqa': 'DeQA-Score', 'clipiqa+': 'CLIP-IQA+', 'koniq10k': 'KonIQ', 'koniq10k1024': 'KonIQ', 'kadid10k': 'KADID',
    'livec': 'LIVE-W', 'livewild': 'LIVE-W', 'livechallenge': 'LIVE-W', 'clive': 'LIVE-W', 'agiqa': 'AGIQA-3K'}


def paper_values() -> dict[tuple[str, str], dict[str, str]]:
    """Return the published rows by method and data set: method, dataset, plcc, srcc, source, and fit, one of `FITS`."""
    text = (resources.files('pyiqa_rali.evaluation') / FILE).read_text(encoding='utf-8')
    return {(row['method'], row['dataset']): row for row in csv.DictReader(text.splitlines())}


def published_name(given: str | bool | None, own_names: list[str], known: list[str], option: str) -> str | None:
    """Return the paper's name of a metric or data set.

    Args:
        given: the user's `paper_name`; it decides. False means none.
        own_names: our names, tried in this order.
        known: the paper's names.
        option: for the message.

    Raises:
        OptionError: the user's name is not one of the paper's.
    """
    if given is False:
        return None
    if given is not None:
        name = str(given)  # `true` is rejected by its name
        if name not in known:
            raise OptionError(f'{option}: paper_name: "{name}" is not one of {", ".join(known)}.{did_you_mean(name, known)}')
        return name
    plain = {_plain(name): name for name in known} | {alias: name for alias, name in ALIASES.items() if name in known}
    return next((plain[_plain(name)] for name in own_names if _plain(name) in plain), None)


def _plain(name: str) -> str:
    return re.sub(r'[^a-z0-9+]', '', name.lower())


def beside_paper(results: list[dict[str, Any]], methods: dict[str, str | None],
                 datasets: dict[str, str | None]) -> list[dict[str, Any]]:
    """Return a row for each of our values that the paper has one for.

    A published PLCC is compared with ours without fit or with ours after the fit, whichever it is; with both where that is
    not known.

    Args:
        results: rows with dataset, metric and measures.
        methods: the paper's name of each metric, None without one.
        datasets: the paper's name of each data set, None without one.
    """
    values, rows = paper_values(), []
    for row in results:
        method, dataset = methods[row['metric']], datasets[row['dataset']]
        published = values.get((method, dataset)) if method and dataset else None
        if published is None:
            continue
        for measure, theirs in MEASURES[published['fit']].items():
            rows.append({'metric': row['metric'], 'dataset': row['dataset'], 'measure': measure, 'ours': row[measure],
                         'paper': float(published[theirs]), 'difference': row[measure] - float(published[theirs]),
                         'method': published['method'], 'source': published['source'],
                         'fit': published['fit'] if theirs == 'plcc' else ''})
    return rows
