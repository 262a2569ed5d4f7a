"""What counts as a rating: more than 200 completions, good and bad, and a property that holds for any text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.vlm.answers import (
    lenient_rating,
    rating_position,
    reasoning_text,
    split_completion,
    strict_degradation,
    strict_json,
    strict_rating,
)
from pyiqa_rali.vlm.prompts import ReasoningCard

RANGE = (1.0, 5.0)
THINK = '<think>Sharp and clean.</think>'


def tagged(answer):
    return f'{THINK}<answer>{answer}</answer>'


# answer -> what a reward reads of it, and what scoring reads of it
ANSWERS = [
    ('{"rating": 3.42}', 3.42, 3.42), ('{"rating":3}', 3, 3), ('{ "rating" : 5 }', 5, 5), ('{"rating": 1}', 1, 1),
    ('\n{"rating": 2.5}\n', 2.5, 2.5), ('{"rating": 5.0}', 5, 5), ('{"rating": 1.00}', 1, 1), ('{"rating": 3e0}', 3, 3),
    ('{"rating": 0.3e1}', 3, 3), ('{"rating": 25e-1}', 2.5, 2.5), ('{"rating": 4.999999999}', 4.999999999, 4.999999999),
    ('{\n  "rating": 4.25\n}', 4.25, 4.25), ('{"rating":\t4.25}', 4.25, 4.25), ('{"r\\u0061ting": 2}', 2, 2),
    # JSON that only scoring takes
    ('{"rating": "3.5"}', None, 3.5), ('{"rating": " 3.5 "}', None, 3.5), ('{"Rating": 3.5}', None, 3.5),
    ('{"RATING": 2}', None, 2), ('{"result": {"rating": 3.5}}', None, 3.5), ('{"results": [{"rating": 3.5}]}', None, 3.5),
    ('{"rating": 3.5, "reason": "sharp"}', None, 3.5), ('{"sharpness": 4, "rating": 3.5}', None, 3.5),
    ('{"a": {"b": {"c": {"rating": 2}}}}', None, 2), ('{"rating": "4."}', None, 4), ('{"rating": "**4**"}', None, 4),
    ('```json\n{"rating": 3.5}\n```', None, 3.5), ('```\n{"rating": 3.5}\n```', None, 3.5),
    ('```JSON {"rating": 3.5} ```', None, 3.5), ('Here it is: ```json\n{"rating": 2}\n```', None, 2),
    ('```json\n{"rating": 1}\n``` no, ```json\n{"rating": 2}\n```', None, 2),
    # the key by pattern
    ('rating: 3.5', None, 3.5), ('Rating = 3.5', None, 3.5), ('the rating is 3.5', None, 3.5), ('rating 3.5', None, 3.5),
    ('{rating: 3.5}', None, 3.5), ("{'rating': 3.5}", None, 3.5), ('{"rating": 3.5', None, 3.5),
    ('"rating": 3.5}', None, 3.5),
    ('{"rating": 3.5,}', None, 3.5), ('a rating of 4', None, 4), ('RATING: 2.', None, 2),
    ('rating: 3.5 of sharpness', None, 3.5),
    ('rating: "3.5"', None, 3.5), ('I give a rating of 3.5.', None, 3.5), ('{"rating": 3.5} because it is sharp', None, 3.5),
    ('rating: 3.5 (rating: 3.5)', None, 3.5), ('rating: 3.5\nsharpness: 4', None, 3.5),
    ('The rating is 4, well done', None, 4),
    ("{'rating': 3.5, 'sharpness': 4}", None, 3.5), ('Rating: 4.2. The scale ends at 5.', None, 4.2),
    ('On the rating scale of 1 to 5: rating 4.2', None, 4.2), ('**Rating: 4.2**', None, 4.2), ('Rating: 4.2.', None, 4.2),
    ('Rating: 4.2 - good', None, 4.2), ('rating: 3 stars', None, 3),
    # a lone number
    ('3.5', None, 3.5), (' 4 ', None, 4), ('4.', None, 4), ('**4.5**', None, 4.5), ('"4.5"', None, 4.5), ('+4', None, 4),
    ('.4e1', None, 4), ('1', None, 1), ('5', None, 5), ('_3_', None, 3), ("'2.25'", None, 2.25),
    # of the highest rating, by its own number
    ('3/5', None, 3), ('3.5/5', None, 3.5), ('3.5 / 5', None, 3.5), ('3.5/5.0', None, 3.5), ('3\u20445', None, 3),
    ('5/5', None, 5),
    ('**3.5/5**', None, 3.5), ('"3.5/5"', None, 3.5), ('3.5/5.', None, 3.5), ('3.5 out of 5', None, 3.5),
    ('{"rating": "3/5"}', None, 3), ('{"rating": "3.5/5"}', None, 3.5), ('{"rating": 3.5/5}', None, 3.5),
    ('{"rating": 3 / 5}', None, 3), ('rating: 3/5', None, 3), ('rating: 3.5 / 5', None, 3.5),
    ('rating: 3.5/5 - good', None, 3.5),
    ('rating: 3 \u2044 5', None, 3), ('{"sharpness": "4/5", "rating": "3.5/5"}', None, 3.5),
    ('rating: 3.5 out of 5', None, 3.5),
    ('I would rate this image 3.5/5.', None, 3.5), ('Score: 3.5/5', None, 3.5),
    # alone in a list, or under another usual name
    ('[3.5]', None, 3.5), ('["3.5"]', None, 3.5), ('[ 4 ]', None, 4), ('[3.5/5]', None, 3.5),
    ('{"rating": [3.5]}', None, 3.5),
    ('{"rating": ["3.5"]}', None, 3.5), ('{"score": 3.5}', None, 3.5), ('{"score": "3.1"}', None, 3.1),
    ('{"Score": 3.1}', None, 3.1),
    ('{"overall_score": 3.1, "reason": "sharp"}', None, 3.1), ('{"quality": 4}', None, 4),
    ('{"overall quality": 4}', None, 4),
    ('{"image_quality_score": [4.5]}', None, 4.5), ('{"final_rating": "4/5"}', None, 4), ('{"mos": 2.2}', None, 2.2),
    ('{"sharpness": 4, "score": 3.5}', None, 3.5), ('{"quality": "good", "score": 3.5}', None, 3.5),
    ('{"score": 1, "detail": {"rating": 3}}', None, 3), ("{'score': 3.5}", None, 3.5), ('Score: 3.5', None, 3.5),
    ('**Score:** 3.5', None, 3.5), ('**Overall quality score: 3.5**', None, 3.5), ('The quality score is 3.5.', None, 3.5),
    ('score = 4', None, 4), ('I would give this image a 3.5.', None, 3.5),
    # numbers that are none
    ('{"rating": NaN}', None, None), ('{"rating": Infinity}', None, None), ('{"rating": -Infinity}', None, None),
    ('{"rating": 1e999}', None, None), ('{"rating": true}', None, None), ('{"rating": false}', None, None),
    ('{"rating": null}', None, None), ('{"rating": []}', None, None), ('{"rating": {}}', None, None),
    ('{"rating": [true]}', None, None), ('{"rating": [[3.5]]}', None, None), ('{"rating": [3.5, 4]}', None, None),
    ('{"rating": [3.5, 3.5]}', None, None), ('{"rating": ["good"]}', None, None),
    ('{"rating": "good"}', None, None), ('{"rating": ""}', None, None),
    ('{"rating": "3/4"}', None, None), ('{"rating": "3.5/10"}', None, None), ('{"rating": "60%"}', None, None),
    ('{"rating": "NaN"}', None, None), ('{"rating": "inf"}', None, None), ('{"rating": "three"}', None, None),
    ('{"rating": "3,5"}', None, None), ('{"rating": "3 4"}', None, None), ('{"rating": 3.3.3.3}', None, None),
    ('{"rating": 3..3}', None, None), ('{"rating": 3,5}', None, None), ('{"rating": 0x3}', None, None),
    ('{"rating": 3/4}', None, None), ('{"rating": 3 / 10}', None, None), ('{"rating": 60%}', None, None),
    ('{"rating": 60 %}', None, None), ('{"rating": 1e400}', None, None), ('{"rating": "1e1"}', None, None),
    ('rating: 3/10', None, None), ('rating: 3.5/50', None, None), ('rating: 70%', None, None), ('rating: 3.4.5', None, None),
    ('rating: NaN', None, None), ('rating: inf', None, None), ('rating: true', None, None), ('rating: high', None, None),
    ('rating:', None, None), ('rating', None, None), ('rating: 3 / 6', None, None), ('rating: 3,4', None, None),
    ('3/10', None, None), ('3.5/10', None, None), ('3.5/5.5', None, None), ('3/5/2024', None, None), ('1/3/5', None, None),
    ('2 3/5', None, None), ('rating: 2 3/5', None, None), ('{"rating": 2 3/5}', None, None), ('3-4/5', None, None),
    ('~3/5', None, None), ('3/5 or 4/5', None, None), ('rating: 3/5 or 4/5', None, None), ('6/5', None, None),
    ('0/5', None, None),
    ('-3/5', None, None), ('3/5%', None, None), ('3/-5', None, None), ('60/100', None, None),
    ('3/5 of it is blurred', None, None),
    ('rating: between 3/5 and 4/5', None, None), ('rating: 3/5 (or 4/5)', None, None), ('3.5/', None, None),
    ('/5', None, None),
    ('60%', None, None), ('3.4.5', None, None), ('3 4', None, None),
    ('3,5', None, None), ('3-4', None, None), ('between 3 and 4', None, None), ('three', None, None), ('NaN', None, None),
    ('inf', None, None), ('-inf', None, None), ('True', None, None), ('', None, None), ('   ', None, None), ('.', None, None),
    ('e', None, None), ('4e', None, None), ('--3', None, None), ('3+', None, None), ('~3', None, None),
    ('3 stars', None, None),
    ('\u0663', None, None), ('{"rating": \u0663}', None, None), ('\u00bd', None, None), ('3\u20444', None, None),
    # a part of something else
    ('rating: 3-4', None, None), ('rating: 3 to 4', None, None), ('rating: 3 or 4', None, None),
    ('rating: 3 x 10', None, None),
    ('rating: 3 \u2044 4', None, None), ('rating: 3 . 5', None, None), ('rating: 3 stars out of 10', None, None),
    ('rating: 2 1/2', None, None), ('rating: 2\u00bd', None, None), ('rating: 4_0', None, None), ('4_0', None, None),
    ('{"rating": 3-4}', None, None), ('rating: 3+', None, None), ('rating: 3 to four', None, None),
    ('rating: 3 (out of 10)', None, None), ('rating: between 3 and 4', None, None),
    ('The rating of 1 to 5 is hard; 4.2', None, None),
    # out of range
    ('{"rating": 0}', None, None), ('{"rating": 0.99}', None, None), ('{"rating": 5.01}', None, None),
    ('{"rating": 6}', None, None), ('{"rating": -3}', None, None), ('{"rating": 63}', None, None),
    ('{"rating": 100}', None, None),
    ('{"rating": 3e5}', None, None), ('{"rating": -0.0}', None, None), ('{"rating": "6"}', None, None),
    ('rating: 6', None, None), ('rating: -3', None, None), ('rating: 0', None, None), ('6', None, None), ('0', None, None),
    ('-3', None, None), ('5.0001', None, None), ('63', None, None), ('1e-3', None, None),
    ('{"rating": ' + '9' * 400 + '}', None, None),
    # several, or none, where one is wanted
    ('{"rating": 3, "rating": 4}', None, None), ('{"a": {"rating": 3}, "b": {"rating": 4}}', None, None),
    ('[{"rating": 3}, {"rating": 4}]', None, None), ('rating: 3, rating: 4', None, None),
    ('{"score": 3.5, "quality": 4}', None, None),
    ('{"score": 6}', None, None), ('{"score": true}', None, None), ('{"score": "good"}', None, None),
    ('{"detail": {"score": 4}}', None, None),
    ('{"sharpness_score": 4}', None, None), ('Sharpness score: 4', None, None), ('Score: 3, quality: 4', None, None),
    ('Score: 3-4', None, None), ('Score: 3/10', None, None), ('{"rating": "good", "score": 3.5}', None, None),
    ('[3, 4]', None, None), ('[3.5', None, None), ('[[3.5]]', None, None), ('[true]', None, None), ('[6]', None, None),
    ('rating [5]: 4', None, None), ('[NaN]', None, None),
    ('{}', None, None), ('[]', None, None), ('{"ratings": 3.5}', None, None),
    ('{"rating_of_sharpness": 3.5}', None, None), ('{"overrating": 3.5}', None, None), ('"rating"', None, None),
    ('null', None, None), ('true', None, None), ('{"rating": 3.5}{"rating": 4}', None, None), ('[[[[]]]]', None, None),
    ('[' * 5000, None, None), ('{"a":' * 2000 + '1' + '}' * 2000, None, None), ('{"rating"}', None, None),
]
# completion -> strict, lenient
COMPLETIONS = [
    (tagged('{"rating": 3}'), 3, 3),
    (f'  {THINK}  <answer> {{"rating": 3}} </answer>  ', 3, 3), (f'{THINK}\n\n<answer>\n{{"rating": 3}}\n</answer>\n', 3, 3),
    (f'\t{THINK}\r\n<answer>{{"rating": 3}}</answer>', 3, 3), ('<think>\nA\nB\n</think><answer>{"rating": 3}</answer>', 3, 3),
    ('<think>a < b and c > d</think><answer>{"rating": 3}</answer>', 3, 3),
    # scoring takes these, rewards do not
    ('<answer>{"rating": 3}</answer>', None, 3), ('{"rating": 3}', None, 3), (f'{THINK}{{"rating": 3}}', None, 3),
    (f'{THINK}<answer>{{"rating": 3}}', None, 3), (f'x {tagged("3")}', None, 3), (tagged('{"rating": 3}') + ' done', None, 3),
    ('<think></think><answer>{"rating": 3}</answer>', None, 3), ('<think>  </think><answer>{"rating": 3}</answer>', None, 3),
    ('<answer>{"rating": 3}</answer><think>Sharp.</think>', None, 3),
    (f'{THINK}<answer>{{"rating": 2}}</answer><answer>{{"rating": 3}}</answer>', None, 3),
    (f'{THINK}{THINK}<answer>{{"rating": 3}}</answer>', None, 3),
    ('<think>a<think>b</think></think><answer>{"rating": 3}</answer>', None, 3),
    ('<think>a</think> so <answer>{"rating": 3}</answer>', None, 3),
    ('<THINK>a</THINK><answer>{"rating": 3}</answer>', None, 3), ('Reasoning.</think><answer>3</answer>', None, 3),
    ('<think>the rating is 2</think><answer>3</answer>', None, 3),
    ('<think><answer>{"rating": 2}</answer></think><answer>{"rating": 3}</answer>', None, 3),
    ('4.2', None, 4.2), ('**4.2**', None, 4.2), ('Rating: 4.2.', None, 4.2), ('{"rating": 4.2}', None, 4.2),
    (f'{THINK}<answer>**4.2**', None, 4.2), (f'{THINK}<answer>Rating: 4.2.', None, 4.2),
    (f'{THINK}<answer>```json\n{{"rating": 4.2}}\n```', None, 4.2), (f'{THINK}Rating: 4.2.', None, 4.2),
    # nobody takes these
    (f'{THINK}<answer>{{"rating": 3.', None, None), (f'{THINK}<answer>{{"rating": 3', None, None),
    (f'{THINK}<answer>{{"rating": 3.4', None, None), (f'{THINK}<answer>3.4', None, None), (f'{THINK}<answer>3.', None, None),
    (f'{THINK}<answer>**3', None, None), (f'{THINK}<answer>rating: 3 ', None, None),
    (f'{THINK}<answer>rating: 3e', None, None),
    (f'{THINK}<answer>{{"rating": "3', None, None), ('{"rating": 3.', None, None), ('{"rating": 3.4', None, None),
    (f'{THINK}```json\n{{"rating": 3', None, None), ('<think>A rating of 5 would mean perfect', None, None),
    ('<think>Such as <answer>{"rating": 3}</answer>', None, None), ('A rating of 5 is perfect.</think>Hm.', None, None),
    ('<think>A rating of 5 is perfect.</think>', None, None),
    ('', None, None), ('<think>', None, None), (THINK, None, None), (f'{THINK}<answer></answer>', None, None),
    (f'{THINK}<answer>', None, None), ('Sharp.', None, None), ('<answer>', None, None), ('</answer>', None, None),
    ('<think>3', None, None), ('It has 3 people and 2 dogs.', None, None),
    (tagged('3') + '<answer>none</answer>', None, None),
    (f'{THINK}<answer>{{"rating": 2}}</answer><answer>', None, None), ('<think>rating: 3 or rating: 4', None, None),
    ('\x00\ud800', None, None), ('<answer>' * 50, None, None), ('3 ' * 50, None, None),
]


@pytest.mark.parametrize(('answer', 'strict', 'lenient'), ANSWERS)
def test_answers(answer, strict, lenient):
    assert strict_rating(tagged(answer), RANGE) == strict
    assert lenient_rating(tagged(answer), RANGE) == lenient


@pytest.mark.parametrize(('completion', 'strict', 'lenient'), COMPLETIONS)
def test_completions(completion, strict, lenient):
    assert strict_rating(completion, RANGE) == strict
    assert lenient_rating(completion, RANGE) == lenient


def test_there_are_enough_cases():
    assert len(ANSWERS) + len(COMPLETIONS) >= 200


PIECES = st.sampled_from(['<think>', '</think>', '<answer>', '</answer>', '{"rating": ', '}', '"', '3', '4.5', '/', '%', ' ',
                          '.', '-', 'rating', ':', 'NaN', '1e9', '{', '[', ']', ',', '```', 'json', '\n', 'true', '9' * 30])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map(''.join)),
       st.tuples(st.floats(-100, 100), st.floats(0.1, 100)).map(lambda pair: (pair[0], pair[0] + pair[1])))
def test_any_text_gives_a_rating_on_the_scale_or_none(completion, rating_range):
    low, high = rating_range
    strict, lenient = strict_rating(completion, rating_range), lenient_rating(completion, rating_range)
    for rating in (strict, lenient):
        assert rating is None or (math.isfinite(rating) and low <= rating <= high)
    assert strict is None or strict == lenient
    assert isinstance(reasoning_text(completion), str) and isinstance(strict_degradation(completion), tuple | None)


@pytest.mark.parametrize(('answer', 'expected'), [
    ('{"distortion_class": "noise", "severity": "slight"}', ('noise', 'slight')),
    ('{"distortion_class": " Noise ", "severity": "SLIGHT"}', ('noise', 'slight')),
    ('{"distortion_class": "null", "severity": "null"}', ('null', 'null')),
    ('{"distortion_class": null, "severity": null}', ('null', 'null')),
    ('{"distortion_class": "null", "severity": null}', ('null', 'null')), ('{"distortion_class": 3, "severity": null}', None),
    ('{"distortion_class": "noise"}', None),
    ('{"distortion_class": "noise", "severity": "slight", "more": 1}', None), ('noise, slight', None), ('{}', None),
    ('{"distortion_class": "noise", "distortion_class": "blur", "severity": "slight"}', None), ('[]', None)])
def test_degradations(answer, expected):
    assert strict_degradation(tagged(answer)) == expected


@pytest.mark.parametrize(('completion', 'expected'), [
    ('<think> Sharp. </think><answer>3</answer>', 'Sharp.'), ('Sharp.</think><answer>3</answer>', 'Sharp.'),
    ('Sharp. <answer>3</answer>', 'Sharp.'), ('<think>Sharp.', 'Sharp.'), ('Hm <think>Sharp.</think>', 'Sharp.'),
    ('<answer>3</answer>', ''), ('', ''), ('<think></think>', ''), ('<think>a<think>b</think>', 'ab')])
def test_reasoning_texts(completion, expected):
    assert reasoning_text(completion) == expected


def test_the_question_shows_the_key_that_is_read():
    card = ReasoningCard(rating_key='quality')
    example = card.prompt().question.partition('for example ')[2]
    assert strict_rating(THINK + example.rstrip('.'), RANGE, 'quality') == 3.42


@pytest.mark.parametrize(('values', 'message'), [
    ({'score_prompt': '{low.x}'}, 'score_prompt: .* cannot be filled in'), ({'rating_range': ['1', '5']}, 'must be .lowest'),
    ({'rating_range': [0, math.inf]}, 'must be .lowest'), ({'rating_range': '1,5'}, 'must be .lowest')])
def test_cards_that_cannot_be_used(values, message):
    with pytest.raises(OptionError, match=message):
        ReasoningCard(**values).prompt()


def test_other_keys_and_scales():
    assert strict_rating(tagged('{"score": 63}'), (0, 100), key='score') == 63
    assert lenient_rating(tagged('score: 63'), (0, 100), key='score') == 63


def test_the_parts_are_stripped():
    assert split_completion('<think> a </think> <answer> b </answer>') == ('a', 'b') and strict_json('[1]') is None


@pytest.mark.parametrize(('answer', 'expected'), [
    ('I would rate this image 3.5 out of 5.', 3.5), ('{"rating": "4 out of 5"}', 4), ('{"overall_rating": 3.1}', 3.1),
    ('On a scale of 1 to 5, the quality of this image is 3.2.', 3.2), ('On a scale from 1 to 5, I rate it 2.5', 2.5),
    ('I would rate this image 3.5 out of 10.', None), ('{"rating": "4 out of 10"}', None),
    ('On a scale of 1 to 10, I rate it 2.5', None), ('On a scale of 1 to 5, it has 2 faults.', None),
    ('On a scale of 1 to 5, I rate it 3-4.', None), ('On a scale of 1 to 5, the quality is 3 to 4.', None),
    ('I rate it 2 out of 5 faults', None), ('{"rating": "3-4 out of 5"}', None), ('{"overall_rating": 3, "other": 4}', 3),
    ('I would give this image a 3.5.', 3.5), ('The quality score is 3.5', 3.5), ('3.5/5', 3.5), ('{"rating": "3.5/5"}', 3.5),
    ('{"rating": 3.5/5, "sharpness": 4}', 3.5), ('rating: 3.5 / 5', 3.5), ('I rate it 3.5/5', 3.5), ('3.5/10', None),
    ('{"rating": "3.5/10"}', None), ('I rate it 3.5/10', None), ('{"score": 3.1}', 3.1),
    ('{"mos": "3.1", "reason": "2 dogs"}', 3.1),
    ('{"score": 3.1, "quality": 4}', None), ('Overall score: 3.1', 3.1), ('[3.5]', 3.5), ('{"rating": [3.5]}', 3.5),
    ('{"rating": ["3.5"], "faults": [2]}', 3.5), ('[3.5, 4]', None), ('{"rating": [3.5, 4]}', None),
    ('3/5 of it is blurred', None)])
def test_plain_sentences_and_scales(answer, expected):
    for completion in (tagged(answer), answer):
        assert lenient_rating(completion, RANGE) == expected
        place = rating_position(completion, rating_range=RANGE)
        assert (place is None) if expected is None else completion[place:].startswith(str(expected))
    assert strict_rating(tagged(answer), RANGE) is None


@pytest.mark.parametrize(('answer', 'rating_range', 'expected'), [
    ('80/100', (0, 100), 80), ('80/10', (0, 100), None), ('7/10', (0, 10), 7), ('0.5/1', (-1, 1), 0.5),
    ('-0.5/1', (-1, 1), -0.5),
    ('4/5', (0, 100), None), ('{"score": "63/100"}', (0, 100), 63), ('3/4.5', (1, 4.5), 3)])
def test_a_fraction_of_the_highest_rating_on_other_scales(answer, rating_range, expected):
    assert lenient_rating(tagged(answer), rating_range) == expected
    place = rating_position(tagged(answer), rating_range=rating_range)
    assert place is None if expected is None else tagged(answer)[place:].startswith(str(expected))


@pytest.mark.parametrize('answer', ['3.5/5', '[3.5', '{"score": 3.5', 'Score: 3.5', '{"rating": "3.5/5', '3.5/'])
def test_an_answer_that_was_cut_off_has_no_rating_of_these_forms_either(answer):
    assert lenient_rating(f'{THINK}<answer>{answer}', RANGE) is None


@pytest.mark.parametrize('sign', ['\u2212', '\u2013', '\u2212 '])
@pytest.mark.parametrize('text', ['{}0.5', 'I rate it {}0.5.', 'rating: {}0.5', '{{"rating": {}0.5}}'])
def test_a_number_does_not_lose_its_minus(sign, text):
    answer = tagged(text.format(sign))
    assert rating_position(answer, rating_range=(-1, 1)) is None and lenient_rating(answer, (-1, 1)) is None
