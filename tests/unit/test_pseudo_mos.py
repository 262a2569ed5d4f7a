import json

import numpy as np
import pytest
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.data.synthetic.pseudo_mos import (
    DEFAULT_METRICS,
    FullReferenceMetrics,
    PseudoMos,
    load_calibration,
    quantile_table,
    severity_of,
)
from tests.unit.test_distortions import photograph

CALIBRATION = {'psnr': [10.0, 20.0, 30.0, 40.0, 50.0], 'gmsd': [0.0, 0.1, 0.2, 0.3]}


@pytest.mark.parametrize('levels, severity', [([], 0), ([0.5], 0), ([5.5], 1), ([3], 0.5), ([3, 3], 0.75), ([5.5, 1], 1)])
def test_severity(levels, severity):
    assert severity_of(levels) == pytest.approx(severity)


@pytest.mark.parametrize('name, value, rank', [('psnr', 30, 0.5), ('psnr', 5, 0), ('psnr', 90, 1), ('psnr', 25, 0.375),
                                               ('gmsd', 0.0, 1), ('gmsd', 0.3, 0), ('gmsd', 0.15, 0.5), ('gmsd', 9, 0)])
def test_ranks_follow_the_quantiles_and_the_direction(name, value, rank):
    assert PseudoMos([name], CALIBRATION).rank(name, np.array([value]))[0] == pytest.approx(rank)


def test_the_label_is_half_rank_half_severity():
    labels = PseudoMos(['psnr', 'gmsd'], CALIBRATION)
    found = labels.label_measured({'psnr': np.array([30.0]), 'gmsd': np.array([0.0])}, [0.25])
    assert found[0] == pytest.approx(1 + 4 * (0.5 * (0.5 + 1) / 2 + 0.5 * 0.75))


def test_labels_stay_in_range_with_noise_and_repeat():
    labels = PseudoMos(['psnr'], CALIBRATION, noise=0.5)
    values, severity = {'psnr': np.linspace(0, 60, 50)}, np.linspace(1, 0, 50)
    first, second = (labels.label_measured(values, severity, [np.random.default_rng(i) for i in range(50)]) for _ in range(2))
    assert np.array_equal(first, second) and first.min() >= 1 and first.max() <= 5
    assert not np.allclose(first, PseudoMos(['psnr'], CALIBRATION).label_measured(values, severity))


def test_stronger_distortions_get_lower_labels():
    reference = photograph(128, 160)
    for name in ('gaussian_blur', 'white_noise', 'jpeg'):
        distorted = [distort(reference, name, level, np.random.default_rng(0)) for level in (1, 2, 3, 4, 5)]
        mos = PseudoMos().label(as_tensor([reference] * 5), as_tensor(distorted), [severity_of([i]) for i in range(1, 6)])
        assert (np.diff(mos) < 0).all(), name


def test_an_undistorted_picture_is_among_the_best():
    tensor = as_tensor([photograph(128, 160)])
    assert PseudoMos().label(tensor, tensor, [0.0])[0] > 4.9


def test_chunks_do_not_change_the_metrics():
    rng = torch.Generator().manual_seed(0)
    reference, distorted = torch.rand(20, 3, 64, 64, generator=rng), torch.rand(20, 3, 64, 64, generator=rng)
    metrics = FullReferenceMetrics()
    together = metrics(reference, distorted)
    for name in DEFAULT_METRICS:
        alone = [metrics(reference[i:i + 1], distorted[i:i + 1])[name][0] for i in (0, 7, 19)]
        assert together[name][[0, 7, 19]] == pytest.approx(alone, abs=1e-6)


def test_quantiles_never_fall():
    table = quantile_table({'a': np.array([1.0, 1.0, 1.0, 2.0, np.nan, np.inf]), 'b': np.arange(1000.0)})
    assert all(len(values) == 101 and (np.diff(values) >= 0).all() for values in table.values())
    assert table['a'][0] == 1 and table['a'][-1] == 2


def test_the_packages_calibration_has_the_default_metrics():
    assert set(DEFAULT_METRICS) <= set(load_calibration())


@pytest.mark.parametrize('content', ['', '{}', '{"quantiles": {"psnr": [3, 2]}}', '{"quantiles": {"psnr": ["a", "b"]}}',
                                     '{"quantiles": []}'])
def test_a_file_that_is_no_calibration(tmp_path, content):
    (tmp_path / 'table.json').write_text(content)
    with pytest.raises(OptionError, match=r'calibration: .*table.json is not a calibration file'):
        load_calibration(tmp_path / 'table.json')
    with pytest.raises(OptionError, match=r'gone.json is not a calibration file'):
        load_calibration(tmp_path / 'gone.json')


def test_metrics_that_cannot_be_used(tmp_path):
    with pytest.raises(OptionError, match=r'metrics: "psnrr" is not one of .*Did you mean "psnr"'):
        FullReferenceMetrics(['psnrr'])
    with pytest.raises(OptionError, match=r'metrics: the list is empty'):
        FullReferenceMetrics([])
    with pytest.raises(OptionError, match=r'metrics: vif not in the calibration, which has psnr, gmsd'):
        PseudoMos(['vif'], CALIBRATION)
    with pytest.raises(OptionError, match=r'metrics: cw_ssim needs 128 pixels on the shorter side, and the pictures have 64'):
        FullReferenceMetrics(['cw_ssim'])(torch.rand(1, 3, 64, 200), torch.rand(1, 3, 64, 200))


def test_calibration_from_photographs(tmp_path, capsys):
    from PIL import Image

    from pyiqa_rali.__main__ import main
    for index in range(3):
        Image.fromarray(photograph(160, 176, index)).save(tmp_path / f'{index}.png')
    arguments = ['make-dataset', '--photos', str(tmp_path), '--calibration-draws', '20', '--metrics', 'psnr', 'gmsd']
    assert main([*arguments, '--calibrate', str(tmp_path / 'table.json')]) == 0
    assert set(load_calibration(tmp_path / 'table.json')) == {'psnr', 'gmsd'}
    provenance = json.loads((tmp_path / 'table.json').read_text())['provenance']
    assert provenance['photographs'] == 3 and provenance['draws'] == 20 and '--calibrate' in provenance['command']
