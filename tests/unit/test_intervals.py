"""Intervals around scores: what they promise, how a checkpoint keeps them, and where they are refused."""

import copy
import json

import pytest
import torch

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.model.basis_scorer import BasisScorer, scorer_digest
from pyiqa_rali.model.checkpoint import (
    load_checkpoint,
    load_metadata,
    metadata_to_extra_state,
    save_checkpoint,
    save_pth,
)
from pyiqa_rali.model.checkpoint_interval import with_interval, without_interval
from pyiqa_rali.model.interval import IntervalHead, kernel
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.features import FeatureTable
from pyiqa_rali.training.rali.intervals import _regression, chosen_datasets, fit_interval
from pyiqa_rali.training.rali.options import IntervalOptions
from tests.unit.test_rali import random_rali, tensors_of

SMALL = {'references': 60, 'neighbours': 5, 'folds': 4}


def table(scorer, count, seed, noise=0.1, uneven=True, shift=0.0):
    """Return random features whose labels are the score with an error that grows along one direction of the features."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, scorer.pca_components.shape[1], generator=generator) + shift
    with torch.no_grad():
        compressed = scorer.compress(features)
        scores = scorer.score_compressed(compressed).squeeze(-1)
        level = (2 * torch.nn.functional.normalize(compressed, dim=-1)[:, 0]).exp() if uneven else torch.ones(count)
        labels = scores + noise * level * torch.randn(count, generator=generator)
    return FeatureTable(features, labels, [str(number) for number in range(count)])


def label_scorer(net):
    """Return the net's scorer with basis scores in [0, 1], as training has it."""
    scorer = copy.deepcopy(net.scorer)
    low, high = net.metadata['mos_range']
    with torch.no_grad():
        share = (scorer.basis_scores - low) / (high - low)
        scorer.basis_scores.copy_(1 - share if net.lower_better else share)
    return scorer


def calibrated(net, seed=0, images=200, **options):
    """Return tensors and metadata of a net with intervals."""
    scorer = label_scorer(net)
    state, values = fit_interval(scorer, table(scorer, images, seed), IntervalOptions(**{**SMALL, **options}), seed)
    return with_interval(tensors_of(net), net.metadata, state, {**values, 'calibrated_on': ['tiny']})


@pytest.fixture(params=[False, True], ids=['higher', 'lower'])
def net(request, tmp_path):
    save_checkpoint(tmp_path / 'rali.safetensors', *calibrated(random_rali(lower_better=request.param)))
    return RALI(pretrained_model_path=str(tmp_path))


@pytest.mark.parametrize('signals', [['kernel'], ['distance'], ['kernel', 'scatter', 'errors', 'distance', 'spread']])
def test_intervals_hold_the_promised_share_whatever_the_signal_is_worth(signals):
    scorer, found = label_scorer(random_rali()), []
    for seed in range(0, 50, 10):
        state, values = fit_interval(scorer, table(scorer, 800, seed), IntervalOptions(signals=signals, references=300), seed)
        head = IntervalHead({**values, 'scorer': ''}, 6, 9, (0, 1))
        head.load_state_dict(state)
        test = table(scorer, 4000, seed + 2)
        with torch.no_grad():
            compressed = scorer.compress(test.image_features)
            sigma, distance = head.sigma_and_distance(scorer, compressed)
            errors = (scorer.score_compressed(compressed).squeeze(-1) - test.mos_label).abs()
        found.append([(errors <= head.quantile(0.5) * sigma).float().mean().item(),
                      (errors <= head.quantile(0.9) * sigma).float().mean().item(),
                      (distance > head.distance_limit).float().mean().item()])
    half, most, alarms = torch.tensor(found).mean(dim=0).tolist()
    # four standard deviations of a mean of five, each of 800 calibration and 4000 test images
    assert abs(half - 0.5) < 0.035 and abs(most - 0.9) < 0.021 and alarms < 0.05 + 0.016, found


def test_the_signal_finds_where_errors_are_large():
    from scipy.stats import spearmanr
    scorer = label_scorer(random_rali())
    state, values = fit_interval(scorer, table(scorer, 1000, 1), IntervalOptions(), 0)
    head = IntervalHead({**values, 'scorer': ''}, 6, 9, (0, 1))
    head.load_state_dict(state)
    test = table(scorer, 1000, 3)
    with torch.no_grad():
        compressed = scorer.compress(test.image_features)
        level = torch.nn.functional.normalize(compressed, dim=-1)[:, 0]
        sigma, _ = head.sigma_and_distance(scorer, compressed)
    assert spearmanr(sigma, level)[0] > 0.8


