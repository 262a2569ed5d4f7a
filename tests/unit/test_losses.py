import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pyiqa_rali.training.rali.alignment import _optimizer_step
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


def test_a_scale_at_its_limit_comes_back():
    """The features of the first steps want a higher scale than is allowed, those of the others a lower one."""
    torch.manual_seed(0)
    image, other = torch.randn(8, 16), torch.randn(8, 16)
    loss = ContrastiveLoss('softmax', init_scale=9.0, max_scale=10.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    scales = []
    for step in range(30):
        optimizer.zero_grad()
        loss(image, image if step < 10 else other).backward()
        optimizer.step()
        loss.clamp_scale()
        scales.append(loss.logit_scale.exp().item())
    assert max(scales) == pytest.approx(10, rel=1e-6) and scales[9] == pytest.approx(10, rel=1e-6) and scales[-1] < 8
    assert loss.logit_scale.grad.abs() > 0


def test_the_scale_is_clamped_as_in_open_clip():
    for init, expected in ((1000.0, 100.0), (0.1, 1.0), (30.0, 30.0)):
        assert ContrastiveLoss('softmax', init_scale=init).logit_scale.exp().item() == pytest.approx(expected, rel=1e-6)


def test_every_step_of_training_clamps_the_scale():
    loss = ContrastiveLoss('softmax', init_scale=9.9, max_scale=10.0)
    encoder = nn.Linear(4, 4)
    optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=10.0)
    towers = SimpleNamespace(image_encoder=encoder, text_encoder=nn.Identity())
    running = SimpleNamespace(towers=towers, loss=loss, optimizer=optimizer, scaler=None, step=0,
                              scheduler=SimpleNamespace(step=lambda: None))
    loss.logit_scale.grad = torch.tensor(-1.0)
    _optimizer_step(running, SimpleNamespace(grad_clip=None))
    assert loss.logit_scale.exp().item() == pytest.approx(10, rel=1e-6) and running.step == 1


def test_frozen_texts_get_no_gradient():
    image, words, images, texts = towers()
    before = copy.deepcopy(words.state_dict())
    fixed = torch.randn(12, 8, dtype=torch.float64)
    contrastive_backward(ContrastiveLoss(), image, images, lambda part: fixed[:len(part)], texts)
    assert all(parameter.grad is not None for parameter in image.parameters())
    assert torch.equal(before['weight'], words.state_dict()['weight']) and words.weight.grad is None


@pytest.mark.parametrize('chunk_size', [None, 1, 3, 5, 12])
def test_pictures_of_several_sizes_give_the_gradient_of_their_features_together(chunk_size):
    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    words = nn.Embedding(9, 8).double()
    groups = [torch.rand(5, 3, 6, 6, dtype=torch.float64), torch.rand(4, 3, 9, 7, dtype=torch.float64)]

    def encode_texts(part):
        return words(torch.tensor([int(text) for text in part]))

    def gradients_of(run):
        loss = ContrastiveLoss('softmax', init_scale=5.0)
        run(loss)
        found = [parameter.grad.clone() for module in (image, words) for parameter in module.parameters()]
        image.zero_grad()
        words.zero_grad()
        return found

    texts = [str(index) for index in range(9)]
    expected = gradients_of(lambda loss: loss(torch.cat([image(group) for group in groups]), encode_texts(texts)).backward())
    found = gradients_of(lambda loss: contrastive_backward(loss, image, groups, encode_texts, texts, chunk_size))
    for ours, reference in zip(found, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=1e-4, atol=1e-8)
