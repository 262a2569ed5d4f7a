import math

import pytest
import torch

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.mos import MosScale


@pytest.mark.parametrize('mos_range, lower_better, mos, label', [
    ((1, 5), False, 1, 0), ((1, 5), False, 5, 1), ((1, 5), False, 2, 0.25), ((0, 100), True, 0, 1), ((0, 100), True, 25, 0.75),
    ((-3, 3), False, 0, 0.5)])
def test_normalisation_and_back(mos_range, lower_better, mos, label):
    scale = MosScale(mos_range, lower_better)
    assert scale.normalise(mos) == label and scale.denormalise(label) == mos
    assert torch.equal(scale.normalise(torch.tensor([mos])), torch.tensor([label]) * 1.0)


@pytest.mark.parametrize('mos_range', [None, 5, [1], [5, 1], [1, 1], ['a', 'b'], [0, math.inf], [math.nan, 1], [1, 2, 3]])
def test_ranges_that_are_none(mos_range):
    with pytest.raises(OptionError, match=r'mos_range: .* must be two numbers, the lower first'):
        MosScale(mos_range, False)


def test_the_direction_is_a_truth_value():
    with pytest.raises(OptionError, match=r"lower_better: 'no' must be true or false"):
        MosScale((1, 5), 'no')


@pytest.mark.parametrize('labels, message', [
    ([1, math.nan, 3], '1 of 3 MOS are not finite'), ([1, math.inf], '1 of 2 MOS are not finite'),
    ([1, 63, 70], r'2 of 3 MOS are outside mos_range \[1, 5\] \(found 1 to 70\)'), ([3, 3, 3], 'all 3 MOS are 3')])
def test_labels_that_cannot_be_used(labels, message):
    with pytest.raises(DataError, match=f'my set: {message}'):
        MosScale((1, 5), False).check_labels(labels, 'my set')


def test_a_scale_on_itself_changes_nothing():
    scale = MosScale((1, 5), False)
    assert all(scale.on(MosScale([1.0, 5.0], False), mos) == mos for mos in (3.42, 1.1, 4.9))
    assert MosScale((1, 100), False).on(MosScale((1, 5), False), 50.5) == 3.0


def test_labels_at_both_ends_are_fine():
    MosScale((1, 5), False).check_labels([1, 5, 3], 'my set')
