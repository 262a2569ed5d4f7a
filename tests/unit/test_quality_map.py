import numpy as np
import pytest
import torch
from torch import nn

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.image_files import read_rgb
from pyiqa_rali.data.photographs import bundled_photographs
from pyiqa_rali.data.synthetic.dataset import as_tensor
from pyiqa_rali.model.image_encoder import ImageEncoder, ImageEncoderConfig, build_image_encoder
from pyiqa_rali.model.positions import local_statistics, position_features, position_rows, region_of
from pyiqa_rali.model.preprocessing import Preprocessing
from pyiqa_rali.model.quality_map import QualityMap
from pyiqa_rali.model.rali import RALI
from tests.unit.test_rali import TIMM, open_clip_encoder, random_rali

CONVOLUTIONS = {'library': 'timm', 'name': 'test_efficientnet', 'embed_dim': 12,
                'preprocessing': {'image_size': None, 'resize_mode': 'native'}}
TRANSFORMER = {'library': 'timm', 'name': 'test_vit', 'embed_dim': 12, 'preprocessing': {'image_size': 160}}


def encoder_of(values):
    torch.manual_seed(0)
    return build_image_encoder(ImageEncoderConfig.from_dict(values)).eval()


@pytest.fixture(params=['statistics', 'convolutions', 'transformer', 'clip'])
def net(request, tmp_path):
    return random_rali({'statistics': lambda: TIMM, 'convolutions': lambda: CONVOLUTIONS, 'transformer': lambda: TRANSFORMER,
                        'clip': lambda: open_clip_encoder(tmp_path)}[request.param]()).eval()


def test_a_map_has_a_score_for_each_position(net):
    found = net.quality_map(torch.rand(2, 3, 160, 96))
    config = net.image_encoder.config
    sizes = {('test_efficientnet', 'mean_std'): (10, 6), ('test_efficientnet', 'head'): (5, 3), ('test_vit', 'head'): (10, 10),
             ('tiny-softmax', 'head'): (4, 4)}
    assert found.shape == (2, *sizes[config.name, config.pooling]) and found.dtype == torch.float32
    assert ((found >= 1) & (found <= 5)).all() and not found.requires_grad


def test_without_a_share_every_position_has_the_score_of_its_picture(net):
    images = torch.rand(2, 3, 128, 160)
    found, scores = net.quality_map(images, share=0), net(images).detach()
    assert torch.allclose(found, scores[..., None].expand_as(found), atol=1e-4)
    assert net.quality_map(images).std() > 1e-5


