import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.preprocessing import Preprocess, Preprocessing, fit_to_encoder, resized_shape

SIZES = [(384, 512), (513, 385), (97, 61), (16, 16), (224, 224), (31, 640)]


def picture(height, width, seed=0):
    """A picture with smooth areas, hard edges and noise, 8 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 255
    smooth[(x // 7 + y // 5) % 3 == 0] = 255 - smooth[(x // 7 + y // 5) % 3 == 0]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def to_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.mark.parametrize('resize_mode', ['shortest', 'longest', 'squash'])
@pytest.mark.parametrize('size', SIZES)
def test_open_clip_transform_is_met_within_one_level(resize_mode, size):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    image = picture(*size)
    shown = Image.fromarray(image)
    if resize_mode == 'squash' and size[0] > 96 > size[1]:  # height first, as Pillow does from 13 on, by whichever is installed
        shown = shown.resize((size[1], 96), Image.Resampling.BICUBIC)
    reference = image_transform_v2(PreprocessCfg(size=96, resize_mode=resize_mode), is_train=False)(shown)
    ours = Preprocess(Preprocessing(image_size=96, resize_mode=resize_mode))(to_tensor(image))[0]
    levels = (ours - reference).abs() * torch.tensor(Preprocessing.std).view(3, 1, 1) * 255
    assert ours.shape == reference.shape
    assert levels.max() <= 1.001


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', SIZES)
def test_timm_transform_is_met_within_one_level(interpolation, size):
    from timm.data import create_transform
    image = picture(*size)
    reference = create_transform((3, 112, 112), interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.875)
    ours = fit_to_encoder(to_tensor(image), Preprocessing(112, 128, interpolation=interpolation))[0]
    assert ((ours - reference(Image.fromarray(image))).abs() * 255).max() <= 1.001


@pytest.mark.parametrize(('height', 'width', 'mode', 'target', 'expected'), [
    (384, 513, 'shortest', 336, (336, 448)),
    (513, 384, 'shortest', 336, (448, 336)),
    (100, 300, 'squash', 224, (224, 224)),
    (100, 300, 'longest', 224, (75, 224)),
    (100, 300, 'native', None, (100, 300)),
    (100, 300, 'native', 400, (100, 300)),
    (100, 300, 'native', 150, (50, 150)),
    (16, 4000, 'native', 1000, (16, 1000)),
])
def test_resized_shape(height, width, mode, target, expected):
    assert resized_shape(height, width, target, mode) == expected


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-6), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_float_types_agree(dtype, tolerance):
    preprocess = Preprocess(Preprocessing(image_size=64))
    images = to_tensor(picture(80, 100))
    assert (preprocess(images.to(dtype)) - preprocess(images)).abs().max() < tolerance


def test_gray_equals_repeated_gray():
    preprocess = Preprocess(Preprocessing(image_size=64))
    gray = to_tensor(picture(80, 100))[:, :1]
    assert torch.equal(preprocess(gray), preprocess(gray.repeat(1, 3, 1, 1)))


def test_gradients_reach_every_pixel_of_a_native_picture():
    images = to_tensor(picture(40, 50)).requires_grad_()
    Preprocess(Preprocessing(image_size=None, resize_mode='native'))(images).sum().backward()
    assert (images.grad != 0).all()


def test_gradients_pass_resizing_and_rounding():
    images = to_tensor(picture(120, 120)).clamp(0.2, 0.8).requires_grad_()
    Preprocess(Preprocessing(image_size=60))(images).square().sum().backward()
    assert (images.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize(('shape', 'message'), [
    ((1, 3, 15, 40), '40 x 15 pixels; the shorter edge must have at least 16'),
    ((1, 3, 1, 1), '1 x 1 pixels'),
    ((3, 64, 64), r'shape \(3, 64, 64\)'),
    ((1, 4, 64, 64), r'shape \(1, 4, 64, 64\)'),
])
def test_unusable_pictures_are_refused(shape, message):
    with pytest.raises(OptionError, match=message):
        Preprocess(Preprocessing(image_size=64))(torch.rand(shape))


@pytest.mark.parametrize(('values', 'message'), [
    ({'image_size': 64, 'resize_mode': 'shortes'}, 'Did you mean "shortest"'),
    ({'image_size': 64, 'interpolation': 'nearest'}, 'interpolation: "nearest" is not one of'),
    ({'image_size': 64, 'resize_mode': 'native'}, 'image_size: 64 cannot be combined with resize_mode: native'),
    ({'image_size': None}, 'image_size: None cannot be combined with resize_mode: shortest'),
])
def test_options_are_checked(values, message):
    with pytest.raises(OptionError, match=message):
        Preprocessing(**values)
