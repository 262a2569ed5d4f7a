"""Float pictures that are not in [0, 1] have no score; resampled ones, a little outside, have."""

import warnings

import numpy as np
import pyiqa
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import pyiqa_rali
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.image_files import UnreadableImage
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.model.value_range import TOLERANCE, RangeError, check_on_cpu, check_range, range_settled
from pyiqa_rali.vlm.scorer import to_pil

METHODS = ('explain', 'aspects', 'quality_map', 'score_windows', 'score_with_interval')
ADVICE = r'must be in \[0, 1\], resampled ones up to 0.45 outside. Of values from 0 to 255, give images / 255.*clamp\(0, 1\)'


@pytest.fixture(scope='module')
def metric():
    return pyiqa.create_metric('rali-lite', device='cpu')


def pictures(count=2, size=(40, 48)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def test_scores_and_all_methods_name_the_picture_its_values_and_what_to_do(metric):
    images = torch.cat([pictures(1), pictures(1) * 255])
    for call in (metric, metric.net, *(getattr(metric.net, name) for name in METHODS)):
        with pytest.raises(RangeError, match=rf'images\[1\] has values from 0\.\d+ to 25\d.\d+; they {ADVICE}'):
            call(images)
    for wrong in (pictures() * 2 - 1, (pictures() - 0.45) / 0.22, (pictures() * 255).half()):
        with pytest.raises(RangeError, match=ADVICE):
            metric(wrong)


def test_it_is_the_error_of_pyiqa_and_of_this_package(metric):
    for kind in (AssertionError, OptionError):
        with pytest.raises(kind, match=r'Input must be normalized to \[0, 1\], but images\[0\]'):
            metric(pictures() * 255)


def test_pictures_given_to_functions_are_named_by_their_place(metric):
    for call in (lambda images: pyiqa_rali.score(images, metric), lambda images: pyiqa_rali.explain(images, device='cpu')):
        with pytest.raises(OptionError, match=rf'images\[1\]: the tensor has values from 0\.\d+ to 25\d.\d+; they {ADVICE}'):
            call([pictures()[0], pictures()[0] * 255])
        with pytest.raises(OptionError, match=r'images\[0\]: the tensor has values from nan to nan, not all finite'):
            call(pictures() * torch.nan)


def test_no_picture_in_range_is_refused_and_no_bicubic_one(metric):
    generator = torch.Generator().manual_seed(1)
    worst = torch.tensor([0.0, 1, 1, 0]).outer(torch.tensor([0.0, 1, 1, 0])).expand(1, 3, 4, 4)
    for images in (torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8, dtype=torch.bfloat16), worst,
                   torch.randint(0, 2, (8, 3, 60, 60), generator=generator).float()):
        for mode in ('bicubic', 'bilinear'):
            for scale in (0.7, 2, 3, 2.3, 5):
                check_range(F.interpolate(images.float(), scale_factor=scale, mode=mode))
        check_range(images, finite=True)
    resampled = F.interpolate(pictures(), scale_factor=2, mode='bicubic')
    assert resampled.min() < -0.05 and resampled.max() > 1.05
    together = metric(resampled).flatten().tolist()
    assert pyiqa_rali.score(resampled, metric).scores == pytest.approx(together, abs=1e-5)


def test_the_tolerance_is_what_bicubic_resampling_reaches_at_most():
    weights = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
    highest = np.clip(np.outer(weights, weights), 0, None).sum()
    assert highest - 1 < TOLERANCE < highest - 0.99


def test_what_is_not_finite_keeps_its_own_handling(metric):
    images = pictures(3)
    images[1, 0, 3, 3] = torch.nan
    images[2, 0, 3, 3] = torch.inf
    assert metric.net(images).isfinite().flatten().tolist() == [True, False, False]
    with pytest.raises(RangeError, match=r'images\[1\] has values from nan to nan, not all finite. Replace those'):
        metric(images)
    images[0] *= 255  # is told although its neighbours are not finite
    with pytest.raises(RangeError, match=r'images\[0\] has values from'):
        metric.net(images)


def test_whole_numbers_have_a_white_of_their_own(metric):
    levels = (pictures() * 255).round()
    assert torch.equal(metric(levels.to(torch.uint8)), metric(levels / 255))
    check_range(levels.to(torch.int64), finite=True)
    check_range(pictures()[:0] * 255, finite=True)


def test_a_loss_warns_once_and_a_check_that_is_off_says_nothing():
    loss = pyiqa.create_metric('rali-lite', device='cpu', as_loss=True)
    with pytest.warns(UserWarning, match=r'as_loss: .* has values from .*hardly a gradient'):
        loss(pictures() * 255)
    off = pyiqa.create_metric('rali-lite', device='cpu', check_input_range=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loss(pictures() * 255)
        off(pictures() * 255)
        metric_in_training = pyiqa.create_metric('rali-lite', device='cpu', as_loss=True)
        metric_in_training((pictures() * 1.2).requires_grad_()).backward()


def test_only_values_that_are_there_to_be_seen_are_looked_at(metric):
    images = pictures() * 255
    with range_settled():
        check_on_cpu(images)
    check_on_cpu(images.clone().requires_grad_())
    check_on_cpu(images.to('meta'))
    with pytest.raises(RangeError):
        check_on_cpu(images)


def test_a_reasoning_model_says_the_same():
    with pytest.raises(RangeError, match=ADVICE):
        to_pil(pictures() * 255)
    with pytest.raises(RangeError, match='not all finite'):
        to_pil(pictures() * torch.nan)
    assert np.asarray(to_pil(pictures() * 1.2 - 0.1)[0]).max() == 255


@pytest.mark.parametrize('name', ['gray.tiff', 'colour.tiff', 'picture.npy', 'picture.pfm', 'gray.pfm'])
@pytest.mark.parametrize('white', [1, 255])
def test_files_of_floats_are_refused_whatever_their_values(metric, tmp_path, name, white):
    values = (pictures(1, (24, 30))[0].permute(1, 2, 0) * white).numpy()
    path = tmp_path / name
    if name == 'gray.tiff':
        Image.fromarray(values[..., 0]).save(path)
    elif name == 'colour.tiff':
        import cv2
        cv2.imwrite(str(path), values)
    elif name == 'picture.npy':
        np.save(path, values)
    else:
        kind, stored = (b'PF', values) if name == 'picture.pfm' else (b'Pf', values[..., 0])
        path.write_bytes(kind + b'\n30 24\n-1.0\n' + stored.astype('<f4').tobytes())
    for picture in (path, path.read_bytes()):
        with pytest.raises(UnreadableImage, match='floating-point pixels have no known range|cannot identify image file'):
            metric(picture)


def test_a_float_tensor_is_explained_as_it_is_scored(metric):
    image = (pictures(1)[0] * 255).round() / 255
    levels = (image * 255).round().to(torch.uint8)
    floats, whole = pyiqa_rali.explain([image, levels], device='cpu')
    assert floats.explanation.score == pytest.approx(pyiqa_rali.score(image, metric).scores[0], abs=1e-5)
    assert floats.explanation.score == pytest.approx(whole.explanation.score, abs=1e-5)
    assert torch.equal(as_tensor([image.permute(1, 2, 0).numpy()])[0], image)
