"""A MOS from its table to whatever is written of it: the same number, and one name a stage."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.training.rali.features import FeatureTable, load_features, save_features
from pyiqa_rali.training.rali.options import train_options
from pyiqa_rali.training.rali.run import train
from pyiqa_rali.training.rali.run_folder import read_scores, write_scores
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.tables import rows_of
from tests.tiny import tiny_options, tiny_table

MOS = (3.42, 1.1, 4.9, 2.718281828459045, 3.3000000000000003)
SCALE = MosScale([1, 5], False)


def rows(path):
    with open(path, newline='') as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def section(tmp_path):
    """A table of five pictures whose MOS no float32 holds."""
    paths = tiny_table(tmp_path)
    (tmp_path / 'mos.csv').write_text('image,mos\n' + ''.join(f'{number:03d}.png,{mos!r}\n' for number, mos in enumerate(MOS)))
    return {'name': 'exact', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'], 'lower_better': False,
            'meta_info_file': str(tmp_path / 'mos.csv'), 'mos_range': [1, 5]}


@pytest.mark.parametrize('scale', [([1, 5], False), ([0, 10], True)])
def test_items_have_the_mos_of_the_table_and_the_label_of_the_scale(section, scale):
    section.update(mos_range=scale[0], lower_better=scale[1])
    items = build_table('val', section, 0).__getitems__(list(range(5)))
    assert tuple(item['mos'] for item in items) == MOS
    for item, mos in zip(items, MOS, strict=True):
        assert item['mos_label'].dtype == torch.float32 and item['mos_label'].shape == (1,)
        assert item['mos_label'].item() == np.float32(MosScale(*scale).normalise(mos))


def test_ratings_are_the_mos_where_the_scales_are_one(section):
    assert [row.mos for row in rows_of('train', section, ReasoningCard(), 0)] == list(MOS)
    turned = rows_of('train', {**section, 'mos_range': [0, 10], 'lower_better': True}, ReasoningCard(), 0)
    assert [row.mos for row in turned] == pytest.approx([1 + 0.4 * (10 - mos) for mos in MOS])


def test_features_keep_the_mos_and_those_of_version_0_1_are_read(tmp_path):
    table = FeatureTable(torch.rand(5, 3), torch.tensor([SCALE.normalise(mos) for mos in MOS]), list('abcde'),
                         torch.tensor(MOS, dtype=torch.float64))
    save_features(tmp_path / 'features.safetensors', table)
    loaded = load_features(tmp_path / 'features.safetensors')
    assert tuple(loaded.mos_on(SCALE).tolist()) == MOS == tuple(loaded.mos_on(SCALE, MosScale([1, 5], False)).tolist())
    assert loaded.mos_on(SCALE, MosScale([0, 100], True)) == pytest.approx([125 - 25 * mos for mos in MOS])
    save_file({'image_features': table.image_features, 'mos_label': table.mos_label}, tmp_path / 'old.safetensors',
              metadata={'image_names': '["a", "b", "c", "d", "e"]'})
    old = load_features(tmp_path / 'old.safetensors')
    assert old.mos is None and old.mos_on(SCALE) == pytest.approx(MOS, abs=1e-6)


def test_tables_of_scores_hold_the_mos_as_they_were(tmp_path):
    labels, scores = np.float32([SCALE.normalise(mos) for mos in MOS]), np.float32(MOS)
    write_scores(tmp_path / 'val.csv', list('abcde'), np.array(MOS), labels, scores)
    written = rows(tmp_path / 'val.csv')
    assert list(written[0]) == ['image', 'mos', 'mos_label', 'score']
    assert [row['mos'] for row in written] == list(map(repr, MOS)) and written[0]['mos'] == '3.42'
    assert [np.float32(row['mos_label']) for row in written] == labels.tolist()


@pytest.mark.parametrize(('mos_range', 'expected'), [(None, MOS), ([0, 100], [25 * (mos - 1) for mos in MOS])])
def test_scores_are_read_beside_the_mos_on_their_own_scale(tmp_path, mos_range, expected):
    options = train_options(tiny_options(tmp_path, export__mos_range=mos_range))
    write_scores(tmp_path / 'val.csv', list('abcde'), np.array(MOS), np.float32(MOS), np.float32(MOS))
    assert read_scores(tmp_path / 'val.csv')[1].tolist() == list(MOS)
    names, mos, scores = read_scores(tmp_path / 'val.csv', options)
    assert names == list('abcde') and mos == pytest.approx(expected) and scores == pytest.approx(MOS)


@pytest.mark.slow
def test_a_run_writes_each_mos_in_the_unit_of_its_own_table(tmp_path):
    values = tiny_options(tmp_path, logger__figures=True)
    exact = pd.read_csv(values['datasets']['val']['meta_info_file'])
    exact['mos'] = np.linspace(0, 100, len(exact)).round(3) / 3
    exact.to_csv(tmp_path / 'percent.csv', index=False)
    percent = {'name': 'percent', 'phase': 'val', 'meta_info_file': str(tmp_path / 'percent.csv'), 'mos_range': [0, 100],
               'lower_better': True}
    values['datasets']['test'] = {**values['datasets']['val'], **percent}
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(values))
    results = train(tmp_path / 'options.yml')
    options = train_options(read_yaml(results.folder / 'options.yml'))
    for name, file in (('val', values['datasets']['val']['meta_info_file']), ('test', tmp_path / 'percent.csv')):
        table = {row['image']: float(row['mos']) for row in rows(file)}
        written = rows(results.folder / 'score' / f'{name}.csv')
        assert written and all(float(row['mos']) == table[row['image'].rpartition('/')[2]] for row in written)
        names, mos, scores = read_scores(results.folder / 'score' / f'{name}.csv', options)  # on the scale of the scores
        assert len(names) == len(written) and 1 <= mos.min() <= mos.max() <= 5 and len(scores) == len(mos)
        expected = [float(row['mos']) if name == 'val' else 1 + 0.04 * (100 - float(row['mos'])) for row in written]
        assert mos == pytest.approx(expected)
    assert (results.folder / 'figures' / 'scatter_test.png').stat().st_size > 0
