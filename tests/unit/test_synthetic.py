from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.distortions import DEFAULT_TYPES, DISTORTIONS, FAMILIES, GROUPS, distort
from pyiqa_rali.data.photographs import list_photographs, split_photographs
from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset, by_camera_order, distort_visibly, texts_of_item
from pyiqa_rali.data.tables import build_table
from tests.unit.test_distortions import photograph

DRAWS_OF_0_1 = [
    ('7', [], 132.58), ('5', [('jitter', 1.682)], 131.96), ('9', [('white_noise', 2.1347)], 130.83),
    ('5', [('white_noise', 3.9424)], 132.43), ('5', [('gaussian_blur', 1.5979)], 133.43),
    ('6', [('white_noise', 3.5603)], 131.89), ('5', [('haze', 4.6203), ('white_noise', 0.8548)], 191.24),
    ('7', [('haze', 1.1195), ('jitter', 3.1738)], 145.84), ('4', [('gaussian_blur', 3.1743)], 126.07),
    ('3', [('gaussian_blur', 2.4906), ('haze', 2.3914)], 160.73), ('4', [('gaussian_blur', 0.6111)], 132.46),
    ('2', [('haze', 3.9996)], 186.22)]


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


def test_groups_stand_for_their_types(folder):
    assert dataset(folder).types == dataset(folder, only='version_0.1').types == list(DEFAULT_TYPES)
    assert dataset(folder, only='all').types == list(DISTORTIONS)
    assert dataset(folder, only=['upscaling', 'blur', 'resample']).types == [*FAMILIES['upscaling'], *FAMILIES['blur']]
    assert dataset(folder, only='all', hold_out=['version_0.1', 'upscaling', 'misfocus']).types == [
        name for name in DISTORTIONS if name not in (*DEFAULT_TYPES, *FAMILIES['upscaling'], 'misfocus')]
    assert len(DEFAULT_TYPES) == 38 and not set(GROUPS) & set(DISTORTIONS)
    with pytest.raises(OptionError, match=r'hold_out: "upscalin" is not .* nor one of the groups .*Did you mean "upscaling"'):
        dataset(folder, hold_out=['upscalin'])


def test_a_type_whose_codec_is_missing_is_an_error(folder, monkeypatch):
    monkeypatch.setattr('pyiqa_rali.data.distortions.features.check', lambda codec: codec != 'avif')
    with pytest.raises(OptionError, match='only: avif_lowres needs the encoder avif, which this installation of Pillow lacks'):
        dataset(folder, only='all')
    assert 'avif_lowres' not in dataset(folder, only='all', hold_out=['avif_lowres']).types
    with pytest.raises(OptionError, match='distortion: avif_lowres needs the encoder avif'):
        distort(photograph(), 'avif_lowres', 3, np.random.default_rng(0))


def test_several_folders_of_photographs(folder, tmp_path):
    other = tmp_path / 'large'
    other.mkdir()
    for index in range(4):
        Image.fromarray(photograph(300, 500, index)).save(other / f'{index}.png')
    both = [dataset(folder, dataroot_photos=[str(folder), str(other)], phase=phase, split_ratios=[0.5, 0.25, 0.25])
            for phase in ('train', 'val', 'test')]
    ids = [item.photograph_id for each in both for item in each.photographs]
    assert len(ids) == len(set(ids)) == 14 and 'large/0' in ids and f'{folder.name}/0' in ids
    ratios = {'split_ratios': [1, 0, 0]}
    small = dataset(folder, dataroot_photos=[str(other)], longest_side=100, **ratios)
    assert small._picture(0).shape == (64, 107, 3), 'the crop still fits'
    assert dataset(folder, dataroot_photos=str(other), longest_side=200, **ratios)._picture(0).shape == (120, 200, 3)
    assert torch.equal(small[3]['img'], small[3]['img'])


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
    order = ['camera_shake', 'underexposed', 'demosaic', 'white_noise', 'denoise_blotchy', 'upscale_soft', 'avif_lowres']
    assert by_camera_order(order[::-1]) == order and by_camera_order(DISTORTIONS)


def test_pyiqa_builds_it_by_name(folder):
    values = {'name': 'synthetic', 'type': 'SyntheticNRDataset', 'dataroot_photos': str(folder), 'crop_size': 64,
              'samples_per_epoch': 4, 'mos_range': [1, 5], 'lower_better': False, 'num_worker_per_gpu': 2}
    table = build_table('train', values, 0)
    assert len(table) == 4 and table.draws_anew
    assert 0 <= table[0]['mos_label'].item() <= 1


