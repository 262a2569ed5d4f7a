"""Cold starts: the exact format, ratings over the whole scale, texts that fit them, nothing about any image."""

import numpy as np

from pyiqa_rali.training.vlm.cold_start import random_completions
from pyiqa_rali.training.vlm.rewards import format_reward
from pyiqa_rali.vlm.answers import split_completion, strict_rating
from pyiqa_rali.vlm.prompts import ReasoningCard


def test_completions_have_the_exact_format_and_cover_the_scale():
    card = ReasoningCard(rating_range=[0, 10])
    found = random_completions(400, ['darken', 'jpeg'], card, 0)
    ratings = [strict_rating(completion, (0, 10)) for completion in found]
    assert all(format_reward(completion) == 1 for completion in found)
    assert min(ratings) < 0.5 and max(ratings) > 9.5 and 4.5 < np.mean(ratings) < 5.5
    assert random_completions(400, ['darken', 'jpeg'], card, 0) == found != random_completions(400, ['darken', 'jpeg'], card, 1)


def test_texts_fit_their_ratings():
    found = random_completions(300, ['darken'], ReasoningCard(), 0)
    severe = [strict_rating(text, (1, 5)) for text in found if 'severe' in text or 'extreme' in text or 'terribly' in text]
    barely = [strict_rating(text, (1, 5)) for text in found if 'barely' in text or 'faint' in text]
    assert severe and barely and max(severe) < min(barely)


def test_fewer_wordings_and_sentences():
    def texts(**options):
        return {split_completion(each)[0] for each in random_completions(400, ['darken'], ReasoningCard(), 0, **options)}
    assert len(texts(wordings=1, impressions=False)) == 5
    assert len(texts(wordings=2, impressions=False)) == 10
    assert len(texts(wordings=1)) < len(texts(wordings=2)) < len(texts())


def test_texts_begin_with_what_belongs_to_their_image():
    found = random_completions(5, ['darken'], ReasoningCard(), 0, views=['It is left.', 'It is right.'])
    without = random_completions(5, ['darken'], ReasoningCard(), 0)
    assert [split_completion(each)[0].split('. ')[0] for each in found] == ['It is left', 'It is right'] * 2 + ['It is left']
    assert [split_completion(each)[0].split('. ', 1)[1] for each in found] == [split_completion(each)[0] for each in without]
