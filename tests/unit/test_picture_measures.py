import numpy as np
import pytest

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.picture_measures import MEASURES, measure_picture
from pyiqa_rali.data.picture_measures.degrees import (
    ASPECTS,
    BOUNDS,
    FAULTS,
    aspects,
    degrees,
    fault_scores,
    quantiles_of,
    ranks,
    stored_quantiles,
)
from pyiqa_rali.data.picture_measures.people import FAULTS_OF_PEOPLE, TYPES_OF_PEOPLE, types_of


def scene(height=192, width=256, seed=0):
    """Return a picture with edges of every direction, flat parts and colours."""
    import cv2
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.uint8)
    for _ in range(60):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        color = tuple(int(value) for value in rng.integers(20, 236, 3))
        if rng.random() < 0.5:
            cv2.circle(picture, centre, int(rng.integers(6, 30)), color, -1, cv2.LINE_AA)
        else:
            box = cv2.boxPoints((centre, tuple(rng.integers(10, 60, 2).astype(float)), float(rng.integers(0, 180))))
            cv2.fillPoly(picture, [box.astype(np.int32)], color, cv2.LINE_AA)
    return picture


# distortion, the measure that tells it, and whether it rises with the level
TOLD = [('gaussian_blur', 'edge_spread', 1), ('lens_blur', 'edge_spread', 1), ('gaussian_blur', 'bandwidth', -1),
        ('motion_blur', 'directional_blur', 1), ('luma_noise', 'noise', 1), ('chroma_noise', 'chroma_noise', 1),
        ('darken', 'underexposure', 1), ('brighten', 'overexposure', 1), ('low_contrast', 'tone_deviation', -1),
        ('low_contrast', 'tone_range', -1), ('desaturate', 'saturation', -1), ('oversaturate', 'saturation', 1),
        ('color_cast', 'cast', 1), ('jpeg', 'blocking', 1), ('resample', 'bandwidth', -1)]


@pytest.mark.parametrize('distortion, name, sign', TOLD)
def test_a_measure_follows_the_level_of_its_fault(distortion, name, sign):
    levels = (1, 2, 3, 4) if distortion in ('jpeg', 'motion_blur') else (1, 2, 3, 4, 5)  # the last leaves nothing to measure
    measured = [measure_picture(distort(scene(), distortion, level, np.random.default_rng(0)))[name] for level in levels]
    assert (np.diff(measured) * sign > 0).all(), measured


@pytest.mark.parametrize('sigma', [1.0, 2.0, 3.0])
def test_the_spread_of_an_edge_is_that_of_its_blur(sigma):
    import cv2
    step = np.zeros((128, 128, 3), np.float32) + np.where(np.arange(128) < 64, 40, 200)[:, None].astype(np.float32)
    blurred = np.rint(cv2.GaussianBlur(step, (0, 0), sigma)).astype(np.uint8)
    assert measure_picture(blurred)['edge_spread'] == pytest.approx(sigma, rel=0.12)


@pytest.mark.parametrize('sigma', [2.0, 5.0, 10.0])
def test_noise_on_a_flat_picture_has_its_standard_deviation(sigma):
    noise = np.random.default_rng(0).normal(128, sigma, (256, 256, 1)).repeat(3, axis=2)
    assert measure_picture(np.rint(noise).astype(np.uint8))['noise'] == pytest.approx(sigma, rel=0.2)  # of the flattest blocks


def test_light_is_measured_in_stops():
    gray = np.full((32, 32, 3), 118, np.uint8)  # 18 per cent of white
    assert measure_picture(gray)['underexposure'] == pytest.approx(0, abs=0.03)
    assert measure_picture(np.full((32, 32, 3), 255, np.uint8))['overexposure'] == pytest.approx(np.log2(1 / 0.18))
    assert measure_picture(np.full((32, 32, 3), 255, np.uint8))['clipped_bright'] == 100


def test_enlarging_leaves_its_share_of_the_spectrum():
    import cv2
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    large = cv2.resize(noise, (512, 512), interpolation=cv2.INTER_LANCZOS4)
    assert measure_picture(large)['bandwidth'] == pytest.approx(1 / 4, abs=0.08)
    assert measure_picture(noise)['bandwidth'] > 0.9


