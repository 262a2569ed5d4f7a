import pytest
import torch
import torch.nn.functional as F

from pyiqa_rali.model import products
from pyiqa_rali.model.products import Linear, linear


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(48, 80)


@pytest.mark.parametrize('shape', [(1, 48), (3, 7, 48), (2, 577, 48)])
def test_products_equal_those_of_torch(layer, shape):
    values = torch.randn(shape)
    with torch.inference_mode():
        found = layer(values)
        expected = F.linear(values, layer.weight, layer.bias)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


def test_products_of_parts_of_larger_tensors(layer):
    values = torch.randn(2, 9, 48)[:, :1]  # as in a tower's last block
    with torch.no_grad():
        assert torch.allclose(layer(values), F.linear(values, layer.weight, layer.bias), atol=1e-5)


def test_gradients_pass(layer):
    values = torch.randn(2, 48, requires_grad=True)
    layer(values).square().sum().backward()
    assert values.grad.abs().sum() > 0 and layer.weight.grad.abs().sum() > 0


def test_half_precision_is_left_to_torch(layer):
    values, layer = torch.randn(2, 48).bfloat16(), layer.bfloat16()
    with torch.no_grad():
        assert torch.equal(layer(values), F.linear(values, layer.weight, layer.bias))


def test_a_build_without_the_product_takes_torchs_own(layer, monkeypatch):
    monkeypatch.setattr(products, 'onednn_multiplies', lambda: False)
    values = torch.randn(2, 48)
    with torch.no_grad():
        assert torch.equal(linear(values, layer.weight, layer.bias), F.linear(values, layer.weight, layer.bias))


def test_exported_graphs_hold_torchs_own(layer):
    with torch.no_grad():
        graph = str(torch.export.export(layer.eval(), (torch.randn(2, 48),)).graph)
    assert 'linear' in graph and 'mkldnn' not in graph


def test_this_build_has_the_product():
    assert products.onednn_multiplies()  # on x86; a build that loses it would be slower without a word
