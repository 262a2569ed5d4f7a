import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.rali.losses import ContrastiveLoss
from pyiqa_rali.training.rali.options import AlignOptions, PathOptions, TextEncoderOptions
from pyiqa_rali.training.rali.parameter_groups import layer_names, layer_of, trainable_groups
from pyiqa_rali.training.rali.towers import build_towers
from tests.tiny import tiny_open_clip_config


@pytest.fixture
def towers(tmp_path):
    name = tiny_open_clip_config(tmp_path)
    return build_towers({'image_encoder': {'library': 'open_clip', 'name': name}}, TextEncoderOptions(), PathOptions())


def groups_of(towers, **options):
    return trainable_groups(towers, ContrastiveLoss(), AlignOptions(total_iter=1, lr=1.0, **options))


@pytest.mark.parametrize(('name', 'layer'), [
    ('conv1.weight', 'stem'), ('class_embedding', 'stem'), ('ln_pre.weight', 'stem'),
    ('transformer.resblocks.11.mlp.c_fc.weight', 'transformer.resblocks.11'), ('ln_post.bias', 'head'), ('proj', 'head'),
    ('trunk.blocks.3.attn.qkv.weight', 'trunk.blocks.3'), ('trunk.attn_pool.q.weight', 'head'),
    ('features.blocks.2.1.conv_pw.weight', 'features.blocks.2.1'), ('features.conv_stem.weight', 'stem')])
def test_layer_of(name, layer):
    assert layer_of(name) == layer


def test_layers_are_in_order(towers):
    assert layer_names(towers.image_encoder.backbone) == ['stem', 'transformer.resblocks.0', 'transformer.resblocks.1', 'head']


def test_rates_fall_towards_the_first_layer(towers):
    rates = {round(group['lr'], 6) for group in groups_of(towers, layer_decay=0.5, lr_projection=3.0)}
    assert rates == {0.125, 0.25, 0.5, 1.0, 3.0}


@pytest.mark.parametrize(('freeze', 'frozen'), [(0, []), (1, ['conv1.weight']), (-1, ['conv1.weight', 'proj'])])
def test_frozen_layers_are_not_trained(towers, freeze, frozen):
    groups_of(towers, freeze_layers=freeze)
    parameters = dict(towers.image_encoder.backbone.named_parameters())
    for name in ('conv1.weight', 'proj'):
        assert parameters[name].requires_grad == (name not in frozen)


def test_every_trained_weight_is_in_one_group_and_vectors_are_not_decayed(towers):
    groups = groups_of(towers, weight_decay=0.1)
    members = [id(parameter) for group in groups for parameter in group['params']]
    assert len(members) == len(set(members))
    assert all((group['weight_decay'] == 0) == (parameter.dim() < 2) for group in groups for parameter in group['params'])
    assert not any(parameter.requires_grad for parameter in towers.text_encoder.parameters())


def test_too_many_frozen_layers_are_refused(towers):
    with pytest.raises(OptionError, match=r'freeze_layers: 5 must be -1 \(all\) or 0 to 4'):
        groups_of(towers, freeze_layers=5)
