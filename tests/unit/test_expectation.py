"""The expectation of a rating, by fake models whose distribution is known: whatever their tokens and whatever ends a number."""

import doctest
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyiqa_rali.vlm import expectation
from pyiqa_rali.vlm.answers import rating_position
from pyiqa_rali.vlm.expectation import NumberTokens, expectations, may_become, most_decimals

END = '<|im_end|>'
CHARACTERS = [END, *'0123456789.-+ "}{,\n*/%exT:', '</answer>']
MERGED = [*CHARACTERS, '3.', '4.', '42', '100', '10', '.5', '5}', '2"', '",', ' 4', ' 3', '3.4', '-0', '-0.', '": ', '": 4',
          '0.', '00', '2}', '. ', ' -', '/5', '4/', '/1', '5.']
VOCABULARIES = {'single digits': CHARACTERS, 'merged digits': MERGED}
ENDS = ['}</answer>', '}', '</answer>', '\n', ' ', ',', '"', '"}', '", ', '.', '. T', '**', 'x', '.\n', '..']
RANGES = [(1, 5), (0, 100), (-1, 1)]


def tokenised(text, vocabulary):
    """The tokens of a text, longest first, as a BPE would merge them."""
    tokens = []
    while text:
        token = max((each for each in vocabulary if text.startswith(each)), key=len)
        tokens.append(vocabulary.index(token))
        text = text[len(token):]
    return tuple(tokens)


def asking(chances, vocabulary, counted=None):
    """A model that writes texts with known probabilities; texts may be given as token paths, too."""
    paths = [((*(tokenised(text, vocabulary) if isinstance(text, str) else text), vocabulary.index(END)), chance)
             for text, chance in chances]

    def ask(nodes):
        if counted is not None:
            counted.append(len(nodes))
        for node in nodes:
            going_on = [(path, chance) for path, chance in paths if path[:len(node.path)] == node.path]
            found = np.zeros(len(vocabulary))
            for path, chance in going_on:
                found[path[len(node.path)]] += chance / sum(each for _, each in going_on)
            yield found
    return ask


def expected(chances, vocabulary, rating_range, lead=''):
    tokens = NumberTokens(dict(enumerate(vocabulary)))
    return expectations(asking(chances, vocabulary), tokens, [lead], rating_range)[0]


@pytest.fixture(params=VOCABULARIES)
def vocabulary(request):
    return VOCABULARIES[request.param]


def test_examples():
    assert doctest.testmod(expectation).attempted >= 4 and doctest.testmod(expectation).failed == 0


@pytest.mark.parametrize('end', ENDS)
def test_ratings_out_of_range_are_left_out_before_normalising(vocabulary, end):
    assert expected([(f'5.5{end}', 0.5), (f'3.2{end}', 0.5)], vocabulary, (1, 5)) == pytest.approx(3.2, abs=1e-12)


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize(('rating', 'rating_range'), [
    ('3.98', (1, 5)), ('3.9', (1, 5)), ('4', (1, 5)), ('4.00', (1, 5)), ('5', (1, 5)), ('1', (1, 5)),
    ('0.58', (0, 1)), ('0.275', (0, 1)), ('1', (0, 1)), ('.5', (0, 1)), ('8', (0, 1000)), ('80', (0, 1000)),
    ('57.5', (0, 100)), ('100', (0, 100)), ('10', (0, 100)), ('0', (0, 100)), ('-0.5', (-1, 1)), ('-1', (-1, 1)),
    ('0.25', (-1, 1)), ('-0', (-1, 1)), ('+0.5', (-1, 1)), ('0.26', (0.25, 0.28)), ('-42.5', (-50, -10)), ('-10', (-50, -10))])
def test_a_model_that_is_sure_is_taken_at_its_word(vocabulary, rating, rating_range, end):
    assert expected([(rating + end, 1.0)], vocabulary, rating_range) == pytest.approx(float(rating), abs=1e-12)


@pytest.mark.parametrize(('rating_range', 'chances', 'value'), [
    ((1, 5), {'4': 0.5, '4.2': 0.25, '1.5': 0.25}, 3.425), ((1, 5), {'4': 0.5, '42': 0.5}, 4),
    ((0, 100), {'4': 0.5, '42': 0.5}, 23),
    ((0, 100), {'10': 0.25, '100': 0.25, '1': 0.5}, 28), ((0, 100), {'10': 0.5, '1000': 0.5}, 10),
    ((0, 100), {'100.5': 0.5, '99.5': 0.5}, 99.5), ((-1, 1), {'-0.5': 0.5, '0.5': 0.25, '1': 0.25}, 0.125),
    ((-1, 1), {'-1.5': 0.5, '-1': 0.25, '0.5': 0.25}, -0.25), ((-1, 1), {'-5': 0.9, '-0.5': 0.1}, -0.5),
    ((1, 5), {'-3': 0.5, '3': 0.5}, 3), ((1, 5), {'3.456': 0.5, '2': 0.5}, (3.45 + 2) / 2), ((0, 1000), {'57.9': 1.0}, 57)])
