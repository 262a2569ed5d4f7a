"""The common quality of several data sets: maps, order, and what the losses ask for."""

import pytest
import torch

from pyiqa_rali.training.rali.options import QualityOptions
from pyiqa_rali.training.rali.quality import (
    RANK_WIDTH,
    LabelMap,
    LabelMaps,
    Labels,
    QualityHead,
    quality_loss,
    rank_loss,
)


def labels_of(mos_label, sets=None, agreement=None):
    mos_label = torch.tensor(mos_label)
    return Labels(mos_label, torch.zeros(len(mos_label), dtype=torch.int64) if sets is None else torch.tensor(sets),
                  None if agreement is None else torch.tensor(agreement))


@pytest.mark.parametrize('kind', ['none', 'affine', 'power'])
def test_a_map_starts_as_the_identity_and_rises_whatever_its_parameters(kind):
    each, quality = LabelMap(kind), torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(each(quality), quality)
    torch.manual_seed(0)
    for _ in range(20):
        for parameter in each.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
        assert (each(quality).diff() > 0).all()


def test_a_power_takes_qualities_below_zero():
    each = LabelMap('power')
    quality = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    each(quality).sum().backward()
    assert torch.isfinite(quality.grad).all() and (quality.grad > 0).all()
    with torch.no_grad():
        each.log_exponent.fill_(-0.7)
        below = each(torch.linspace(-0.5, 0.1, 200))
    assert (below.diff() > 0).all() and below.diff().max() < 0.05  # no jump where the tangent begins


def test_the_first_set_gives_the_scale():
    maps = LabelMaps(3, 'affine')
    with torch.no_grad():
        maps.maps[1].shift.fill_(0.5)
    assert list(maps.maps[0].parameters()) == [] and len(list(maps.parameters())) == 4
    assert maps(torch.tensor([0.1, 0.1, 0.1]), torch.tensor([0, 1, 2])).tolist() == pytest.approx([0.1, 0.6, 0.1])


def test_the_rank_loss_falls_as_the_order_gets_right():
    labels = labels_of([0.1, 0.5, 0.9])
    losses = [rank_loss(torch.tensor(quality), labels).item()
              for quality in ([0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.4, 0.5, 0.6], [0.0, 0.5, 1.0])]
    assert losses == sorted(losses, reverse=True)
    assert losses[1] == pytest.approx(1 - 0.5 ** 0.5, abs=1e-6) and losses[3] < 1e-3


def test_the_rank_loss_is_one_minus_the_fidelity_of_thurstone():
    quality = torch.tensor([0.3, 0.45])
    probability = torch.special.ndtr(torch.tensor(0.15 / (2 ** 0.5 * RANK_WIDTH)))
    assert rank_loss(quality, labels_of([0.2, 0.4])).item() == pytest.approx(1 - probability.sqrt().item(), abs=1e-6)


@pytest.mark.parametrize(('mos_label', 'agreement'), [
    ([0.5, 0.5], None),  # equal MOS say nothing
    ([0.2, 0.7], [[0.3, 0.8], [0.6, 0.5]]),  # the second judge sees it the other way round
    ([0.2, 0.7], [[0.3, 0.8], [0.6, 0.8]]),  # the second judge sees no difference
])
def test_pairs_whose_order_is_not_known_teach_nothing(mos_label, agreement):
    quality = torch.tensor([0.9, 0.1], requires_grad=True)
    loss = rank_loss(quality, labels_of(mos_label, agreement=agreement))
    assert loss.item() == 0


def test_judges_that_are_not_there_do_not_forbid():
    nothing = float('nan')
    found = rank_loss(torch.tensor([0.9, 0.1]), labels_of([0.2, 0.7], agreement=[[nothing, nothing], [nothing, nothing]]))
    assert found.item() > 0.9


