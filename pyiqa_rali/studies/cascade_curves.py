"""The accuracy of a cascade against its cost on test images, by the way in which pictures are chosen, and what it gains."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.tables import markdown_table
from pyiqa_rali.model.cascade_rule import Rule
from pyiqa_rali.studies.cascade_fit import Judged, same_meaning, widths_by

if TYPE_CHECKING:
    from pyiqa_rali.studies.cascade import CascadeOptions

CHOICES = ('width', 'ranks', 'random', 'oracle')
MEASURES = ('srcc', 'plcc', 'rmse')
COLUMNS = ('share', 'choice', *MEASURES, 'seconds_per_image')
SUMMARY_SHARE = 0.2


def curves(judged: Judged, rule: Rule, options: 'CascadeOptions', seconds: Mapping[str, float],
           towards: float) -> list[dict[str, Any]]:
    """Return accuracy for each share and each way to choose.

    Args:
        judged: test images.
        rule: of the validation images.
        options: of the study.
        seconds: an image takes, by 'fast' and 'slow'.
        towards: 1 where high fast scores mean high MOS, -1 otherwise.
    """
    slow = rule.mapped(torch.from_numpy(judged.slow)).numpy()
    slow = np.where(np.isfinite(slow), slow, judged.fast)  # no slow score: the fast one stays, as in the metric
    meaning = np.array(rule.meaning_scores), np.array(rule.meaning_mos)
    mos = same_meaning(judged.mos, meaning)  # for distances alone; correlations take the MOS themselves
    gain = np.abs(judged.fast - mos) - np.abs(slow - mos)
    generator = np.random.default_rng(options.manual_seed)
    widths = widths_by(rule, judged)
    ranks = rule.in_ranks(torch.from_numpy(judged.fast), torch.from_numpy(widths)).numpy()
    orders = {'width': [np.argsort(-widths, kind='stable')], 'ranks': [np.argsort(-ranks, kind='stable')],
              'oracle': [np.argsort(-gain, kind='stable')],
              'random': [generator.permutation(len(slow)) for _ in range(options.random_draws)]}
    rows = []
    for share in sorted(options.shares):
        count = int(share * len(slow) + 0.5)
        cost = seconds['fast'] + count / len(slow) * seconds['slow']
        for choice in CHOICES:
            found = []
            for order in orders[choice]:
                scores = judged.fast.copy()
                scores[order[:count]] = slow[order[:count]]
                found.append(_accuracy(scores, judged.mos, mos, towards))
            mean = {name: float(np.mean([each[name] for each in found])) for name in MEASURES}
            rows.append({'share': share, 'choice': choice, **mean, 'seconds_per_image': cost})
    return rows


def _accuracy(scores: np.ndarray, mos: np.ndarray, on_scale: np.ndarray, towards: float) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr
    return {'srcc': towards * float(spearmanr(scores, mos)[0]), 'plcc': towards * float(pearsonr(scores, mos)[0]),
            'rmse': float(np.sqrt(np.mean((scores - on_scale) ** 2)))}


def summary_of(rows: list[dict[str, Any]], share: float = SUMMARY_SHARE) -> dict[str, Any]:
    """Return what handing on this share gains, and which part of the oracle's gain that is.

    Raises:
        OptionError: accuracy was not measured for that share, or for 0.
    """
    by = {(row['share'], row['choice']): row for row in rows}
    if (0.0, 'width') not in by or (share, 'width') not in by:
        raise OptionError(f'shares: must have 0 and {share:g}, which are compared.')
    found: dict[str, Any] = {'share': share}
    for name, sign in (('srcc', 1), ('plcc', 1), ('rmse', -1)):
        start = by[0.0, 'width'][name]
        gains = {choice: sign * (by[share, choice][name] - start) for choice in CHOICES}
        found[name] = {'fast': start, **{choice: by[share, choice][name] for choice in CHOICES},
                       'of_oracle': {choice: gains[choice] / gains['oracle'] if gains['oracle'] > 0 else math.nan
                                     for choice in CHOICES}}
    return found


def markdown_of(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> str:
    """Return the curves and the summary as Markdown."""
    by = {(row['share'], row['choice']): row for row in rows}
    shares = sorted({row['share'] for row in rows})
    table = markdown_table(['handed on', *(f'SRCC, {choice}' for choice in CHOICES), *(f'RMSE, {choice}' for choice in CHOICES),
                            's an image'],
                           [[f'{share:.0%}', *(f'{by[share, choice]["srcc"]:.3f}' for choice in CHOICES),
                             *(f'{by[share, choice]["rmse"]:.3f}' for choice in CHOICES),
                             f'{by[share, "width"]["seconds_per_image"]:.3f}'] for share in shares])
    gained = markdown_table([f'handing on {summary["share"]:.0%}: part of the oracle\'s gain', *CHOICES],
                            [[name.upper(), *(f'{summary[name]["of_oracle"][choice]:.0%}' for choice in CHOICES)]
                             for name in MEASURES])
    return f'{table}\n\n{gained}\n\n{summary["images"]} images.\n'
