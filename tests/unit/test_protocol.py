import json

import numpy as np
import pytest

from pyiqa_rali.core.options import override, read_yaml
from pyiqa_rali.data.distortions import DEFAULT_TYPES, DISTORTIONS
from pyiqa_rali.studies.protocol import HELD_OUT, level_order, medians, protocol_options, ridge_scores, run_protocol
from pyiqa_rali.training.rali.options import train_options

LITE = 'options/rali_lite_v1.yml'


def test_one_type_of_each_family_is_held_out():
    assert sorted(DISTORTIONS[name].family for name in HELD_OUT) == sorted({DISTORTIONS[name].family for name in DEFAULT_TYPES})
    assert set(HELD_OUT) < set(DEFAULT_TYPES)


def test_options_keep_training_and_test_apart():
    values = protocol_options(read_yaml(LITE), seed=2, photos='photos', num_photographs=3)
    train_options(values)
    sections = values['datasets']
    assert set(sections) == {'train', 'basis', 'val', 'test_in_domain', 'test_out_of_domain'}
    assert {section['split_seed'] for section in sections.values()} == {2}
    assert sections['train']['phase'] == sections['basis']['phase'] == 'train'
    assert all(sections[name]['hold_out'] == list(HELD_OUT) for name in ('train', 'basis', 'val', 'test_in_domain'))
    assert sections['test_out_of_domain']['only'] == list(HELD_OUT) and sections['test_in_domain']['phase'] == 'test'
    assert sections['val']['phase'] == 'val' and values['val']['key_dataset'] == 'val'
    assert values['manual_seed'] == 2 and values['name'].endswith('_2')


@pytest.mark.parametrize(('scores', 'share'), [([3, 2, 1], 1.0), ([1, 2, 3], 0.0), ([3, 1, 2], 2 / 3), ([1, 1, 1], 0.0)])
def test_level_order(scores, share):
    names = [f'p|blur|{level:.2f}#{level}' for level in (1, 2, 3)]
    assert level_order(names, np.array(scores, dtype=float)) == pytest.approx(share)


def test_levels_of_different_photographs_and_types_are_not_compared():
    names = ['p|blur|1.00#0', 'q|blur|2.00#1', 'q|blur|3.00#2', 'q|noise|1.00#3']
    assert level_order(names, np.array([0.0, 2, 1, 0])) == 1.0


def test_ridge_regression_finds_a_linear_rule():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 30)) * rng.uniform(0.1, 10, 30) + 3
    weights = rng.normal(size=30) / 10
    labels = features @ weights + rng.normal(0, 0.01, 200)
    found = ridge_scores(features[:150], labels[:150], features[150:])
    assert np.corrcoef(found, labels[150:])[0, 1] > 0.999


def test_medians_of_nested_results():
    results = [{'a': {'plcc': value}, 'images': 5, 'names': ['x']} for value in (0.1, 0.9, 0.4)]
    assert medians(results) == {'a': {'plcc': 0.4}, 'images': 5.0}


@pytest.mark.slow
def test_the_protocol_trains_measures_and_goes_on(tmp_path, monkeypatch):
    small = ['datasets:train:crop_size=64', 'datasets:train:batch_size_per_gpu=8', 'datasets:train:num_worker_per_gpu=0',
             'datasets:basis:crop_size=64', 'datasets:basis:samples_per_epoch=24', 'datasets:basis:num_worker_per_gpu=0',
             'datasets:val:crop_size=64', 'datasets:val:samples_per_epoch=8', 'datasets:val:num_worker_per_gpu=0',
             'align:total_iter=2', 'align:standardise_samples=8', 'align:prompts=~', 'bank=~', 'compress:pca_dim=8',
             'compress:num_buckets=4', 'compress:num_basis=8', 'score:total_epochs=2', f'path:experiments_root={tmp_path}']
    values = override(read_yaml(LITE), small)
    monkeypatch.setattr('pyiqa_rali.studies.protocol.LEVELS', (2.0, 4.0))
    found = run_protocol(values, tmp_path / 'protocol.json', [3], num_photographs=1)
    assert found.median == json.loads((tmp_path / 'protocol.json').read_text())['median']
    known, unseen = (found.seeds[3][name] for name in ('test_in_domain', 'test_out_of_domain'))
    assert known['images'] == 2 * (len(DEFAULT_TYPES) - len(HELD_OUT)) and unseen['images'] == 2 * len(HELD_OUT)
    assert all(-1 <= each[name]['srcc'] <= 1 for each in (known, unseen) for name in ('ridge', 'piqe', 'brisque'))
    monkeypatch.setattr('pyiqa_rali.studies.protocol.train', None)
    assert run_protocol(values, tmp_path / 'protocol.json', [3], num_photographs=1) == found