def test_expectations_by_hand(vocabulary, rating_range, chances, value):
    texts = [(f'{text}}}', chance) for text, chance in chances.items()]
    if vocabulary is MERGED and '3.456' in chances:
        value = (3.45 + 2) / 2  # "3.4" is one token of it, and digits are cut off after it all the same
    assert expected(texts, vocabulary, rating_range) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize('other', ['4/10}', '80%}', 'x4}', '}', '-}', '05}', '..5}', '{', '3/', '-x', '"3"',
                                   '4/}', '4/5/', '4/50}', '4/5%', '4//5', '6/5}', '/5}', '4/5.5}', '0/5}'])
def test_what_is_no_rating_is_left_out(vocabulary, other):
    assert expected([(other, 0.6), ('2.5}', 0.4)], vocabulary, (1, 5)) == pytest.approx(2.5, abs=1e-12)


@pytest.mark.parametrize('end', ['}', '</answer>', '.', '. T', '.0}', ' ', '"}'])
def test_a_fraction_of_the_highest_rating_is_its_own_number(vocabulary, end):
    chances = [(f'4/5{end}', 0.5), ('4.2/10}', 0.25), ('2}', 0.25)]
    assert expected(chances, vocabulary, (1, 5)) == pytest.approx((4 * 0.5 + 2 * 0.25) / 0.75, abs=1e-12)
    assert expected([(f'50/100{end}', 0.5), ('20', 0.5), ('4/5', 9)], vocabulary, (0, 100)) == pytest.approx(35, abs=1e-12)


def test_all_tokenisations_of_a_rating_count():
    paths = [((MERGED.index('4'), MERGED.index('.'), MERGED.index('2'), MERGED.index('}')), 0.25),
             ((MERGED.index('4.'), MERGED.index('2}')), 0.25), ((MERGED.index('42'), MERGED.index('}')), 0.25),
             ((MERGED.index('2'), MERGED.index('.5'), MERGED.index('}')), 0.25)]
    assert expected(paths, MERGED, (1, 5)) == pytest.approx((4.2 + 4.2 + 2.5) / 3)
    assert expected(paths, MERGED, (0, 100)) == pytest.approx((4.2 + 4.2 + 42 + 2.5) / 4)


@pytest.mark.parametrize('lead', ['', ' ', '": '])
def test_a_token_may_hold_what_comes_before_the_number(vocabulary, lead):
    chances = [(f'{lead}4.5}}', 0.5), (f'{lead}3}}', 0.25), ('x', 0.25)]
    assert expected(chances, vocabulary, (1, 5), lead) == pytest.approx(4)


def test_no_probability_on_ratings_is_no_rating(vocabulary):
    assert math.isnan(expected([('9.5}', 1.0)], vocabulary, (1, 5))) and math.isnan(expected([('x', 1.0)], vocabulary, (1, 5)))
    assert math.isnan(expected([('3}', 1e-7), ('9}', 1 - 1e-7)], vocabulary, (1, 5)))
    assert expected([('3}', 1e-4), ('9}', 1 - 1e-4)], vocabulary, (1, 5)) == pytest.approx(3)


def test_numbers_that_are_nan_give_nan(vocabulary):
    tokens = NumberTokens(dict(enumerate(vocabulary)))
    found = expectations(lambda nodes: [np.full(len(vocabulary), np.nan) for _ in nodes], tokens, ['', ''], (1, 5))
    assert [math.isnan(value) for value in found] == [True, True]


def test_pictures_are_told_apart():
    tokens = NumberTokens(dict(enumerate(CHARACTERS)))
    models = [asking([('4.5}', 1.0)], CHARACTERS), asking([('2}', 0.5), ('3}', 0.5)], CHARACTERS)]
    found = expectations(lambda nodes: (next(iter(models[node.picture]([node]))) for node in nodes), tokens, ['', ''], (1, 5))
    assert found == pytest.approx([4.5, 2.5])


def test_only_what_is_open_is_asked_about():
    """'3.42}': begin, '3', '3.', '3.4' are asked about; the second decimal settles it."""
    counted = []
    expectations(asking([('3.42}', 1.0)], CHARACTERS, counted), NumberTokens(dict(enumerate(CHARACTERS))), [''], (1, 5))
    assert counted == [1, 1, 1, 1]
    counted.clear()
    merged = [*CHARACTERS, '3.', '42']
    expectations(asking([('3.42}', 1.0)], merged, counted), NumberTokens(dict(enumerate(merged))), [''], (1, 5))
    assert counted == [1, 1]


