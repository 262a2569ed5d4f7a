"""A fast and a slow metric as one: who is handed on, on which scale, and what the study says."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyiqa
import pytest
import torch
import yaml

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.model.cascade_rule import Rule, interpolated, load_rule
from pyiqa_rali.model.checkpoint import save_checkpoint
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.scoring.cascade import Cascade
from pyiqa_rali.studies import cascade as study
from tests.unit.test_intervals import calibrated
from tests.unit.test_rali import random_rali, tensors_of

RULE = Rule(slow_scores=[1.0, 5.0], scores=[2.0, 4.0], widths=np.linspace(0, 2, 101).tolist(),
            rank_widths=np.linspace(0, 1, 101).tolist(), fast_scores=np.linspace(1, 5, 101).tolist())


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    """The weights of a fast metric with intervals, of a slow one without, and a rule."""
    folder = tmp_path_factory.mktemp('cascade')
    save_checkpoint(folder / 'fast.safetensors', *calibrated(random_rali()))
    slow = random_rali(seed=3)
    save_checkpoint(folder / 'slow.safetensors', tensors_of(slow), slow.metadata)
    RULE.save(folder / 'rule.json')
    return folder


def options(paths, **changes):
    return {'fast': 'rali', 'slow': 'rali', 'fast_options': {'pretrained_model_path': str(paths / 'fast.safetensors')},
            'slow_options': {'pretrained_model_path': str(paths / 'slow.safetensors')}, 'rule': str(paths / 'rule.json'),
            **changes}


@pytest.fixture(scope='module')
def images():
    return torch.rand(8, 3, 40, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('by', ['width', 'ranks'])
def test_what_is_wider_than_the_threshold_gets_the_slow_score_on_the_fast_scale(paths, images, by):
    net = Cascade(**options(paths, threshold=0.0))
    fast = net.fast.score_with_interval(images)
    widths = fast.width.flatten() if by == 'width' else RULE.in_ranks(fast.scores.flatten(), fast.width.flatten())
    threshold = float(widths.sort().values[3:5].mean())  # between two of them, whatever rounding does
    net = Cascade(**options(paths, threshold=threshold, by=by))
    scores, wide = net(images).flatten(), widths > threshold
    assert wide.sum() == 4 and torch.equal(net.handed_on, wide)
    assert torch.equal(scores[~wide], fast.scores.flatten()[~wide])
    assert torch.allclose(scores[wide], 2 + (net.slow(images).flatten()[wide] - 1) / 2, atol=1e-5)
    assert net.counts == {'scored': 8, 'handed_on': int(wide.sum()), 'without_slow_score': 0}
    alone = torch.cat([net(image.unsqueeze(0)) for image in images]).flatten()
    assert torch.allclose(alone, scores, atol=1e-5) and net.counts['scored'] == 16


def test_a_share_is_a_threshold_by_validation_images_or_a_part_of_the_batch(paths, images):
    net = Cascade(**options(paths, share=0.25))
    assert net.threshold == pytest.approx(1.5)  # a quarter of widths that are spread evenly from 0 to 2
    assert Cascade(**options(paths, share=0.25, by='ranks')).threshold == pytest.approx(0.75)
    net = Cascade(**options(paths, share=0.25, share_of='batch'))
    net(images)
    widest = net.fast.score_with_interval(images).width.flatten().topk(2).indices
    assert net.handed_on.nonzero().flatten().tolist() == sorted(widest.tolist())
    assert Cascade(**options(paths, share=0.0, share_of='batch'))(images).shape == (8, 1) and net.counts['handed_on'] == 2


def test_a_slow_metric_without_a_score_leaves_the_fast_one_and_is_counted(paths, images, monkeypatch):
    net = Cascade(**options(paths, threshold=-1.0))
    monkeypatch.setattr(net.slow, 'forward', lambda pictures: torch.full((len(pictures), 1), float('nan')))
    with pytest.warns(UserWarning, match='8 of 8 pictures that were handed on have no slow score; they keep the fast one'):
        scores = net(images)
    assert torch.equal(scores, net.fast(images)) and net.counts['without_slow_score'] == 8


def test_none_and_all_are_none_and_all_whatever_the_widths_are(paths, images, tmp_path):
    # validation widths between which those of the pictures lie on both sides
    replace(RULE, widths=[0.9999, 1.0], rank_widths=[0.5, 0.5001]).save(tmp_path / 'rule.json')
    for by in ('width', 'ranks'):
        for share in (0, 1):
            net = Cascade(**options(paths, share=share, by=by, rule=str(tmp_path / 'rule.json')))
            net(images)
            assert net.handed_on.tolist() == [bool(share)] * 8


def test_a_slow_score_stays_on_the_scale_of_the_fast_metric(paths, images, monkeypatch):
    net = Cascade(**options(paths, share=1))
    for slow, expected in ((100.0, 5.0), (-100.0, 1.0)):
        monkeypatch.setattr(net.slow, 'forward', lambda pictures, slow=slow: torch.full((len(pictures), 1), slow))
        assert net(images).flatten().tolist() == [expected] * 8


def test_a_batch_that_fails_is_not_counted(paths, images, monkeypatch):
    net = Cascade(**options(paths, share=1))

    def fail(pictures):
        raise RuntimeError('slow failed')
    monkeypatch.setattr(net.slow, 'forward', fail)
    with pytest.raises(RuntimeError, match='slow failed'):
        net(images)
    assert set(net.counts.values()) == {0}


def test_it_is_no_loss(paths, images):
    metric = pyiqa.create_metric('rali-cascade', device='cpu', as_loss=True, **options(paths, share=0.5))
    with pytest.raises(OptionError, match='rali-cascade: has no gradient to the pixels'):
        metric(images.clone().requires_grad_())


def test_a_rule_of_other_metrics_or_another_coverage_is_refused(paths, tmp_path):
    fitted = {'fast': {'name': 'rali'}, 'slow': {'name': 'people'}, 'coverage': 0.8}
    replace(RULE, fitted_on=fitted).save(tmp_path / 'rule.json')
    given = options(paths, share=0.5, rule=str(tmp_path / 'rule.json'))
    with pytest.raises(OptionError, match='was fitted for slow: people, and not for rali'):
        Cascade(**given)
    replace(RULE, fitted_on={**fitted, 'slow': {'name': 'rali'}}).save(tmp_path / 'rule.json')
    assert Cascade(**given).coverage == 0.8
    with pytest.raises(OptionError, match=r'coverage: 0.9 is not that of the rule, 0.8'):
        Cascade(**given, coverage=0.9)


def test_it_is_a_metric_of_pyiqa(paths, images):
    metric = pyiqa.create_metric('rali-cascade', device='cpu', **options(paths, share=0.5))
    assert metric(images).shape == (8, 1) and metric.score_range == metric.net.fast.score_range
    assert metric.lower_better is False


@pytest.mark.parametrize(('changes', 'message'), [
    ({'slow': None}, 'slow: must be given: the metric that pictures are handed on to'),
    ({'rule': None}, 'rule: must be given'),
    ({'threshold': None}, 'threshold, share: give one of them'),
    ({'share': 0.5}, 'threshold, share: give one of them'),
    ({'threshold': None, 'share': 1.5}, 'share: 1.5 must be from 0 to 1'),
    ({'threshold': None, 'share': '0.5'}, "share: '0.5' must be a number"),
    ({'threshold': float('nan')}, 'threshold: nan is above no width'),
    ({'threshold': 1.5, 'by': 'ranks'}, 'threshold: 1.5 must be at most 1 with by: ranks'),
    ({'share_of': 'batch'}, 'threshold: has no effect with share_of: batch'),
    ({'coverage': 90}, 'coverage: 90 must be a number above 0 and below 1'),
    ({'share_of': 'folder'}, 'share_of: "folder" is not one of validation, batch'),
    ({'fast': 'rali-cascade'}, 'fast: rali-cascade cannot be part of itself'),
    ({'slow': 'no_such'}, 'slow: --metric: "no_such" is not known to pyiqa'),
])
def test_what_cannot_be_used_is_refused(paths, changes, message):
    with pytest.raises(OptionError, match=message):
        Cascade(**{**options(paths, threshold=1.0), **changes})


def test_a_fast_metric_that_tells_nothing_needs_a_rule_that_does(paths, images, tmp_path):
    blind = options(paths, threshold=0.5, fast_options={'pretrained_model_path': str(paths / 'slow.safetensors')})
    with pytest.raises(CheckpointError, match='fast: this metric does not say how sure it is of a score'):
        Cascade(**blind)
    replace(RULE, profile_scores=[1.0, 5.0], profile_widths=[0.0, 1.0]).save(tmp_path / 'rule.json')
    net = Cascade(**{**blind, 'rule': str(tmp_path / 'rule.json')})
    net(images)
    assert torch.equal(net.handed_on, net.fast(images).flatten() > 3)


@pytest.mark.parametrize('content', ['no json', '{}', '{"slow_scores": [2, 1], "scores": [1, 2], "widths": [1], "rank_widths": '
                                     '[1], "fast_scores": [1, 2]}'])
def test_a_broken_rule_is_refused(tmp_path, content):
    (tmp_path / 'rule.json').write_text(content)
    with pytest.raises(CheckpointError, match='rule.json is not the rule of a cascade'):
        load_rule(tmp_path / 'rule.json')
    RULE.save(tmp_path / 'rule.json')
    assert load_rule(tmp_path / 'rule.json') == RULE


def test_images_that_a_metric_was_trained_on_end_the_study_or_are_counted(tmp_path):
    from types import SimpleNamespace

    from pyiqa_rali.data.inspection import inspect_images
    from pyiqa_rali.data.training_images import TrainingImages
    from tests.unit.test_inspection import picture
    paths = [str(picture(tmp_path / f'{number}.png', number)) for number in range(3)]
    record = TrainingImages.of({'x': inspect_images(paths[:1])})
    metric = SimpleNamespace(net=SimpleNamespace(training_images=record))
    tables = {'test': SimpleNamespace(name='x', source_files=lambda: paths)}
    with pytest.raises(DataError, match=r'fast on x \(test\): 1 of 3 test images were trained on.* set overlap: count'):
        study._trained_on(tables, {'fast': metric}, 'fail')
    row, = study._trained_on(tables, {'fast': metric, 'slow': None}, 'count')
    assert (row['dataset'], row['metric'], row['trained_on']) == ('test', 'fast', 1)


def test_isotonic_regression_is_strict_and_recovers_a_rising_curve():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0, 1, 2000)
    for direction in (1, -1):
        knots, values = study.isotonic(inputs, direction * inputs ** 2 + rng.normal(0, 0.05, 2000), direction)
        assert (np.diff(knots) > 0).all() and (direction * np.diff(values) > 0).all()
        assert np.abs(np.interp(0.5, knots, values) - direction * 0.25) < 0.02
    knots, values = study.isotonic(inputs, rng.normal(0, 1, 2000))
    assert (np.diff(values) > 0).all()  # noise is pooled


def judged(count=600, seed=0):
    """Return a fast metric whose error grows with its width, and a better slow one on the scale of the MOS."""
    rng = np.random.default_rng(seed)
    mos = rng.uniform(0, 1, count)
    widths = rng.uniform(0.05, 1, count)
    fast = 1 + 4 * mos + widths * rng.normal(0, 1, count)
    return study.Judged([f'{number}.png' for number in range(count)], mos, fast, widths, mos)


def test_the_map_brings_scores_of_one_meaning_together(monkeypatch):
    monkeypatch.setattr('pyiqa_rali.studies.cascade_fit.tells_width', lambda net: True)
    found = judged()
    rule = study.fit_rule(found, None, 1.0, {})
    mapped = rule.mapped(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).numpy()
    assert np.abs(mapped - (1 + 4 * np.array([0.2, 0.5, 0.8]))).max() < 0.35
    assert len(rule.widths) == len(rule.rank_widths) == 101


def test_the_study_finds_that_width_beats_chance_and_the_oracle_beats_both(monkeypatch):
    monkeypatch.setattr('pyiqa_rali.studies.cascade_fit.tells_width', lambda net: True)
    chosen = study.CascadeOptions('x', 0, {}, {'name': 'rali-lite'}, {'name': 'people'}, shares=[0, 0.2, 1])
    rows = study.curves(judged(seed=1), study.fit_rule(judged(), None, 1.0, {}), chosen, {'fast': 0.1, 'slow': 1.0}, 1.0)
    by = {(row['share'], row['choice']): row for row in rows}
    for measure, sign in (('srcc', 1), ('rmse', -1)):
        values = [sign * by[0.2, choice][measure] for choice in ('random', 'width', 'oracle')]
        assert values == sorted(values) and sign * by[0, 'width'][measure] < values[0]
    for share in (0, 1):
        assert len({round(by[share, choice]['srcc'], 9) for choice in study.CHOICES}) == 1
    assert by[0.2, 'width']['seconds_per_image'] == pytest.approx(0.3)
    summary = study.summary_of(rows)
    assert 0 < summary['rmse']['of_oracle']['random'] < summary['rmse']['of_oracle']['width'] < 1
    assert summary['srcc']['of_oracle']['oracle'] == 1


def test_the_profile_tells_where_a_metric_without_intervals_is_off():
    rng = np.random.default_rng(0)
    mos = rng.uniform(0, 1, 2000)
    fast = mos + np.where(mos > 0.5, 0.2, 0.02) * rng.normal(0, 1, 2000)
    found = study.Judged([''] * 2000, mos, fast, np.full(2000, np.nan), mos)
    rule = study.fit_rule(found, None, 1.0, {})
    near, far = interpolated(torch.tensor([0.2, 0.8]), rule.profile_scores, rule.profile_widths).tolist()
    assert near < 0.05 < 0.1 < far


@pytest.mark.slow
def test_the_command_writes_rule_curves_and_metric(paths, tmp_path, capsys):
    from pyiqa_rali.__main__ import main
    from pyiqa_rali.core.files import write_yaml
    from tests.tiny import tiny_table
    data = tiny_table(tmp_path / 'data', count=60)
    table, net = pd.read_csv(data['table']), RALI(pretrained_model_path=str(paths / 'fast.safetensors'))
    table['mos'] = [float(net(net.as_images(str(tmp_path / 'data' / name)))) for name in table['image']]  # both follow them
    table.to_csv(data['table'], index=False)
    section = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': data['images'], 'meta_info_file': data['table'],
               'split_index': 'split_photo', 'mos_range': [1, 5], 'lower_better': False}
    write_yaml(tmp_path / 'cascade.yml', {
        'name': 'tiny', 'model_type': 'CASCADE', 'manual_seed': 0, 'num_gpu': 0, 'timed': 2,
        'datasets': {'val': section, 'test': {**section, 'phase': 'train'}},
        'fast': {'name': 'rali', 'pretrained_model_path': str(paths / 'fast.safetensors')},
        'slow': {'name': 'rali', 'pretrained_model_path': str(paths / 'fast.safetensors')},
        'path': {'experiments_root': str(tmp_path), 'score_cache': str(tmp_path / 'cache')}})
    same = ['--force_yml', f'datasets:test={json.dumps({**section, "phase": "val"})}']
    assert main(['cascade', '-opt', str(tmp_path / 'cascade.yml'), *same]) == 2
    assert '20 images of test are those of val too: ' in capsys.readouterr().err
    assert main(['cascade', '-opt', str(tmp_path / 'cascade.yml')]) == 0
    root = tmp_path / 'tiny'
    metric = yaml.safe_load((root / 'metric.yml').read_text())['rali-cascade-tiny']
    assert metric['lower_better'] is False and json.loads((root / 'rule.json').read_text())['fitted_on']['coverage'] == 0.9
    study._write_metric(tmp_path, study.CascadeOptions('x', 0, {}, {'name': 'piqe'}, {'name': 'rali-lite'}), lower_better=True)
    assert yaml.safe_load((tmp_path / 'metric.yml').read_text())['rali-cascade-x']['lower_better'] is True
    assert {path.name for path in root.iterdir()} >= {'rule.json', 'metric.yml', 'results.csv', 'results.json', 'scores.csv'}
    assert (root / 'figures' / 'accuracy_against_cost.png').stat().st_size > 1000
    assert 'part of the oracle' in capsys.readouterr().out
    out = tmp_path / 'scores.csv'
    assert main(['score', data['images'], '-m', 'rali-cascade', '--metric-opt', 'fast=rali', '--metric-opt', 'slow=rali',
                 '--metric-opt', 'fast_options={pretrained_model_path: ' + str(paths / 'fast.safetensors') + '}',
                 '--metric-opt', 'slow_options={pretrained_model_path: ' + str(paths / 'slow.safetensors') + '}',
                 '--metric-opt', f'rule={root / "rule.json"}', '--metric-opt', 'share=0.5', '--out', str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == 'image,score,handed_on,error,metric' and len(lines) == 61
    handed_on = sum(line.split(',')[2] == '1' for line in lines[1:])
    assert f'{handed_on} of 60 images were handed on to the slow metric' in capsys.readouterr().err and 0 < handed_on < 60
    assert json.loads((root / 'results.json').read_text())['summary']['images'] == 40
