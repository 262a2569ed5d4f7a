import doctest
import math

import pytest

from pyiqa_rali.training.vlm import rewards
from pyiqa_rali.training.vlm.rewards import (
    Rollout,
    continuous_score_reward,
    degradation_reward,
    format_reward,
    margin_rewards,
    rank_rewards,
    threshold_score_reward,
)


def test_examples():
    assert doctest.testmod(rewards).attempted >= 2 and doctest.testmod(rewards).failed == 0


@pytest.mark.parametrize(('completion', 'expected'), [
    ('<think>a</think><answer>{"rating": 3}</answer>', 1), ('<think>\na\n</think>\n<answer>\n{"rating": 3}\n</answer>', 1),
    ('  <think>a</think>   <answer>{}</answer>\n', 1), ('<think>a</think><answer>3</answer>', 0),
    ('<think>a</think><answer>{"rating": 3.3.3}</answer>', 0), ('<think>a</think><answer>{"rating": NaN}</answer>', 0),
    ('<think></think><answer>{}</answer>', 0), ('a<think>a</think><answer>{}</answer>', 0),
    ('<think>a</think>b<answer>{}</answer>', 0), ('<think>a</think><answer>{}</answer>b', 0),
    ('<think>a</think><answer>{}</answer><answer>{}</answer>', 0), ('<answer>{}</answer>', 0), ('', 0)])
def test_format(completion, expected):
    assert format_reward(completion) == expected


@pytest.mark.parametrize(('rating', 'mos', 'threshold', 'expected'), [
    (3.0, 3.0, 0.35, 1), (3.34, 3.0, 0.35, 1), (3.36, 3.0, 0.35, 0), (2.66, 3.0, 0.35, 1), (2.5, 3.0, 0.5, 0),
    (None, 3.0, 9, 0)])
def test_threshold(rating, mos, threshold, expected):
    assert threshold_score_reward(rating, mos, threshold) == expected


@pytest.mark.parametrize(('rating', 'mos', 'expected'), [(3, 3, 1), (2, 3, 0.75), (5, 1, 0), (None, 3, 0), (1, 4, 0.25)])
def test_continuous(rating, mos, expected):
    assert continuous_score_reward(rating, mos) == expected


@pytest.mark.parametrize(('found', 'expected'), [
    (('noise', 'slight'), 1), (('noise', 'obvious'), 0.25), (('blur', 'slight'), 0), (('blur', 'obvious'), 0), (None, 0)])
def test_degradation(found, expected):
    assert degradation_reward(found, ('noise', 'slight')) == expected


def test_rank_by_hand():
    rollouts = [Rollout('a', 'd', 4, 4.0), Rollout('a', 'd', 4, 2.0), Rollout('b', 'd', 2, 3.0), Rollout('b', 'd', 2, 3.0)]
    found = rank_rewards(rollouts, epsilon=0)
    # image a has mean 3 and variance 2, image b mean 3 and variance 0
    above, below = 0.5 * math.erfc(-1 / 2), 0.5 * math.erfc(1 / 2)
    assert found == pytest.approx([math.sqrt(above), math.sqrt(below), math.sqrt(0.5), math.sqrt(0.5)])


# (MOS, ratings) of each image, width -> the reward of each rollout, by hand: the mean over the other images of exp(-d^2 / 2)
MARGINS = [
    ([(4, [4.0]), (2, [2.0])], 1.0, [1, 1]),  # both distances are 2
    ([(4, [5.0]), (2, [3.0])], 1.0, [1, 1]),  # a shift of all ratings changes nothing
    ([(4, [3.0]), (2, [3.0])], 1.0, [math.exp(-2), math.exp(-2)]),  # d = -2 and 2
    ([(4, [2.0]), (2, [4.0])], 1.0, [math.exp(-8), math.exp(-8)]),  # the wrong order: d = -4 and 4
    ([(4, [2.0]), (2, [4.0])], 4.0, [math.exp(-0.5), math.exp(-0.5)]),
    ([(4, [4.0, 3.0]), (2, [1.0, 3.0])], 1.0, [1, math.exp(-0.5), math.exp(-0.125), math.exp(-1.125)]),  # means 3.5 and 2
    ([(1, [1.0]), (2, [2.5]), (4, [4.0])], 1.0, [(math.exp(-0.125) + 1) / 2, math.exp(-0.125), (1 + math.exp(-0.125)) / 2]),
    ([(4, [4.0, None]), (2, [2.0])], 1.0, [1, 0, 1]),  # what cannot be read earns nothing and is in no mean
    ([(4, [4.0]), (2, [None])], 1.0, [None, 0]), ([(4, [4.0, 5.0])], 1.0, [None, None])]


