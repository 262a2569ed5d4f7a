"""Scores of the released layout against the release's own path, on photographs and distorted ones of many sizes.

The reference is written from the method's formulas: 8-bit picture, CLIP's processor on Pillow (the one of transformers 4,
with which the release was made), CLIPModel, standardise, project, cosine, softmax, mean. Nothing of it is this package's.
"""

import io

import joblib
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.model.rali import RALI
from tests.tiny import tiny_released_folder

SIZES = [(97, 131), (512, 384), (301, 700), (33, 64), (640, 90), (48, 47), (250, 251), (32, 32), (1200, 500)]


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    return tiny_released_folder(tmp_path_factory.mktemp('released'))


def pictures():
    """Yield photographs: as they are, cropped, resized to odd shapes, and blurred, noisy or compressed."""
    rng = np.random.default_rng(0)
    for number, photograph in enumerate(bundled_photographs()):
        with Image.open(photograph.path) as file:
            image = file.convert('RGB')
        yield image
        width, height = image.size
        left, top = rng.integers(0, width // 2), rng.integers(0, height // 2)
        yield image.crop((left, top, left + rng.integers(40, width // 2), top + rng.integers(40, height // 2)))
        yield image.resize(SIZES[number % len(SIZES)], Image.Resampling.LANCZOS)
        yield distorted(image.resize(SIZES[(number + 4) % len(SIZES)]), number, rng)


def distorted(image, number, rng):
    if number % 3 == 0:
        return image.filter(ImageFilter.GaussianBlur(2))
    if number % 3 == 1:
        noisy = np.asarray(image) + rng.normal(0, 30, (*image.size[::-1], 3))
        return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=10)
    return Image.open(stream).convert('RGB')


class Release:
    """The release's path, with every file read by the library that wrote it."""

    def __init__(self, folder):
        from transformers import CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        self.clip = CLIPModel.from_pretrained(folder / 'best').eval()
        self.processor = CLIPImageProcessorPil.from_pretrained(folder / 'best')
        self.state = torch.load(folder / 'ckpt.pt', weights_only=True)['state_dict']
        self.mean = torch.from_numpy(joblib.load(folder / 'pca.pkl').mean_).float()

    @torch.no_grad()
    def __call__(self, image):
        pixels = self.processor(images=image, return_tensors='pt')['pixel_values']
        features = self.clip.get_image_features(pixel_values=pixels)
        features = getattr(features, 'pooler_output', features)
        z = (features - self.mean) / self.state['scorer.pca_scale'].abs() @ self.state['scorer.pca_components'].T
        vectors = self.state['scorer.prototypes']
        cosine = z / z.norm(dim=-1, keepdim=True) @ (vectors / vectors.norm(dim=-1, keepdim=True)).T
        weights = torch.softmax(cosine * self.state['scorer.logit_scale'].clamp(min=1e-6), -1)
        return (weights @ self.state['scorer.proto_scores']).item()


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.mark.parametrize(('exact', 'allowed'), [(False, 5e-3), (True, 1e-4)])
def test_scores_on_photographs_are_those_of_the_release(released, exact, allowed):
    net, reference = RALI(pretrained_model_path=released, exact=exact), Release(released)
    images = list(pictures())
    assert len(images) > 60
    with torch.no_grad():
        found = np.array([net(as_tensor(image)).item() for image in images])
    expected = np.array([reference(image) for image in images])
    low, high = net.metadata['mos_range']
    assert np.ptp(expected) > 0.2 * (high - low)  # the pictures are told apart
    assert np.abs(found - expected).max() / (high - low) < allowed


def test_exact_pictures_are_the_processors(released):
    net, reference = RALI(pretrained_model_path=released, exact=True), Release(released)
    for image in list(pictures())[::3]:
        expected = reference.processor(images=image, return_tensors='pt')['pixel_values']
        found = net.image_encoder.preprocess(as_tensor(image))
        assert (found - expected).abs().max() < 1e-5


def test_exact_has_no_gradient_and_says_so(released):
    net = RALI(pretrained_model_path=released, exact=True)
    with pytest.raises(OptionError, match='exact: True has no gradient to the pixels'):
        net(torch.rand(1, 3, 40, 40, requires_grad=True))
    assert net(torch.rand(2, 1, 40, 40)).shape == (2, 1)  # gray


def test_the_activation_is_the_configurations(tmp_path):
    folder = tiny_released_folder(tmp_path, seed=1, activation='gelu')
    net, reference = RALI(pretrained_model_path=folder, exact=True), Release(folder)
    for image in list(pictures())[:8]:
        with torch.no_grad():
            assert net(as_tensor(image)).item() == pytest.approx(reference(image), abs=1e-4)
