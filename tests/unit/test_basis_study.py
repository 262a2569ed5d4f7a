import json

import numpy as np
import pytest
import torch

from pyiqa_rali.cli.evaluate_basis import lines_of
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.evaluation.options import evaluate_options
from pyiqa_rali.studies.basis import ADAPTED, Encoded, blended_agreement, evaluate_basis, fit_blend
from tests.tiny import tiny_table
from tests.unit.test_rali import random_rali


def encoded(parts, mos):
    return Encoded(np.asarray(mos, dtype=float), np.asarray(parts, dtype=float), torch.zeros(len(mos), 2))


def test_the_weights_of_a_blend_go_to_what_agrees():
    rng = np.random.default_rng(0)
    mos = rng.normal(size=200)
    noisy = np.stack([mos + rng.normal(size=200), mos + rng.normal(size=200), rng.normal(size=200)], axis=1)
    weights = fit_blend([encoded(noisy, mos)])
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert min(weights[:2]) > 0.25 and weights[2] < 0.15
    found = blended_agreement(encoded(noisy, mos), weights)
    assert found['blend'] > max(found['whole'], found['mean'], found['best'])


def test_where_nothing_helps_the_whole_picture_keeps_all_weight():
    mos = np.arange(10.0)
    same = np.stack([mos, mos, mos], axis=1)
    assert fit_blend([encoded(same, mos)]).tolist() == [1, 0, 0]


@pytest.fixture
def options(tmp_path):
    table = tiny_table(tmp_path / 'data', count=18)
    section = {'type': 'GeneralNRDataset', 'dataroot_target': table['images'], 'meta_info_file': table['table'],
               'mos_range': [1, 5], 'lower_better': False, 'split_index': 'split_photo'}
    return evaluate_options({'name': 'basis', 'manual_seed': 0, 'model_type': 'EVALUATE', 'metrics': {'rali-lite': {}},
                             'datasets': {'fitted': {**section, 'phase': 'val'}, 'other': {**section, 'phase': 'train'}}})


def test_a_study_measures_every_set_and_is_resumed(options, tmp_path, monkeypatch):
    net = random_rali().eval()
    found = evaluate_basis(net, options, tmp_path / 'out')
    assert list(found.adapted) == list(found.blended) == ['fitted', 'other'] and found.fitted_on == ['fitted']
    assert set(found.adapted['other']) == {'before', *ADAPTED}
    assert set(found.blended['other']) == {'whole', 'mean', 'best', 'blend'}
    assert found.adapted['other']['before'] == pytest.approx(found.blended['other']['whole'])
    assert sum(found.weights.values()) == pytest.approx(1)
    written = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert written['adapted'] == found.adapted and written['trained_on'] == {'fitted': None, 'other': None}
    monkeypatch.setattr('pyiqa_rali.studies.basis._row', lambda *_: pytest.fail('encoded again'))
    assert evaluate_basis(net, options, tmp_path / 'out').adapted == found.adapted
    printed = '\n'.join(lines_of(found))
    assert 'mean of other: before' in printed and 'weights of the blend, fitted on fitted: whole' in printed


def test_an_unknown_data_set_is_refused(options, tmp_path):
    with pytest.raises(OptionError, match='nowhere not in the option file, which has fitted, other'):
        evaluate_basis(random_rali(), options, tmp_path, ['nowhere'])
