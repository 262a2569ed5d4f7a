import copy

import pytest
import torch
from torch import nn

from pyiqa_rali.training.rali.losses import ContrastiveLoss, contrastive_backward


def towers():
    torch.manual_seed(0)
    image = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 8)).double()
    words = nn.Embedding(10, 8).double()
    return image, words, torch.rand(12, 3, 4, 4, dtype=torch.float64), [str(index % 10) for index in range(12)]


def gradients(kind, chunk_size):
    image, words, images, texts = towers()
    loss = ContrastiveLoss(kind, init_scale=5.0, init_bias=-2.0)
    value = contrastive_backward(loss, image, images, lambda part: words(torch.tensor([int(text) for text in part])), texts,
                                 chunk_size)
    return value, [parameter.grad for module in (image, words, loss) for parameter in module.parameters()]


def direct_gradients(kind):
    image, words, images, texts = towers()
    loss = ContrastiveLoss(kind, init_scale=5.0, init_bias=-2.0)
    value = loss(image(images), words(torch.tensor([int(text) for text in texts])))
    value.backward()
    return value.detach(), [parameter.grad for module in (image, words, loss) for parameter in module.parameters()]


@pytest.mark.parametrize('kind', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('chunk_size', [None, 1, 5, 12, 100])
def test_chunks_give_the_gradient_of_the_full_batch(kind, chunk_size):
    value, found = gradients(kind, chunk_size)
    expected_value, expected = direct_gradients(kind)
    assert value == pytest.approx(expected_value.item(), rel=1e-6)
    for ours, reference in zip(found, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-8)


def test_softmax_is_the_symmetric_cross_entropy():
    torch.manual_seed(1)
    image, text = torch.randn(6, 4), torch.randn(6, 4)
    logits = 3.0 * nn.functional.normalize(image) @ nn.functional.normalize(text).T
    labels = torch.arange(6)
    expected = (nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)) / 2
    assert ContrastiveLoss('softmax', init_scale=3.0)(image, text).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_scale_stays_below_its_limit():
    image = torch.randn(4, 4)
    limited = ContrastiveLoss('softmax', init_scale=50.0, max_scale=10.0)(image, image)
    assert limited.item() == pytest.approx(ContrastiveLoss('softmax', init_scale=10.0)(image, image).item(), rel=1e-5)


def test_frozen_texts_get_no_gradient():
    image, words, images, texts = towers()
    before = copy.deepcopy(words.state_dict())
    fixed = torch.randn(12, 8, dtype=torch.float64)
    contrastive_backward(ContrastiveLoss(), image, images, lambda part: fixed[:len(part)], texts)
    assert all(parameter.grad is not None for parameter in image.parameters())
    assert torch.equal(before['weight'], words.state_dict()['weight']) and words.weight.grad is None