@pytest.mark.parametrize(('images', 'width', 'expected'), MARGINS)
def test_margins_by_hand(images, width, expected):
    rollouts = [Rollout(str(number), 'd', mos, rating) for number, (mos, ratings) in enumerate(images) for rating in ratings]
    found = margin_rewards(rollouts, width)
    assert [each is None for each in found] == [each is None for each in expected]
    assert [each for each in found if each is not None] == pytest.approx([each for each in expected if each is not None])


def test_margins_are_those_of_one_data_set():
    rollouts = [Rollout('a', 'one', 1, 5.0), Rollout('b', 'two', 9, 1.0), Rollout('c', 'one', 3, 3.0)]
    assert margin_rewards(rollouts) == [pytest.approx(math.exp(-8)), None, pytest.approx(math.exp(-8))]


def test_margins_calibrate_where_ranks_do_not():
    true, stretched = ([Rollout(str(mos), 'd', mos, 3 + scale * (mos - 3)) for mos in (1, 3, 5)] for scale in (1.0, 0.5))
    assert min(margin_rewards(true)) == 1 and max(margin_rewards(stretched)) < 0.7
    assert rank_rewards(true) == rank_rewards(stretched) == pytest.approx([1, 1, 1])


def test_rank_only_compares_within_a_data_set():
    rollouts = [Rollout('a', 'one', 1, 5.0), Rollout('b', 'two', 9, 1.0)]
    assert rank_rewards(rollouts) == [None, None]
    same_name = [Rollout('a', 'one', 1, 1.0), Rollout('a', 'two', 9, 1.0), Rollout('b', 'one', 2, 2.0)]
    found = rank_rewards(same_name)
    assert found[1] is None and found[0] == found[2] == pytest.approx(1)


def test_an_unparsable_rollout_earns_nothing_and_counts_nowhere():
    rated = [Rollout('a', 'd', 4, 4.0), Rollout('a', 'd', 4, 3.8), Rollout('b', 'd', 2, 2.0), Rollout('b', 'd', 2, 2.5)]
    with_one_more = [*rated, Rollout('a', 'd', 4, None)]
    assert rank_rewards(with_one_more) == [*rank_rewards(rated), 0.0]


def test_an_image_without_any_rating_is_compared_with_nobody():
    assert rank_rewards([Rollout('a', 'd', 4, 4.0), Rollout('b', 'd', 2, None)]) == [None, 0.0]


def test_equal_mos_want_equal_ratings():
    apart = rank_rewards([Rollout('a', 'd', 3, 4.0), Rollout('b', 'd', 3, 2.0)])
    together = rank_rewards([Rollout('a', 'd', 3, 3.0), Rollout('b', 'd', 3, 3.0)])
    assert together == pytest.approx([1, 1]) and max(apart) < 0.8


def test_the_order_of_images_and_rollouts_does_not_matter():
    rollouts = [Rollout(image, 'd', mos, rating) for image, mos, ratings in (('a', 1, (1.2, 2.0)), ('b', 3, (2.5, None)),
                ('c', 3, (4.0, 3.0))) for rating in ratings]
    assert rank_rewards(rollouts[::-1])[::-1] == pytest.approx(rank_rewards(rollouts))
