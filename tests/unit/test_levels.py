"""Levels of distortions in order: measured on pictures of tiny photographs."""

import csv

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.studies.analyses import levels
from pyiqa_rali.studies.analyses.levels import analyse_levels
from pyiqa_rali.studies.protocol import level_order


@pytest.fixture
def options(tmp_path):
    photographs = tmp_path / 'photos'
    photographs.mkdir()
    for number in range(3):
        small = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize((150, 120), Image.Resampling.BICUBIC).save(photographs / f'p|{number}.png')
    section = {'type': 'SyntheticNRDataset', 'dataroot_photos': str(photographs), 'split_ratios': [0, 0, 1], 'crop_size': 100,
               'source_scale': [1.0, 1.0], 'only': ['gaussian_blur', 'white_noise'], 'levels': [1, 3, 5], 'mos_range': [1, 5],
               'lower_better': False, 'num_photographs': 2}
    return {'datasets': {'test': section, 'anew': {**section, 'levels': None}}}


class ByDeviation:
    """A metric that calls pictures of little contrast good: noise is put in order, blur the wrong way round."""

    lower_better = True

    def __init__(self):
        import torch
        self.net, self.calls = torch.nn.Linear(1, 1), 0

    def __call__(self, pictures):
        self.calls += 1
        return pictures.diff(dim=-1).std().reshape(1, 1)


def test_levels_of_every_type_are_compared_and_pictures_scored_once(options, tmp_path, monkeypatch):
    metric = ByDeviation()
    monkeypatch.setattr(levels, 'make_metric', lambda *arguments: metric)
    found = analyse_levels(options, ['test'], ['one'], tmp_path / 'out')
    assert metric.calls == 2 * 2 * 3 and found.tables['table'][0]['pictures'] == 12
    order = {row['type']: row['level_order'] for row in found.tables['types']}
    assert order == {'gaussian_blur': 0, 'white_noise': 1} and found.tables['table'][0]['level_order'] == 0.5
    assert found.figure.stat().st_size > 5000
    with open(found.root / 'types.csv', newline='') as stream:
        assert [row['type'] for row in csv.DictReader(stream)] == ['gaussian_blur', 'white_noise']
    again = analyse_levels(options, ['test'], ['one'], tmp_path / 'out')
    assert metric.calls == 12 and again.tables == found.tables


def test_names_of_photographs_may_hold_the_signs_of_ours():
    names = ['a|b#c|blur|1#0', 'a|b#c|blur|5#1']
    assert level_order(names, np.array([3.0, 2.0])) == 1 and level_order(names, np.array([2.0, 2.0])) == 0


def test_what_cannot_be_compared_is_told(options, tmp_path):
    with pytest.raises(OptionError, match='one is given twice'):
        analyse_levels(options, ['test'], ['piqe', 'piqe'], tmp_path / 'out')
    with pytest.raises(OptionError, match='datasets: anew: has no levels'):
        analyse_levels(options, ['anew'], ['piqe'], tmp_path / 'out')
    with pytest.raises(OptionError, match='sections: "tset" is not in'):
        analyse_levels(options, ['tset'], ['piqe'], tmp_path / 'out')


def test_the_command_prints_the_embedded_metric(options, tmp_path, capsys):
    file = tmp_path / 'levels.yml'
    file.write_text(yaml.safe_dump(options))
    assert main(['analyse', 'levels', '-opt', str(file), '--sections', 'test', '--out', str(tmp_path / 'out')]) == 0
    assert 'test           rali-lite               12 pictures' in capsys.readouterr().out
