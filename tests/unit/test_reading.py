"""Texts read without their pictures: the reader, its bound on surprise, and the statistics that it gives."""

import math

import numpy as np
import pytest
import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import from_known_keys
from pyiqa_rali.studies.chain.results import naming_statistics, reading_statistics, statistics_by_class
from pyiqa_rali.training.vlm.options import RewardOptions, check_rewards
from pyiqa_rali.training.vlm.reward_functions import reward_functions
from pyiqa_rali.vlm.generation import encode
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.prompts import Prompt, ReasoningCard
from pyiqa_rali.vlm.ratings import expected_ratings
from pyiqa_rali.vlm.reading import GRAY, BlindReader
from tests.tiny import tiny_vlm

WORDS = {'blur': ['Gaussian blur', 'soft'], 'noise': ['noise']}


@pytest.fixture(scope='module')
def reasoner(tmp_path_factory):
    return load_vlm(tiny_vlm(tmp_path_factory.mktemp('reader') / 'vlm'))


class Dictionary:
    """A reader that knows its texts by heart."""

    def __init__(self, **ratings):
        self.known = ratings

    def ratings(self, texts):
        return [self.known.get(text) for text in texts]


def answer(text, rating=3):
    return f'<think>{text}</think><answer>{{"rating": {rating}}}</answer>'


def test_a_text_is_rated_alike_in_any_company(reasoner):
    reader = BlindReader(reasoner, reasoner.card, batch_size=2)
    texts = ['The picture has severe darkness.', 'The picture has barely visible darkness.', None, 'It is good.']
    found = reader.ratings(texts)
    alone = [reader.ratings([text])[0] for text in texts]
    assert found[2] is None and found[0] != found[1]
    assert [found[number] for number in (0, 1, 3)] == pytest.approx([alone[number] for number in (0, 1, 3)], abs=1e-5)
    assert all(1 <= rating <= 5 for rating in found if rating is not None)
    assert reader.ratings([None, texts[0], texts[0]])[1:] == [pytest.approx(found[0], abs=1e-5)] * 2
    assert reader.ratings([]) == []


def test_surprise_is_the_likelihood_by_hand(reasoner):
    reader = BlindReader(reasoner, reasoner.card, batch_size=2)
    texts = ['Good.', 'The picture has severe darkness.', 'It is good.']
    for text, found in zip(texts, reader.surprise(texts), strict=True):
        tokens = reasoner.processor.tokenizer.encode(f'<think>{text}</think>', add_special_tokens=False)
        inputs = encode(reasoner, [GRAY], reasoner.card.prompt(), [tokens])
        with torch.no_grad():
            logits = reasoner.model(**inputs).logits[0].double()
        chances = torch.log_softmax(logits, dim=-1)
        start = logits.shape[0] - len(tokens)
        by_hand = -min(float(chances[start + place - 1, token]) for place, token in enumerate(tokens))
        assert found == pytest.approx(by_hand, abs=1e-5)


def test_texts_that_surprise_are_not_rated(reasoner):
    texts = ['Good.', 'The picture has severe darkness.']
    surprise = BlindReader(reasoner, reasoner.card).surprise(texts)
    bound = sum(surprise) / 2
    found = BlindReader(reasoner, reasoner.card, most_surprise=bound).ratings(texts)
    assert [rating is None for rating in found] == [nats > bound for nats in surprise]


def test_the_reading_reward_follows_the_text_and_not_the_written_rating():
    options = RewardOptions(format=0, reading=0.5, score_width=2.0)
    (reward,), weights = reward_functions(options, ReasoningCard(), Dictionary(bad=1.5, good=4.5).ratings)
    completions = [answer('bad', 5), answer('good', 1), answer('good', 1), 'good', answer('unheard of'), answer('bad')]
    found = reward(completions=completions, task=['score'] * 5 + ['degradation'], mos=[1.5, 1.5, 4.0, 4.5, 3.0, math.nan],
                   distortion_class=[''] * 6)
    assert (found, weights, reward.__name__) == ([1.0, 0.0, 0.75, 0.0, 0.0, None], [0.5], 'reading')