RATINGS = {rating_range: [f'{value:.{decimals}f}' for decimals in range(most_decimals(rating_range) + 2) for value in
                          np.linspace(rating_range[0] - 0.6 * (rating_range[1] - rating_range[0]),
                                      rating_range[1] + 0.6 * (rating_range[1] - rating_range[0]), 41)]
           for rating_range in RANGES}


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(RANGES), st.sampled_from(sorted(VOCABULARIES)))
def test_the_expectation_is_the_mean_of_the_ratings_in_the_range(data, rating_range, name):
    ratings = data.draw(st.lists(st.sampled_from(RATINGS[rating_range]), min_size=1, max_size=8, unique=True))
    ends = data.draw(st.lists(st.sampled_from(ENDS), min_size=len(ratings), max_size=len(ratings)))
    weights = np.array(data.draw(st.lists(st.floats(0.1, 1), min_size=len(ratings), max_size=len(ratings))))
    chances = list(zip(map(''.join, zip(ratings, ends, strict=True)), weights / weights.sum(), strict=True))
    cut = re.compile(rf'-?[0-9]+(?:\.[0-9]{{0,{most_decimals(rating_range)}}})?')
    values = np.array([float(cut.match(rating).group()) for rating in ratings])
    inside = (values >= rating_range[0]) & (values <= rating_range[1])
    found = expected(chances, VOCABULARIES[name], rating_range)
    if inside.any():
        mean = (values * weights)[inside].sum() / weights[inside].sum()
        # where one token holds more decimals than are followed, they are not cut off
        assert found == pytest.approx(mean, abs=10.0 ** -most_decimals(rating_range))
    else:
        assert math.isnan(found)


@pytest.mark.parametrize('rating_range', [*RANGES, (0.25, 0.28), (-50, -10), (0, 1000), (2.5, 3.5)])
def test_nothing_that_may_still_become_a_rating_is_left(rating_range):
    """Against every text of up to four characters, and what three more characters can make of it."""
    low, high = rating_range
    pieces = ['', *map(''.join, itertools.chain.from_iterable(itertools.product('019.', repeat=count) for count in (1, 2)))]
    begins = ('', *'0159', '10', '42', '0.', '4.', '2.5', '0.2', '99', '-', '..', '05')
    for begun in (sign + text for sign in ('', '-') for text in begins):
        can = any(re.fullmatch(r'-?(0|[1-9][0-9]*)?(\.[0-9]*)?', begun + piece) and re.search('[0-9]', begun + piece)
                  and low <= float(begun + piece) <= high for piece in pieces)
        assert may_become(begun, rating_range) or not can, begun


# completion -> what follows the place of its rating; None where there is none
PLACES = [
    ('<think>A.</think><answer>{"rating": 3.42}</answer>', '3.42}'),
    ('<think>A.</think><answer>{"rating": "3.42"}</answer>', '3.42"}'), ('<answer>{"rating": 63}</answer>', '63}'),
    ('<answer>{"rating": -0.5}</answer>', '-0.5}'), ('<answer>{"rating": 3.', '3.'),
    ('<answer>```json\n{"rating": 3.5}\n```</answer>', '3.5}\n'),
    ('<answer>{"sharpness": 4, "rating": 3.5}</answer>', '3.5}'),
    ('<answer>{"rating": 3.5, "sharpness": 4}</answer>', '3.5, '),
    ('<answer>{"noise": {"rating": "2"}}</answer>', '2"}}'),
    ('<answer>{"reason": "a rating of 2 dogs", "rating": 3.5}</answer>', '3.5}'),
    ('<answer>The rating is 3.5.</answer>', '3.5.<'), ('<answer>I would give this picture 3.5.</answer>', '3.5.<'),
    ('<answer>**3.5**</answer>', '3.5**'), ('<answer> 4 </answer>', '4 <'),
    ('<answer>about 3 stars</answer>', '3 stars'), ('<think>the rating is 2</think>rating: 4', '4'),
    ('A.</think>Rating: 4.2', '4.2'), ('<answer>{"rating": 2}</answer><answer>{"rating": 3}</answer>', '3}<'),
    ('4.2', '4.2'), ('<answer>4.2', '4.2'),
    ('<think>rating: 1</think><answer>{"rating": 4}</answer><think>rating: 5</think>', '4}<'),
    ('<answer>{"rating": 3/5}</answer>', None), ('<answer>3.5/5</answer>', None), ('<answer>3.42%</answer>', None),
    ('<answer>3-4</answer>', None), ('<answer>between 3 and 4</answer>', None),
    ('<answer>{"rating": good}</answer>', None), ('<answer>{"rating": 3, "rating": 4}</answer>', None),
    ('<answer>{"a": {"rating": 3}, "b": {"rating": 4}}</answer>', None), ('It has 3 dogs.', None), ('', None),
    ('<think>a rating of 3', None), ('<think>a rating of 3</think>', None),
    ('<answer></answer>', None),
    ('<answer>{"score": 3}</answer>', '3}'), ('<answer>[3]</answer>', '3]')]


@pytest.mark.parametrize(('completion', 'rest'), PLACES)
def test_the_place_of_a_rating(completion, rest):
    place = rating_position(completion)
    assert (place is None) if rest is None else completion[place:].startswith(rest)
