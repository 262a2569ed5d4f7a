"""pyiqa's tables: no-reference and full-reference ones give each image with its own MOS."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.mos import MosScale
from pyiqa_rali.data.tables import QualityTable, build_table
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.tables import rows_of


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('ref.png', 'a.png', 'b.png', 'c.png'):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    pd.DataFrame([['ref.png', 'a.png', 1.5], ['ref.png', 'b.png', 4.5], ['ref.png', 'c.png', 3]]).to_csv(
        tmp_path / 'fr.csv', index=False)
    pd.DataFrame([['a.png', 1.5, 0.2], ['b.png', 4.5, 0.1], ['c.png', 3, 0.3]]).to_csv(tmp_path / 'nr.csv', index=False)
    return tmp_path


@pytest.mark.parametrize('kind', ['NR', 'FR'])
def test_images_and_mos(folder, kind):
    table = build_table('train', {'name': 'tiny', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder),
                                  'meta_info_file': str(folder / f'{kind.lower()}.csv'), 'mos_range': [1, 5],
                                  'lower_better': False}, 0)
    assert table.images_and_mos() == [(str(folder / f'{name}.png'), mos) for name, mos in (('a', 1.5), ('b', 4.5), ('c', 3))]
    assert table.image_names() == [str(folder / f'{name}.png') for name in 'abc'] and table.table_names() == [
        'a.png', 'b.png', 'c.png']
    items = table.__getitems__([0, (1, 3)])
    assert [float(item['mos_label']) for item in items] == [0.125, 0.875] and items[0]['img'].shape == (3, 24, 24)


@pytest.mark.parametrize('kind', ['NR', 'FR'])
def test_mos_outside_the_range_are_found(folder, kind):
    with pytest.raises(DataError, match=r'2 of 3 MOS are outside mos_range \[1, 2\] \(found 1.5 to 4.5\)'):
        build_table('train', {'name': 'tiny', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder),
                              'meta_info_file': str(folder / f'{kind.lower()}.csv'), 'mos_range': [1, 2],
                              'lower_better': False}, 0)


def test_a_truncated_image_is_named(folder):
    content = (folder / 'b.png').read_bytes()
    (folder / 'b.png').write_bytes(content[:len(content) // 2])
    table = build_table('train', {'name': 'tiny', 'type': 'GeneralFRDataset', 'dataroot_target': str(folder),
                                  'meta_info_file': str(folder / 'fr.csv'), 'mos_range': [1, 5], 'lower_better': False}, 0)
    with pytest.raises(DataError, match=r'tiny: .*b.png cannot be read as an image'):
        table[1]


def test_rows_without_paths_start_from_the_data_sets_root():
    base = SimpleNamespace(dataroot='ava', paths_mos=[['1.jpg', 4.5, 0, 1], ['2.jpg', 6, 1, 0]])
    assert QualityTable(base, MosScale([1, 10], False), 'AVA', 0).images_and_mos() == [('ava/1.jpg', 4.5), ('ava/2.jpg', 6.0)]


@pytest.mark.parametrize('kind', ['NR', 'FR'])
def test_a_further_column(folder, kind):
    path = folder / f'{kind.lower()}.csv'
    table = pd.read_csv(path)
    table['fault'] = ['blur', None, 'noise']
    table['a_split'] = ['train', 'train', 'val']
    table.to_csv(path, index=False)
    values = {'name': 'tiny', 'type': f'General{kind}Dataset', 'dataroot_target': str(folder), 'meta_info_file': str(path),
              'mos_range': [1, 5], 'lower_better': False, 'split_index': 'a_split'}
    assert build_table('train', values, 0).column('fault') == ['blur', '']
    with pytest.raises(DataError, match=r'has no column "falt"; it has .*fault'):
        build_table('train', values, 0).column('falt')
    rows = rows_of('train', {**values, 'class_column': 'fault'}, ReasoningCard(), 0)
    assert [row.distortion_class for row in rows] == ['blur', '']
    assert [row.distortion_class for row in rows_of('train', values, ReasoningCard(), 0)] == ['', '']