def test_a_signal_that_falls_with_the_error_makes_all_intervals_one_width():
    wanted = torch.linspace(-1, 1, 30)
    wrong, right = -wanted.unsqueeze(1), torch.stack([-wanted, wanted ** 3], dim=1)
    assert _regression(wrong, wanted).tolist() == pytest.approx([0, 0], abs=1e-6)
    slope = float((wanted ** 4).sum() / (wanted ** 6).sum())  # of the second alone, both of mean 0
    assert _regression(right, wanted).tolist() == pytest.approx([0, slope, 0], abs=1e-4)
    assert _regression(2 * wanted.unsqueeze(1) + 1, wanted).tolist() == pytest.approx([0.5, -0.5], abs=1e-5)


def test_intervals_know_a_temperature_that_follows_the_image():
    scorer = label_scorer(random_rali())
    own = BasisScorer(scorer.pca_mean.numel(), *reversed(scorer.basis_vectors.shape), own_temperature=True)
    own.load_state_dict({**scorer.state_dict(), 'temperature_direction': 0.5 * torch.randn(scorer.basis_vectors.shape[1])})
    calibration, others = table(own, 400, 0), table(own, 400, 1)
    for features in (calibration, others):  # the same directions with other lengths, which decide the temperature
        features.image_features.sub_(own.pca_mean).mul_(3).add_(own.pca_mean)
        with torch.no_grad():
            noise = 0.02 * torch.randn(len(features.mos_label), generator=torch.Generator().manual_seed(7))
            features.mos_label.copy_(own(features.image_features).squeeze(-1) + noise)
    state, values = fit_interval(own, calibration, IntervalOptions(**SMALL), 0)
    head = IntervalHead(values, own.basis_vectors.shape[1], len(own.basis_scores), (0, 1))
    head.load_state_dict(state)
    head.values['scorer'] = scorer_digest(own.state_dict())
    with torch.no_grad():
        found = head.around(own, others.image_features, own(others.image_features), 0.9)
    label = others.mos_label.unsqueeze(1)
    assert 0.8 < float(((found.low <= label) & (label <= found.high)).float().mean()) < 0.98
    assert values['half_width'] < 0.1  # errors of the scores that the scorer gives: noise of .02


def test_pictures_from_elsewhere_are_called_unlike():
    net = random_rali()
    scorer = label_scorer(net)
    state, values = fit_interval(scorer, table(scorer, 200, 1, shift=2.0), IntervalOptions(**SMALL), 0)
    tensors, metadata = with_interval(tensors_of(net), net.metadata, state, values)
    net.load_state_dict({**tensors, '_extra_state': metadata_to_extra_state(metadata)})
    near, far = (table(scorer, 300, 5, shift=shift).image_features for shift in (2.0, -2.0))
    with torch.no_grad():
        found = [net.intervals_of(features, net.scorer(features)) for features in (near, far)]
    assert found[0].unlike.float().mean() < 0.15 < 0.8 < found[1].unlike.float().mean()
    assert all(torch.equal(each.unlike, each.distance > 1) for each in found)


def test_scores_stay_and_lie_within_their_intervals(net):
    images = torch.rand(4, 3, 40, 48)
    found = net.score_with_interval(images)
    assert torch.equal(found.scores, net(images)) and found.coverage == 0.9
    assert found.low.shape == found.high.shape == found.distance.shape == (4, 1)
    assert ((found.low <= found.scores) & (found.scores <= found.high) & (found.low >= 1) & (found.high <= 5)).all()
    wider = net.score_with_interval(images, 0.95)
    assert (wider.width >= found.width).all() and (wider.width > found.width).any()


def test_an_interval_does_not_depend_on_the_batch(net):
    images = torch.rand(5, 3, 40, 48)
    together = net.score_with_interval(images)
    alone = [net.score_with_interval(image.unsqueeze(0)) for image in images]
    for name in ('low', 'high', 'distance'):
        assert torch.allclose(getattr(together, name), torch.cat([getattr(each, name) for each in alone]), atol=1e-5)


def test_a_path_is_taken_too(net, tmp_path):
    from PIL import Image
    Image.linear_gradient('L').save(tmp_path / 'a.png')
    assert net.score_with_interval(str(tmp_path / 'a.png')).low.shape == (1, 1)