def test_a_map_does_not_depend_on_its_batch(net):
    images = torch.rand(3, 3, 96, 96)
    together = net.quality_map(images)
    alone = torch.cat([net.quality_map(image.unsqueeze(0)) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)


def test_positions_in_the_mean_have_the_features_of_the_picture(tmp_path):
    for values in (CONVOLUTIONS, TRANSFORMER, open_clip_encoder(tmp_path)):
        encoder = encoder_of(values)
        prepared = encoder.preprocess(torch.rand(2, 3, 64, 96))
        with torch.no_grad():
            whole, differences = position_rows(encoder.backbone, prepared)
            assert torch.allclose(whole, encoder.backbone_rows(prepared), atol=1e-4)
        assert differences.mean(dim=(1, 2)).abs().max() < 1e-4 < differences.std()


def test_statistics_of_a_window_are_those_of_a_picture_cut_out_of_the_maps():
    torch.manual_seed(0)
    maps = torch.randn(1, 3, 24, 24) + 5
    whole, found = (each[0] for each in local_statistics([maps], (48, 48), cell=16, window=1))  # cells of 8 positions
    variances = maps[0].unflatten(1, (3, 8)).unflatten(3, (3, 8)).var(dim=(2, 4), correction=0)
    scale = maps.var(dim=(2, 3), correction=0)[0, :, None, None] / variances.mean(dim=(1, 2), keepdim=True)
    assert torch.allclose(found[1, 2, :3], maps[0, :, 8:16, 16:].mean(dim=(1, 2)), atol=1e-5)
    assert torch.allclose(found[..., 3:], (variances * scale + 1e-6).sqrt().permute(1, 2, 0), atol=1e-4)
    assert torch.allclose(whole, torch.cat([maps.mean(dim=(2, 3)), maps.std(dim=(2, 3), correction=0)], dim=1)[0], atol=1e-4)
    assert torch.allclose(found[..., :3].mean(dim=(0, 1)), whole[:3], atol=1e-5)
    assert torch.allclose((found[..., 3:] ** 2).mean(dim=(0, 1)), whole[3:] ** 2, atol=1e-3)


def test_constant_pictures_have_a_constant_map():
    net = random_rali()
    found = net.quality_map(torch.full((1, 3, 64, 64), 0.5))
    assert found.isfinite().all()


def test_the_two_halves_of_a_picture_differ_on_their_sides():
    net = RALI('rali-lite')
    photograph = next(item for item in bundled_photographs() if item.photograph_id == 'coffee')
    sharp = np.ascontiguousarray(read_rgb(photograph.path)[:256, :320])
    blurred = distort(sharp, 'gaussian_blur', 5, np.random.default_rng(0))
    picture = np.concatenate([sharp[:, :160], blurred[:, 160:]], axis=1)
    found = net.quality_map(as_tensor([picture]))[0]
    assert found.shape == (16, 20)
    assert found[:, :7].mean() > found[:, -7:].mean() + 0.1
    mirrored = net.quality_map(as_tensor([np.ascontiguousarray(picture[:, ::-1])]))[0]
    assert mirrored[:, -7:].mean() > mirrored[:, :7].mean() + 0.1


def test_the_mean_of_a_map_is_near_the_score_of_a_picture_that_is_the_same_everywhere():
    net = RALI('rali-lite')
    torch.manual_seed(0)
    tile = torch.rand(1, 3, 32, 32)
    picture = tile.repeat(1, 1, 10, 12)
    assert abs(float(net.quality_map(picture).mean() - net(picture))) < 0.15


def test_folded_batch_norms_give_the_same_map():
    folded, plain = RALI('rali-lite'), RALI('rali-lite', trainable=True).eval()
    images = torch.rand(1, 3, 64, 96)
    assert folded.image_encoder.is_folded and not plain.image_encoder.is_folded
    assert torch.allclose(folded.quality_map(images), plain.quality_map(images), atol=1e-3)


def test_regions_are_what_the_encoder_sees():
    native = Preprocessing(image_size=None, resize_mode='native', resize_size=100)
    assert region_of(native, 300, 200) == (0, 0, 300, 200)
    assert region_of(Preprocessing(image_size=32, resize_mode='squash'), 300, 200) == (0, 0, 300, 200)
    assert region_of(Preprocessing(image_size=100, resize_size=200), 200, 400) == (50, 150, 150, 250)
    assert random_rali().map_region(30, 40) == (0, 0, 30, 40)


@pytest.mark.parametrize('share', [-0.1, 1.1])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(OptionError, match=f'share: {share} must be in'):
        random_rali().quality_map(torch.rand(1, 3, 32, 32), share)


def test_encoders_without_positions_are_refused():
    config = ImageEncoderConfig.from_dict(TIMM)
    encoder = ImageEncoder(config, nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), nn.Identity())
    with pytest.raises(OptionError, match='Sequential has no map of quality'):
        position_features(encoder, torch.rand(1, 3, 1, 1))


def test_parts_of_a_map_are_means_of_its_ninths():
    found = QualityMap([[float(row * 6 + column) for column in range(6)] for row in range(6)], (0, 0, 60, 60))
    assert found.parts() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5], [27.5, 29.5, 31.5]]
    assert QualityMap([[1.0, 2.0]], (0, 0, 9, 9)).parts() == [[1.0, 2.0]]
    assert QualityMap([[1.0]], (0, 0, 9, 9)).to_dict() == {'values': [[1.0]], 'region': (0, 0, 9, 9)}