def test_without_its_weight_nobody_reads():
    functions, _ = reward_functions(RewardOptions(), ReasoningCard(), None)
    assert [function.__name__ for function in functions] == ['format']


def test_the_naming_reward():
    (reward,), _ = reward_functions(RewardOptions(format=0, naming=1, class_words=WORDS), ReasoningCard())
    cases = [('Strong gaussian blur.', 'blur', 1), ('Noise.', 'blur', 0), ('Noise and Gaussian blur.', 'blur', 0),
             ('It is noiseless.', 'noise', 0), ('It is soft.', 'blur', 1), ('Noise.', 'null', None), ('Noise.', '', None)]
    found = reward(completions=[answer(text) for text, _, _ in cases], distortion_class=[kind for _, kind, _ in cases])
    assert found == [expected for _, _, expected in cases]
    assert reward(completions=['Noise.'], distortion_class=['noise']) == [0]


@pytest.mark.parametrize(('values', 'message'), [
    ({'reading': -1}, 'rewards: reading: -1.0 must be at least 0'),
    ({'reader': 'folder'}, 'reader: folder is only for the reading reward'),
    ({'most_surprise': 1.0}, 'most_surprise: 1.0 is only for the reading'),
    ({'reading': 1, 'most_surprise': 0.0}, 'rewards: most_surprise: 0.0 must be above 0, or ~'),
    ({'naming': 1}, 'class_words: must be given'),
    ({'class_words': {'blur': ['blur']}}, 'and only then'),
    ({'naming': 1, 'class_words': {'blur': []}}, 'rewards: class_words: blur: must hold at least one'),
    ({'naming': 1, 'class_words': {'blur': [' ']}}, 'none of them empty')])
def test_rewards_that_cannot_be_given(values, message):
    with pytest.raises(OptionError, match=message):
        check_rewards(from_known_keys(RewardOptions, values, 'rewards'))


def test_reading_figures():
    reader = Dictionary(bad=1.0, fair=3.0, good=5.0)
    mos = np.array([1.0, 2.0, 3.0, 4.0])
    assert reading_statistics([['bad'], ['bad', 'fair'], ['fair'], ['good']], mos, reader, 'test') == {
        'text_srcc': pytest.approx(1), 'text_plcc': pytest.approx(0.9827, abs=1e-3), 'text_missing': 0}
    left_out = reading_statistics([['good'], ['', 'fair'], [''], ['bad']], mos, reader, 'test')
    assert left_out['text_srcc'] == pytest.approx(-1) and left_out['text_missing'] == 1
    same = reading_statistics([['fair']] * 4, mos, reader, 'test')
    assert math.isnan(same['text_srcc']) and same['text_missing'] == 0


def test_naming_and_class_figures():
    texts = ['Gaussian blur.', 'Noise.', 'Noise.', 'Anything.']
    assert naming_statistics(texts, ['blur', 'blur', 'noise', 'pristine'], WORDS) == {
        'text_class_accuracy': pytest.approx(2 / 3), 'text_class_majority': pytest.approx(2 / 3)}
    assert naming_statistics(texts, ['', '', '', ''], WORDS) == {}
    mos = np.array([1, 2, 3, 5, 4.97, 4.98, 1, 2, 1.0])
    classes = ['a', 'a', 'a', 'pristine', 'pristine', 'pristine', 'few', 'few', '']
    assert statistics_by_class(-mos, mos, classes, 'test') == {'srcc_a': pytest.approx(-1)}


def test_texts_are_read_with_the_system_message_of_the_run(reasoner):
    text = 'The picture has severe darkness.'
    asked = ReasoningCard(score_prompt='Rate it.', system_prompt='Judge it.')
    found = BlindReader(reasoner, asked).ratings([text])
    written = [reasoner.processor.tokenizer.encode(f'<think>{text}</think>', add_special_tokens=False)]
    expected = expected_ratings(reasoner, [GRAY], Prompt('Rate it.', 'Judge it.'), written, (1.0, 5.0), 'rating', 8)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found != pytest.approx(BlindReader(reasoner, ReasoningCard(score_prompt='Rate it.')).ratings([text]), abs=1e-6)
