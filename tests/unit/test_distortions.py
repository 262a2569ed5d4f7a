import numpy as np
import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import DEFAULT_TYPES, DISTORTIONS, FAMILIES, distort
from pyiqa_rali.data.distortions.camera import shake_kernel
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.data.synthetic.pseudo_mos import FullReferenceMetrics


def photograph(height=96, width=128, seed=0):
    """A picture with edges, texture, smooth areas and colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = 110 + 50 * np.sin(np.stack([x / 9, y / 11, (x + y) / 14], -1)) + (x > width / 2)[..., None] * 40
    image[height // 2:] += rng.normal(0, 12, (height - height // 2, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def difference(first, second):
    return np.abs(first.astype(float) - second.astype(float)).mean()


def test_there_are_enough_of_them():
    assert len(DISTORTIONS) >= 25 and len(FAMILIES) >= 7
    assert len({kind.phrase for kind in DISTORTIONS.values()}) == len(DISTORTIONS)


@pytest.fixture(scope='module')
def real():
    """A real photograph, large enough for the counts of patches and blocks to rise with every level."""
    path, = [item.path for item in bundled_photographs() if item.photograph_id == 'coffee']
    return np.ascontiguousarray(read_rgb(path)[:384, :512])


@pytest.mark.parametrize('name', DISTORTIONS)
def test_each_type(name, real):
    image = real.copy()
    levels = [distort(image, name, level, np.random.default_rng(5)) for level in (1, 2, 3, 4, 5)]
    again = distort(image, name, 3, np.random.default_rng(5))
    assert np.array_equal(image, real), 'the picture itself is left alone'
    assert np.array_equal(again, levels[2]), 'the same seed gives the same picture'
    assert all(found.shape == image.shape and found.dtype == np.uint8 for found in levels)
    changes = [difference(found, image) for found in levels]
    assert changes[0] > 0.05, 'even the lowest level changes something'
    assert all(np.diff(changes) > 0), f'a higher level changes more: {changes}'


NEW = [name for name in DISTORTIONS if name not in DEFAULT_TYPES]


@pytest.fixture(scope='module')
def crops():
    """Crops of real photographs of one size, and the metrics of labels."""
    names = ('astronaut', 'chelsea', 'coffee', 'rocket', 'motorcycle_left')
    pictures = [read_rgb(item.path) for item in bundled_photographs() if item.photograph_id in names]
    assert len(pictures) >= 4
    return [np.ascontiguousarray(picture[100:228, 120:248]) for picture in pictures], FullReferenceMetrics(('gmsd', 'fsim'))


@pytest.mark.parametrize('name', NEW)
def test_levels_of_the_new_types_are_steps_of_quality(name, crops):
    pictures, metrics = crops
    found = [metrics(as_tensor(pictures), as_tensor([distort(picture, name, level, np.random.default_rng(seed))
                                                     for seed, picture in enumerate(pictures)])) for level in (1, 2, 3, 4, 5)]
    assert (np.diff([values['gmsd'].mean() for values in found]) > 0).all()
    assert (np.diff([values['fsim'].mean() for values in found]) < 0).all()
    assert found[0]['fsim'].mean() > max(0.9, found[4]['fsim'].mean() + 0.05), 'from just noticeable to awful'


def test_demosaicing_keeps_the_colours():
    flat = np.full((40, 40, 3), (200, 90, 30), np.uint8)
    for seed in range(8):  # every place of the red pixel, both methods
        assert distort(flat, 'demosaic', 1, np.random.default_rng(seed)).mean((0, 1)) == pytest.approx([200, 90, 30], abs=2)


def test_a_shaken_camera_blurs_by_a_path_of_the_given_extent():
    for seed in range(5):
        kernel = shake_kernel(12, np.random.default_rng(seed))
        y, x = np.nonzero(kernel)
        assert kernel.sum() == pytest.approx(1) and kernel.shape == (15, 15) and kernel.min() >= 0
        assert 10 <= np.hypot(x - 7, y - 7).max() * 2 <= 12 + 2 * 2 ** 0.5
        assert len(x) < 100, 'a path, no disc'


def test_highlights_that_are_cut_off_are_white_and_dark_ones_noisy(real):
    bright = distort(real, 'blown_out', 5, np.random.default_rng(0))
    assert (bright == 255).all(-1).mean() > (real == 255).all(-1).mean() + 0.1
    dark = distort(np.full((64, 64, 3), 120, np.uint8), 'underexposed', 4, np.random.default_rng(0))
    assert dark.std() > 4


@pytest.mark.parametrize('name', DISTORTIONS)
@pytest.mark.parametrize('size', [(16, 16), (17, 40), (200, 33)])
def test_small_and_odd_sizes(name, size):
    for level in LEVEL_RANGE:
        assert distort(photograph(*size), name, level, np.random.default_rng(1)).shape == (*size, 3)


@pytest.mark.parametrize('name', DISTORTIONS)
def test_black_white_and_gray_pictures(name):
    for value in (0, 255):
        found = distort(np.full((32, 32, 3), value, np.uint8), name, 5.0, np.random.default_rng(1))
        assert found.shape == (32, 32, 3)
    gray = photograph()[..., :1].repeat(3, -1)
    assert distort(gray, name, 3.0, np.random.default_rng(1)).shape == gray.shape


def test_parameters_between_and_beyond_the_levels():
    kind = DISTORTIONS['gaussian_blur']
    assert [kind.parameter(level) for level in (1, 2, 3, 4, 5)] == pytest.approx(kind.levels)
    assert kind.parameter(2.5) == pytest.approx((kind.levels[1] * kind.levels[2]) ** 0.5)
    assert kind.parameter(0.5) < kind.levels[0] and kind.parameter(5.5) > kind.levels[4]


def test_unknown_names_and_levels():
    with pytest.raises(OptionError, match=r'distortion: "jpg" is not one of .*Did you mean "jpeg"'):
        distort(photograph(), 'jpg', 3, np.random.default_rng(0))
    with pytest.raises(OptionError, match=r'level: 9 must be in \[0.5, 5.5\]'):
        distort(photograph(), 'jpeg', 9, np.random.default_rng(0))