def test_blocks_are_found_wherever_their_grid_starts():
    picture = distort(scene(), 'jpeg', 4, np.random.default_rng(0))
    whole, cut = (measure_picture(np.ascontiguousarray(each))['blocking'] for each in (picture, picture[3:, 5:]))
    assert cut == pytest.approx(whole, rel=0.1)
    assert measure_picture(scene())['blocking'] < whole / 3


def test_a_flat_picture_has_no_edges_to_measure():
    found = measure_picture(np.full((64, 64, 3), 90, np.uint8))
    assert list(found) == list(MEASURES)
    assert {name for name, value in found.items() if np.isnan(value)} == {'edge_spread', 'sharpest_spread', 'directional_blur',
                                                                          'bandwidth'}
    assert degrees(found)['out of focus'] is None


@pytest.mark.parametrize('shape', [(16, 16, 3), (17, 300, 3), (301, 33, 3)])
def test_pictures_of_any_shape_are_measured(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.isfinite(measure_picture(picture)['noise'])


@pytest.mark.parametrize('picture, message', [
    (np.zeros((15, 40, 3), np.uint8), '40x15 pixels is too small to measure; each side needs 16'),
    (np.zeros((40, 40), np.uint8), r'must be \(H, W, 3\) uint8 RGB; this one is \(40, 40\) uint8'),
    (np.zeros((40, 40, 3), np.float32), 'float32')])
def test_what_is_no_picture(picture, message):
    with pytest.raises(DataError, match=message):
        measure_picture(picture)


def test_stored_quantiles_belong_to_the_measures():
    stored = stored_quantiles()
    assert list(stored.measures) == list(MEASURES) and list(stored.faults) == list(FAULTS)
    assert all(len(each) == 101 and (np.diff(each) >= 0).all()
               for each in (*stored.measures.values(), *stored.faults.values()))


def every(value):
    """Return measures that are all worth this, as far as the faults that each of them tells go."""
    return dict.fromkeys(MEASURES, value)


def test_ranks_and_degrees_of_known_quantiles():
    quantiles = quantiles_of({name: np.arange(1001.0) for name in MEASURES})
    scores = fault_scores(every(900.0), quantiles)
    assert scores['noise'] == pytest.approx(0.9) and scores['upscaling'] == pytest.approx(0.1)
    assert scores['underexposure'] == pytest.approx(0.5)  # high light and much of it clipped: one measure for, one against
    assert ranks(every(900.0), quantiles)['noise'] == pytest.approx(0.9, abs=0.005)
    steps = [degrees(every(1000 * bound + shift), quantiles)['noise'] for bound in BOUNDS for shift in (-5, 5)]
    assert steps == [0, 1, 1, 2, 2, 3, 3, 4]
    assert ranks(every(5000.0), quantiles)['noise'] == 1
    assert degrees({**every(0.0), 'disorder': float('nan')}, quantiles)['noise'] is None


def test_an_aspect_is_as_bad_as_its_worst_fault():
    quantiles = quantiles_of({name: np.arange(1001.0) for name in MEASURES})
    found = aspects({**every(500.0), 'saturation': 950.0, 'blocking': 100.0}, quantiles)
    assert tuple(found) == ASPECTS
    assert found['colour'] == pytest.approx(0.05, abs=0.01) and found['compression'] == pytest.approx(0.9, abs=0.01)
    assert found['contrast'] == pytest.approx(0.5, abs=0.01)
    assert np.isnan(aspects({**every(500.0), 'bandwidth': float('nan')}, quantiles)['scaling'])


def test_a_value_that_many_photographs_have_is_in_their_middle():
    quantiles = quantiles_of({name: np.r_[np.zeros(600), np.arange(400.0)] for name in MEASURES})
    assert fault_scores(every(0.0), quantiles)['noise'] == pytest.approx(0.3, abs=0.01)


def test_what_people_say_is_told_by_faults_and_types_that_exist():
    from pyiqa_rali.data.distortions import DISTORTIONS
    assert set(FAULTS_OF_PEOPLE) == set(TYPES_OF_PEOPLE)
    assert {each for faults in FAULTS_OF_PEOPLE.values() for each in faults} <= set(FAULTS)
    assert {each for types in TYPES_OF_PEOPLE.values() for each in types} <= set(DISTORTIONS)
    assert all(fault.distortion in DISTORTIONS and {name for name, _ in fault.told_by} <= set(MEASURES)
               for fault in FAULTS.values())
    with pytest.raises(DataError, match='"out of focuss" is not a fault that people named'):
        types_of('out of focuss')
