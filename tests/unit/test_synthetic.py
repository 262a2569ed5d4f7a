import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.distortions import DISTORTIONS
from pyiqa_rali.data.photographs import list_photographs, split_photographs
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset, by_camera_order, distort_visibly
from pyiqa_rali.data.tables import build_table
from tests.unit.test_distortions import photograph


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for index in range(10):
        Image.fromarray(photograph(90, 110, index)).save(folder / f'{index}.png')
    return folder


def dataset(folder, **options):
    values = {'name': 'test', 'dataroot_photos': str(folder), 'crop_size': 64, 'samples_per_epoch': 12, **options}
    return SyntheticNRDataset(values)


def test_an_item_depends_on_seed_and_index_alone(folder):
    first, second, other = dataset(folder), dataset(folder), dataset(folder, seed=1)
    [second[index] for index in (3, 1)]
    together = first.__getitems__([5, 1000, 3])
    for item, index in zip(together, (5, 1000, 3), strict=True):
        alone = second[index]
        assert torch.equal(item['img'], alone['img']) and item['reasoning_texts'] == alone['reasoning_texts']
        assert item['mos_label'] == pytest.approx(alone['mos_label'].item(), abs=1e-5) and item['img_path'] == alone['img_path']
    assert not torch.equal(other[5]['img'], together[0]['img'])


def test_items_are_what_pyiqa_wants(folder):
    items = dataset(folder, texts_per_image=3).__getitems__(list(range(30)))
    for item in items:
        assert item['img'].shape == (3, 64, 64) and item['img'].dtype == torch.float32
        assert item['img'].min() >= 0 and item['img'].max() <= 1
        assert item['mos_label'].shape == (1,) and 1 <= item['mos_label'].item() <= 5
        assert len(set(item['reasoning_texts'])) == 3
    assert len({item['distortion'] for item in items}) > 10


def test_shares_of_pristine_and_composite(folder):
    names = [dataset(folder, pristine_probability=1, composite_probability=0).draw(i).distortions for i in range(20)]
    assert names == [[]] * 20
    counts = [len(dataset(folder, pristine_probability=0, composite_probability=1).draw(i).distortions) for i in range(20)]
    assert max(counts) == 2 and sum(counts) > 30


def test_held_out_types_are_never_drawn(folder):
    held_out = list(DISTORTIONS)[::2]
    drawn = dataset(folder, hold_out=held_out)
    found = {name for index in range(150) for name, _ in drawn.draw(index).distortions}
    assert found and not found & set(held_out)
    only = dataset(folder, only=['jpeg', 'haze'])
    assert {name for index in range(40) for name, _ in only.draw(index).distortions} == {'jpeg', 'haze'}


def test_phases_share_no_photograph(folder):
    sets = [dataset(folder, phase=phase, split_seed=3, split_ratios=[0.6, 0.2, 0.2]) for phase in ('train', 'val', 'test')]
    ids = [{item.photograph_id for item in each.photographs} for each in sets]
    assert [len(each) for each in ids] == [6, 2, 2] and not ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2]
    assert ids[0] == {item.photograph_id for item in split_photographs(list_photographs(folder), 3, (0.6, 0.2, 0.2))['train']}


def test_the_grid_has_every_cell_once(folder):
    grid = dataset(folder, phase='test', levels=[1, 3, 5], only=['jpeg', 'white_noise', 'gaussian_blur'])
    assert len(grid) == 2 * 3 * 3 and not grid.draws_anew
    names = [grid[index]['img_path'].split('#')[0] for index in range(len(grid))]
    assert len(set(names)) == len(grid)
    with pytest.raises(IndexError, match='item 18 of 18'):
        grid[18]
    mos = np.array([grid[index]['mos_label'].item() for index in range(len(grid))]).reshape(-1, 3)
    assert (np.diff(mos) < 0).all()


def test_what_has_no_effect_is_no_distortion():
    gray = photograph()[..., :1].repeat(3, -1)
    image, effective = distort_visibly(gray, [('desaturate', 5.0), ('jpeg', 3.0)], np.random.default_rng(0))
    assert effective == [('jpeg', 3.0)] and not np.array_equal(image, gray)


def test_distortions_come_in_the_order_of_a_camera():
    assert by_camera_order(['jpeg', 'white_noise', 'gaussian_blur']) == ['gaussian_blur', 'white_noise', 'jpeg']


def test_pyiqa_builds_it_by_name(folder):
    values = {'name': 'synthetic', 'type': 'SyntheticNRDataset', 'dataroot_photos': str(folder), 'crop_size': 64,
              'samples_per_epoch': 4, 'mos_range': [1, 5], 'lower_better': False, 'num_worker_per_gpu': 2}
    table = build_table('train', values, 0)
    assert len(table) == 4 and table.draws_anew
    assert 0 <= table[0]['mos_label'].item() <= 1


@pytest.mark.parametrize('options, message', [
    ({'crop_sise': 64}, r'unknown key "crop_sise".*Did you mean "crop_size"'),
    ({'crop_size': 16}, 'crop_size: 16 must be one or two numbers of at least 32 pixels'),
    ({'crop_size': [64, 64, 3]}, 'crop_size'),
    ({'phase': 'dev'}, 'phase: "dev" is not one of train, val, test'),
    ({'mos_range': [0, 100]}, r'mos_range: the labels are in \[1.0, 5.0\]'),
    ({'lower_better': True}, 'lower_better'),
    ({'source_scale': [1.0, 0.5]}, r'source_scale: \[1.0, 0.5\] must have the lower number first'),
    ({'level_range': [0, 9]}, r'level_range: element 1: 0.0 must be in \[0.5, 5.5\]'),
    ({'composite_probability': 0.7, 'pristine_probability': 0.4}, '1 at most together'),
    ({'samples_per_epoch': 0}, 'samples_per_epoch: 0 must be at least 1'),
    ({'levels': []}, 'levels: must hold at least one, or ~'),
    ({'levels': [7]}, r'levels: element 1: 7.0 must be in \[0.5, 5.5\]'),
    ({'hold_out': list(DISTORTIONS)}, 'hold_out: leaves no distortion'), ({'only': ['jpg']}, 'only: "jpg" is not one of'),
    ({'metrics': ['lpips']}, 'metrics: "lpips" is not one of'),
    ({'metrics': ['cw_ssim']}, 'cw_ssim needs 128 pixels'),
])
def test_options_that_cannot_be_used(folder, options, message):
    with pytest.raises(OptionError, match=message):
        dataset(folder, **options)


def test_photographs_smaller_than_the_crop(folder):
    with pytest.raises(DataError, match=r'7 of 7 photographs are smaller than the crop of 128 x 128'):
        dataset(folder, crop_size=128)