def test_order_is_never_compared_between_data_sets():
    """Two sets with scales of their own: each in order by itself, and all in disorder together."""
    quality = torch.tensor([0.1, 0.9, 0.0, 0.2])
    labels = labels_of([0.8, 0.9, 0.1, 0.2], sets=[0, 0, 1, 1])
    weights = QualityOptions(mse_weight=0.0, rank_weight=1.0)
    found = quality_loss(quality, LabelMaps(2, 'affine'), labels, (), weights)
    alone = [rank_loss(quality[rows], labels.rows(rows)) for rows in (torch.tensor([0, 1]), torch.tensor([2, 3]))]
    assert found.item() == pytest.approx(sum(each.item() for each in alone) / 2, abs=1e-6) and found < 0.05


def test_of_an_ordered_set_the_values_teach_nothing():
    weights = QualityOptions(mse_weight=1.0, plcc_weight=1.0, rank_weight=0.0)
    quality = torch.tensor([0.1, 0.9, 0.4, 0.6])
    labels = labels_of([0.1, 0.9, 0.9, 0.1], sets=[0, 0, 1, 1])
    assert quality_loss(quality, LabelMaps(2, 'none'), labels, [1], weights).item() == pytest.approx(0, abs=1e-6)
    assert quality_loss(quality, LabelMaps(2, 'none'), labels, (), weights).item() > 0.1


def test_maps_learn_the_scales_of_sets_that_people_used_differently():
    """Labels of the second set are 0.2 + 0.5 q: its map finds that, and q stays on the scale of the first."""
    torch.manual_seed(0)
    true = torch.rand(64)
    labels = Labels(torch.cat([true, 0.2 + 0.5 * true]), torch.arange(2).repeat_interleave(64))
    quality, maps = torch.full((128,), 0.5, requires_grad=True), LabelMaps(2, 'affine')
    weights = QualityOptions(mse_weight=1.0, rank_weight=0.0)
    shared = torch.cat([true, true])  # the quality itself is known: the map alone is to be learned
    optimizer = torch.optim.Adam(maps.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        quality_loss(shared, maps, labels, (), weights).backward()
        optimizer.step()
    assert maps.maps[1].log_scale.exp().item() == pytest.approx(0.5, abs=0.01)
    assert maps.maps[1].shift.item() == pytest.approx(0.2, abs=0.01) and quality.grad is None


def test_a_head_sees_directions_alone():
    torch.manual_seed(0)
    head, features = QualityHead(16, 2, 'power'), torch.randn(5, 16)
    assert torch.allclose(head(features), head(7 * features), atol=1e-6) and head(features).shape == (5,)


def test_a_batch_that_teaches_nothing_has_a_gradient_of_zero():
    """One picture of an ordered set by itself, as the last batch of an epoch may be."""
    quality = torch.tensor([0.3], requires_grad=True)
    loss = quality_loss(quality, LabelMaps(2, 'none'), labels_of([0.9], [1]), [1], QualityOptions(rank_weight=1.0))
    loss.backward()
    assert loss.item() == 0 and quality.grad.tolist() == [0.0]


@pytest.mark.parametrize('own', [None, [[0.1, 0.9], [0.2, 0.8]]])
def test_ranks_whose_pictures_have_other_judges_exchange_as_many(own, monkeypatch):
    """Sets that are drawn from alike: this rank has two judges or none, the other one three."""
    from pyiqa_rali.training.rali import alignment
    monkeypatch.setattr(alignment.processes, 'world_size', lambda: 2)
    monkeypatch.setattr(alignment.processes, 'gather', lambda value: [value, 3])
    monkeypatch.setattr(alignment.processes, 'gather_features', lambda tensor: torch.cat([tensor, torch.zeros_like(tensor)]))
    found = alignment._gathered(labels_of([0.2, 0.6], agreement=own))
    assert found.agreement.shape == (4, 3) and found.agreement[:2].isnan().sum().item() == (6 if own is None else 2)
    assert found.mos_label.tolist() == pytest.approx([0.2, 0.6, 0, 0])