@pytest.mark.parametrize('save', [save_checkpoint, save_pth])
def test_a_checkpoint_keeps_its_intervals(tmp_path, save):
    plain = random_rali()
    path = tmp_path / ('rali.safetensors' if save is save_checkpoint else 'rali.pth')
    save(path, *calibrated(plain))
    assert load_metadata(path)['format_version'] == 3 and load_metadata(path)['interval']['calibrated_on'] == ['tiny']
    loaded, other = RALI(pretrained_model_path=str(path)), random_rali(seed=1)
    images = torch.rand(2, 3, 40, 48)
    assert torch.allclose(loaded(images), plain(images), atol=1e-5)
    other.load_state_dict(loaded.state_dict())
    found, expected = other.score_with_interval(images), loaded.score_with_interval(images)
    assert torch.allclose(found.high, expected.high, atol=1e-5)
    tensors, metadata = without_interval(*load_checkpoint(path))
    save_checkpoint(tmp_path / 'without.safetensors', tensors, metadata)
    with pytest.raises(CheckpointError, match='no interval: the checkpoint was not calibrated. Calibrate it on images that'):
        RALI(pretrained_model_path=str(tmp_path / 'without.safetensors')).score_with_interval(images)


def test_the_interval_of_another_scorer_is_refused_when_it_is_asked_for(net):
    images = torch.rand(1, 3, 40, 48)
    net.score_with_interval(images)
    with torch.no_grad():
        net.scorer.basis_scores += 0.1
    net(images)
    with pytest.raises(CheckpointError, match='the scorer has changed since its interval was calibrated. Calibrate it again'):
        net.score_with_interval(images)
    with pytest.raises(CheckpointError, match='has changed since'):
        copy.deepcopy(net).score_with_interval(images)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda tensors, metadata: tensors.pop('interval.ratios'), 'interval.ratios is missing; it must be'),
    (lambda tensors, metadata: metadata.pop('interval'), 'its interval lacks "interval" in its metadata'),
    (lambda tensors, metadata: metadata['interval'].pop('offset'), 'its interval lacks offset. Calibrate it again'),
    (lambda tensors, metadata: metadata['interval'].update(signals=['magic']), 'has the signals magic, which this version'),
    (lambda tensors, metadata: tensors.update({'interval.kernel_weights': torch.full((60,), float('nan'))}), 'not finite'),
])
def test_a_damaged_interval_is_refused(tmp_path, change, message):
    tensors, metadata = calibrated(random_rali())
    metadata = json.loads(json.dumps(metadata))
    change(tensors, metadata)
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / 'rali.safetensors', tensors, metadata)


def test_what_cannot_be_promised_is_refused(net):
    images = torch.rand(1, 3, 40, 48)
    for coverage, message in ((0, 'must be a number above 0 and below 1'), (1, 'must be a number above 0 and below 1'),
                              ('0.9', 'must be a number above 0 and below 1'), (True, 'coverage: True must be'),
                              (0.999, 'needs at least 999 images of calibration, and the checkpoint was calibrated on 200')):
        with pytest.raises(OptionError, match=message):
            net.score_with_interval(images, coverage)
    scorer = label_scorer(net)
    with pytest.raises(DataError, match='interval: 19 calibration images are too few; at least 20'):
        fit_interval(scorer, table(scorer, 19, 1), IntervalOptions(), 0)
    state = {'reference_features': torch.zeros(20_000, 64, dtype=torch.float16)}
    with pytest.raises(CheckpointError, match='the interval takes 2.56 MB, and 2 MB is allowed'):
        with_interval(tensors_of(net), net.metadata, state, {})


def test_the_quantile_is_the_order_statistic_of_split_conformal_prediction():
    head = IntervalHead({'signals': ['kernel'], 'neighbours': 1, 'offset': 0.1, 'references': 1, 'images': 9, 'scorer': ''},
                        2, 3, (0, 1))
    head.ratios.copy_(torch.arange(1, 10))
    assert [head.quantile(coverage) for coverage in (0.5, 0.61, 0.8, 0.9)] == [5, 7, 8, 9]
    with pytest.raises(OptionError, match='needs at least 19 images'):
        head.quantile(0.95)


def test_the_kernel_is_one_at_no_distance_and_falls():
    points = torch.randn(4, 8)
    found = kernel(points, points)
    assert torch.allclose(found.diagonal(), torch.ones(4), atol=1e-5) and (found <= 1 + 1e-5).all()
    assert torch.allclose(kernel(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])), torch.tensor([[-3 * 4 / 2]]).exp())


def test_data_sets_are_named_or_the_first():
    assert chosen_datasets('interval: datasets', None, ['val', 'val_2']) == ['val']
    assert chosen_datasets('interval: datasets', ['val_2'], ['val', 'val_2']) == ['val_2']
    with pytest.raises(OptionError, match='interval: datasets: "vall" is not one of val, val_2. Did you mean "val"'):
        chosen_datasets('interval: datasets', ['vall'], ['val', 'val_2'])
    with pytest.raises(OptionError, match='interval: datasets: the option file has no data set for it'):
        chosen_datasets('interval: datasets', None, [])
