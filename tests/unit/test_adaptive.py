"""A reasoning model that answers at once, and reasons where its rating is unsure."""

import math

import numpy as np
import pyiqa
import pytest
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.cascade_rule import Rule
from pyiqa_rali.vlm.expectation import NumberTokens, moments
from pyiqa_rali.vlm.scorer import ReasoningScorer
from tests.tiny import tiny_vlm


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return str(tiny_vlm(tmp_path_factory.mktemp('vlm')))


@pytest.fixture(scope='module')
def images():
    return torch.rand(4, 3, 40, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def at_once(folder, images):
    return ReasoningScorer(folder, mode='at_once').describe(images)


def scorer(folder, **options):
    return ReasoningScorer(folder, mode='adaptive', max_new_tokens=12, **options)


def test_the_moments_are_those_of_what_is_written():
    texts = {0: '1', 1: '2', 2: '3', 3: '4', 4: '5', 5: '.', 6: '}'}
    chances = {'': [0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0]}
    found, = moments(lambda nodes: [np.array(chances.get(node.number, [0, 0, 0, 0, 0, 0, 1.0])) for node in nodes],
                     NumberTokens(texts), [''], (1, 5))
    assert found == (pytest.approx(3.0), pytest.approx(1.0))  # of 1, 2, 3, 4 with 0.1, 0.2, 0.3, 0.4


def test_an_answer_at_once_has_a_spread_and_no_text(at_once):
    for each in at_once:
        assert each.status == 'at_once' and each.reasoning_text == each.completion == ''
        assert 1 <= each.rating <= 5 and 0 <= each.spread <= 2


def test_spreads_have_the_unit_of_the_scores(folder, images, at_once):
    scores, spreads = ReasoningScorer(folder, mode='at_once', mos_range=[0, 100], lower_better=False).scores_and_spreads(images)
    assert torch.allclose(scores, torch.tensor([25 * (each.rating - 1) for each in at_once]), atol=1e-3)
    assert torch.allclose(spreads, torch.tensor([25 * each.spread for each in at_once]), atol=1e-3)


def test_it_reasons_where_the_rating_is_unsure(folder, images, at_once):
    spreads = sorted(each.spread for each in at_once)
    threshold = (spreads[1] + spreads[2]) / 2
    net = scorer(folder, threshold=threshold)
    found, reasoned = net.describe(images), ReasoningScorer(folder, max_new_tokens=12).describe(images)
    for each, fast, slow in zip(found, at_once, reasoned, strict=True):
        expected = slow if fast.spread > threshold else fast
        assert (each.rating, each.status) == (pytest.approx(expected.rating, abs=1e-4), expected.status)
        assert each.spread == pytest.approx(fast.spread, abs=1e-5)
    assert net.counts == {'scored': 4, 'reasoned': 2}


def test_a_share_comes_from_a_rule_which_keeps_one_scale(folder, images, at_once, tmp_path):
    spreads = sorted(each.spread for each in at_once)
    rule = Rule([1.0, 5.0], [2.0, 4.0], [0.0, (spreads[1] + spreads[2]) / 2, 4.0], [0.0, 0.5, 1.0], [1.0, 5.0])
    rule.save(tmp_path / 'rule.json')
    net = scorer(folder, share=0.5, rule=tmp_path / 'rule.json')
    reasoned = ReasoningScorer(folder, max_new_tokens=12).describe(images)
    for each, slow in zip(net.describe(images), reasoned, strict=True):
        if each.status == 'expectation':
            assert each.rating == pytest.approx(2 + (slow.rating - 1) / 2, abs=1e-4)
    assert net.counts == {'scored': 4, 'reasoned': 2}


def test_nothing_reasons_above_every_spread_and_all_below(folder, images):
    for threshold, reasoned in ((math.inf, 0), (-1.0, 4)):
        net = scorer(folder, threshold=threshold)
        assert net(images).shape == (4, 1) and net.counts['reasoned'] == reasoned


@pytest.mark.parametrize(('options', 'message'), [
    ({'mode': 'adaptive'}, 'threshold, share: mode: adaptive needs one of them'),
    ({'mode': 'adaptive', 'share': 0.5}, 'or, with a rule, the share'),
    ({'mode': 'adaptive', 'threshold': 1.0, 'share': 0.5}, 'needs one of them'),
    ({'mode': 'adaptive', 'threshold': math.nan}, 'threshold: nan is above no spread'),
    ({'mode': 'greedy', 'threshold': 1.0}, 'threshold: is only for mode: adaptive. Leave it out'),
])
def test_what_cannot_be_used_is_refused(folder, options, message):
    with pytest.raises(OptionError, match=message):
        ReasoningScorer(folder, **options)


def test_a_cascade_of_one_model_with_and_without_reasoning(folder, images, at_once, tmp_path):
    Rule([1.0, 5.0], [1.0, 5.0], [0.0, 4.0], [0.0, 1.0], [1.0, 5.0]).save(tmp_path / 'rule.json')
    spreads = sorted(each.spread for each in at_once)
    metric = pyiqa.create_metric('rali-cascade', device='cpu', fast='rali-reasoning', slow='rali-reasoning',
                                 fast_options={'pretrained': folder, 'mode': 'at_once'},
                                 slow_options={'pretrained': folder, 'max_new_tokens': 12}, rule=str(tmp_path / 'rule.json'),
                                 threshold=(spreads[1] + spreads[2]) / 2)
    assert metric(images).shape == (4, 1) and metric.net.counts['handed_on'] == 2


def test_a_rule_of_scores_on_another_scale_is_refused(folder, tmp_path):
    Rule([0.0, 100.0], [0.0, 100.0], [0.0, 40.0], [0.0, 1.0], [0.0, 100.0],
         fitted_on={'fast': {'name': 'rali-reasoning', 'mos_range': [0, 100]}}).save(tmp_path / 'rule.json')
    with pytest.raises(OptionError, match=r'rule: was fitted for scores on mos_range \[0, 100\]'):
        scorer(folder, share=0.5, rule=tmp_path / 'rule.json')