def test_draws_of_version_0_1_stay_the_same(folder):
    """Photograph, distortions and mean value, as the code of 0.1 drew them."""
    drawn = dataset(folder, only=['gaussian_blur', 'white_noise', 'haze', 'jitter'], composite_probability=0.5)
    found = [(draw.photograph, [(name, round(level, 4)) for name, level in draw.distortions], draw.distorted.mean().round(2))
             for draw in map(drawn.draw, range(12))]
    assert found == DRAWS_OF_0_1


def test_siblings_are_one_crop_at_different_levels(folder):
    drawn = dataset(folder, siblings=4, composite_probability=0.5, pristine_probability=0, composite_counts=[2, 3])
    items = drawn.__getitems__(list(range(80)))
    orders = set()
    for first in range(0, 80, 4):
        draws = [drawn.draw(index) for index in range(first, first + 4)]
        assert all(np.array_equal(draw.reference, draws[0].reference) for draw in draws)
        assert {item['group'] for item in items[first:first + 4]} == {first // 4}
        types = [{name for name, _ in draw.distortions} for draw in draws]
        longest = max(types, key=len)
        assert all(each <= longest for each in types), 'the same types, less what a low level does not change'
        levels = [dict(draw.distortions) for draw in draws]
        order = sorted(range(4), key=lambda member: max(levels[member].values(), default=0))
        for milder, stronger in pairwise(order):
            assert all(levels[milder].get(name, 0) < level for name, level in levels[stronger].items())
        orders.add(tuple(order))
        agreed = torch.stack([items[first + member]['agreement'][-1] for member in order])
        assert (agreed.diff() < 0).all(), 'a higher level is a higher severity'
    assert len(orders) > 5, 'members come in random order'
    counts = {len(draw.distortions) for draw in map(drawn.draw, range(80))}
    assert {1, 2, 3} <= counts


def test_siblings_share_the_places_of_their_distortions(folder):
    drawn = dataset(folder, siblings=3, only=['white_noise'], composite_probability=0, pristine_probability=0)
    first, second = (drawn.draw(index) for index in (0, 1))
    noise = [(draw.distorted.astype(float) - draw.reference)[draw.reference.min(-1) > 90].ravel() for draw in (first, second)]
    assert np.corrcoef(*noise)[0, 1] > 0.9
    assert torch.equal(drawn[1]['img'], dataset(folder, siblings=3, only=['white_noise'], composite_probability=0,
                                                pristine_probability=0).__getitems__([4, 1])[1]['img'])


def test_the_shares_of_siblings_are_those_of_the_options(folder):
    drawn = dataset(folder, siblings=4, pristine_probability=0.1, composite_probability=0.3)
    counts = [len(drawn.draw(index).distortions) for index in range(1600)]
    assert counts.count(0) / 1600 == pytest.approx(0.1, abs=0.03) and counts.count(2) / 1600 == pytest.approx(0.3, abs=0.06)
    every = dataset(folder, siblings=4, pristine_probability=1, composite_probability=0)
    assert not any(every.draw(index).distortions for index in range(8))


def test_composites_of_three_and_more_come_in_camera_order(folder):
    drawn = dataset(folder, composite_probability=1, pristine_probability=0, composite_counts=[3, 4],
                    composite_level_range=[1, 2])
    names = [[name for name, _ in drawn.draw(index).distortions] for index in range(30)]
    assert {len(each) for each in names} >= {3, 4} and all(each == by_camera_order(each) for each in names)
    assert all(1 <= level <= 2 for index in range(30) for _, level in drawn.draw(index).distortions)
    assert len(drawn[0]['distortion'].split('+')) == len(names[0]) == len(texts_of_item(drawn[0])[0].distortions)


def test_the_label_is_the_mean_of_its_opinions(folder):
    items = dataset(folder, metrics=['fsim', 'gmsd', 'nlpd']).__getitems__(list(range(12)))
    for item in items:
        assert item['agreement'].shape == (4,) and item['agreement'].dtype == torch.float32
        *ranks, by_level = item['agreement'].tolist()
        assert item['mos_label'].item() == pytest.approx(1 + 4 * (np.mean(ranks) + by_level) / 2, abs=1e-5)
        assert min(ranks) >= 0 and max(ranks) <= 1
    pristine = dataset(folder, pristine_probability=1, composite_probability=0)[0]
    assert pristine['agreement'].min() > 0.95 and pristine['agreement'][-1] == 1, 'FSIM of equal pictures is a little below 1'


@pytest.mark.parametrize('options, message', [
    ({'siblings': 2, 'levels': [1, 3]}, 'siblings: 2 has no effect beside levels'), ({'siblings': 0}, 'siblings: 0 must be at'),
    ({'composite_counts': [1]}, 'composite_counts: element 1: 1 must be at least 2'),
    ({'composite_counts': []}, 'composite_counts: must hold at least one'),
    ({'composite_level_range': [3, 2]}, r'composite_level_range: \[3.0, 2.0\] must have the lower number first'),
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
