"""Expected ratings of a tiny model: those of all that it may write, from its cache as by reading everything again."""

import functools
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.studies.benchmark.expectation import expectation_cost
from pyiqa_rali.vlm import expectation, ratings
from pyiqa_rali.vlm import memory as memories
from pyiqa_rali.vlm.generation import complete, complete_and_remember, decode, encode
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.memory import Branches
from pyiqa_rali.vlm.prompts import Prompt
from pyiqa_rali.vlm.ratings import expected_ratings, until_rating, until_text
from pyiqa_rali.vlm.scorer import ReasoningScorer
from pyiqa_rali.vlm.settings import ReasonerSettings
from tests.tiny import tiny_qwen3_vl, tiny_vlm


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny_vlm(tmp_path_factory.mktemp('vlm') / 'tiny')


@pytest.fixture(scope='module')
def reasoner(folder):
    return load_vlm(folder)


@pytest.fixture(scope='module')
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (64, 64), (100, 30), (20, 20)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def chances_after(reasoner, picture, tokens):
    """The probabilities of the next token, by a whole forward pass."""
    with torch.no_grad():
        logits = reasoner.model(**encode(reasoner, [picture], Prompt('Rate it.'), [tokens])).logits[0, -1]
    return torch.softmax(logits.double(), 0)


def following(reasoner, picture, prefix, path):
    return chances_after(reasoner, picture, [*prefix, *path])


def brute_force(reasoner, picture, prefix):
    """The mean of all ratings from 1 to 5 with at most two decimals, each with the product of its tokens' probabilities."""
    tokenizer = reasoner.processor.tokenizer
    *digits, dot, plus = (tokenizer.encode(text, add_special_tokens=False)[0] for text in '0123456789.+')
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    assert [texts[token] for token in (*digits, dot)] == [*'0123456789.']  # the tokens of numbers are single ones
    fraction = [token for token, text in enumerate(texts) if text[:1] in ('/', '%')]
    ends = [token for token in range(len(texts)) if token not in (*digits, dot, *fraction)]
    first = chances_after(reasoner, picture, prefix)
    found = []
    for start, mass in (([], 1.0), ([plus], first[plus])):
        for whole in '12345':
            chances = functools.partial(following, reasoner, picture, prefix)
            found += ratings_from(chances, start, mass, whole, digits, dot, ends)
    return float(sum(value * mass for value, mass in found if value <= 5) / sum(mass for value, mass in found if value <= 5))


def ratings_from(chances, start, mass, whole, digits, dot, ends):
    """(rating, probability) of all ratings with one whole part."""
    mass = mass * chances(start)[digits[int(whole)]]
    path = [*start, digits[int(whole)]]
    second = chances(path)
    yield float(whole), mass * second[ends].sum()
    mass, path = mass * second[dot], [*path, dot]
    third = chances(path)
    yield float(whole), mass * (third[ends].sum() + third[dot])  # a second dot ends it
    for decimal in range(10):
        fourth = chances([*path, digits[decimal]])
        yield float(f'{whole}.{decimal}'), mass * third[digits[decimal]] * (fourth[ends].sum() + fourth[dot])
        for last in range(10):
            yield float(f'{whole}.{decimal}{last}'), mass * third[digits[decimal]] * fourth[digits[last]]


def test_the_expectation_is_that_of_all_ratings(reasoner, pictures, monkeypatch):
    monkeypatch.setattr(expectation, 'LEAST_SHARE', 0.0)
    start = '<think>Sharp.</think><answer>{"rating": '
    tokenizer = reasoner.processor.tokenizer
    prefix, whole = (tokenizer.encode(text, add_special_tokens=False) for text in (start, f'{start}3.42}}</answer>'))
    found = expected_ratings(reasoner, pictures[:1], Prompt('Rate it.'), [whole], (1.0, 5.0), 'rating', 8)
    assert found[0] == pytest.approx(brute_force(reasoner, pictures[0], prefix), abs=1e-5)


TEXTS = ['', 'Nothing like it', '<think>a', '<think>a</think><answer>{"rating": 3.42}</answer>',
         '<answer>{"rating": "3"}</answer>', '<think>The picture is noisy and dark.</think><answer>**4**</answer>',
         '<think>a</think><answer>I say 2.5.</answer>']


def without_cache(reasoner):
    return replace(reasoner, reuses_cache=False, read_again=0)


@pytest.fixture(params=['qwen2.5', 'qwen3'])
def either(request, reasoner, tmp_path_factory):
    """Models of two families, that have not been asked for an expectation yet."""
    if request.param == 'qwen3':
        return load_vlm(tiny_qwen3_vl(tmp_path_factory.mktemp('qwen3') / 'tiny'))
    return replace(reasoner, reuses_cache=None, read_again=0)


@pytest.mark.parametrize('seeds', [None, [1, 2, 3, 4]], ids=['greedy', 'sampled'])
def test_the_cache_changes_no_expectation(either, pictures, seeds):
    prompt, rest = Prompt('Rate it.', 'Judge it.'), ((1.0, 5.0), 'rating', 3)
    completions, memory = complete_and_remember(either, pictures, prompt, 30, seeds)
    reference = expected_ratings(without_cache(either), pictures, prompt, completions, *rest)
    assert expected_ratings(either, pictures, prompt, completions, *rest, memory) == pytest.approx(reference, abs=1e-5)
    assert expected_ratings(either, pictures, prompt, completions, *rest) == pytest.approx(reference, abs=1e-5)
    assert either.reuses_cache is True and either.read_again == 0 and len(set(reference)) == 4


@pytest.mark.parametrize('rating_range', [(1.0, 5.0), (0.0, 100.0), (-1.0, 1.0)])
def test_the_cache_changes_no_expectation_of_given_texts(either, pictures, rating_range):
    completions = [either.processor.tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    shown = [pictures[number % 4] for number in range(len(TEXTS))]
    arguments = shown, Prompt('Rate it.'), completions, rating_range, 'rating', 4
    found = expected_ratings(either, *arguments)
    assert found == pytest.approx(expected_ratings(without_cache(either), *arguments), abs=1e-5)
    alone = [expected_ratings(either, [picture], Prompt('Rate it.'), [completion], *arguments[3:])[0]
             for picture, completion in zip(shown, completions, strict=True)]
    assert found == pytest.approx(alone, abs=1e-5)


def counting(monkeypatch, model):
    """Count the passes of the vision tower, and note (rows, tokens) of each pass of the whole."""
    pictures, passes, forward, look = [], [], model.forward, model.model.visual.forward

    def counted(*arguments, **options):
        passes.append(tuple(options['input_ids'].shape))
        return forward(*arguments, **options)
    monkeypatch.setattr(model, 'forward', functools.wraps(forward)(counted))
    monkeypatch.setattr(model.model.visual, 'forward', lambda *rest, **options: pictures.append(1) or look(*rest, **options))
    return pictures, passes


def test_the_expectation_reads_picture_and_reasoning_no_second_time(reasoner, pictures, monkeypatch):
    """The pictures are looked at once; begun ratings take one pass for each of their lengths, of a few tokens each."""
    net = ReasoningScorer(replace(reasoner, reuses_cache=True), max_new_tokens=24, batch_size=4)
    looks, passes = counting(monkeypatch, reasoner.model)
    completions, _ = complete_and_remember(reasoner, pictures, net.card.prompt(), 24)
    writing = list(passes)
    assert len(looks) == 1 and len(writing) == max(map(len, completions)) + (max(map(len, completions)) < 24)
    looks.clear()
    passes.clear()
    asked, step = [], expectation._step
    monkeypatch.setattr(expectation, '_step', lambda node, *rest: asked.append(node) or step(node, *rest))
    net.describe(pictures)
    rating = passes[len(writing):]
    longest = max(len(node.path) for node in asked)
    most = [max(sum(node.picture == picture and len(node.path) == length for node in asked) for picture in range(4))
            for length in range(1, longest + 1)]
    assert len(looks) == 1 and passes[:len(writing)] == writing
    assert [rows for rows, _ in rating] == [4] * (longest + 1) and [tokens for _, tokens in rating[1:]] == most
    assert rating[0][1] < 20 < writing[0][1]


@pytest.mark.parametrize('at_once', [1, 9])
def test_many_branches_are_read_one_part_after_another(either, pictures, monkeypatch, at_once):
    completions, memory = complete_and_remember(either, pictures, Prompt('Rate it.'), 24)
    arguments = either, pictures, Prompt('Rate it.'), completions, (0.0, 100.0), 'rating', 4, memory
    reference = expected_ratings(*arguments)
    monkeypatch.setattr(memories, 'MOST_AT_ONCE', at_once)
    assert expected_ratings(*arguments) == pytest.approx(reference, abs=1e-6)


def test_attention_that_takes_no_tree_is_computed_in_another_way_meanwhile(reasoner, pictures, monkeypatch):
    completions, memory = complete_and_remember(reasoner, pictures, Prompt('Rate it.'), 24)
    arguments = replace(reasoner, reuses_cache=None), pictures, Prompt('Rate it.'), completions, (1.0, 5.0), 'rating', 4, memory
    reference = expected_ratings(*arguments)
    seen, text = [], reasoner.model.config.get_text_config()
    forward = reasoner.model.forward
    monkeypatch.setattr(memories, 'MASKED', ('sdpa',))
    monkeypatch.setattr(reasoner.model, 'forward', functools.wraps(forward)(
        lambda *rest, **options: seen.append(text._attn_implementation) or forward(*rest, **options)))
    reasoner.model.set_attn_implementation({'text_config': 'eager'})
    try:
        assert expected_ratings(*arguments) == pytest.approx(reference, abs=1e-5)
        assert set(seen) == {'sdpa'} and text._attn_implementation == 'eager'
    finally:
        reasoner.model.set_attn_implementation({'text_config': 'sdpa'})


def test_a_model_whose_cache_cannot_be_used_is_read_again_and_counted(reasoner, pictures, monkeypatch):
    fresh, prompt, rest = replace(reasoner, reuses_cache=None, read_again=0), Prompt('Rate it.'), ((1.0, 5.0), 'rating', 4)
    completions = complete(fresh, pictures, prompt, 24)
    reference = expected_ratings(without_cache(fresh), pictures, prompt, completions, *rest)
    monkeypatch.setattr(ratings, 'memory_of', lambda *arguments: None)
    with pytest.warns(UserWarning, match='the cache of this model cannot be used again .it does not keep all keys'):
        found = expected_ratings(fresh, pictures, prompt, completions, *rest)
    assert found == pytest.approx(reference, abs=1e-5) and fresh.reuses_cache is False and fresh.read_again > 4
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # it is said once
        expected_ratings(fresh, pictures, prompt, completions, *rest)


@pytest.mark.parametrize(('wrong', 'reason'), [
    (lambda model, memory, *rest: Branches(model, replace(memory, offsets=memory.offsets + 3), *rest), 'are off by'),
    (lambda model, *rest: model(nothing=1), 'Error: ')], ids=['other positions', 'other arguments'])
def test_a_cache_that_gives_something_else_is_not_used(reasoner, pictures, monkeypatch, wrong, reason):
    fresh, prompt, rest = replace(reasoner, reuses_cache=None, read_again=0), Prompt('Rate it.'), ((1.0, 5.0), 'rating', 4)
    completions, memory = complete_and_remember(fresh, pictures, prompt, 24)
    monkeypatch.setattr(ratings, 'Branches', wrong)
    with pytest.warns(UserWarning, match=f'cannot be used again .*{reason}'):
        found = expected_ratings(fresh, pictures, prompt, completions, *rest, memory)
    assert found == pytest.approx(expected_ratings(without_cache(fresh), pictures, prompt, completions, *rest), abs=1e-5)


def test_tags_of_several_tokens_are_cut_off_whole(reasoner):
    """As in tokenizers that do not know the tags: a piece of one must not stay before the answer that is begun."""
    tokenizer = reasoner.processor.tokenizer
    tokens = [*tokenizer.encode('<think>It is sharp', add_special_tokens=False),
              *(token for piece in ('.<', '/', 'think', '>') for token in tokenizer.encode(piece, add_special_tokens=False))]
    assert decode(reasoner, tokens) == '<think>It is sharp.</think>'
    assert decode(reasoner, until_rating(reasoner, tokens, 'rating')) == '<think>It is sharp.</think><answer>{"rating": '
    assert decode(reasoner, until_text(reasoner, tokens, ('</think>',))) == '<think>It is sharp.'


@pytest.mark.parametrize('text', ['<think>\U0001f600 bright</think><answer>{"rating": 3.42}</answer>',
                                  '\u00e9\u00e8\u2713 rating: 4'])
def test_characters_of_several_tokens_do_no_harm(reasoner, text):
    tokens = reasoner.processor.tokenizer.encode(text, add_special_tokens=False)
    assert decode(reasoner, until_rating(reasoner, tokens, 'rating')) == text[:re.search(r'[34](\.|$)', text).start()]


@pytest.mark.parametrize('completion', ['', 'Nothing like it', '<think>a', '<think>a</think>', '<think>a</think><answer>',
                                        '<think>a</think><answer>{"rating": good}</answer>', '<answer>3</answer>'])
def test_any_completion_has_an_expectation(reasoner, pictures, completion):
    tokens = reasoner.processor.tokenizer.encode(completion, add_special_tokens=False)
    found = expected_ratings(reasoner, pictures[:1], Prompt('Rate it.'), [tokens], (1.0, 5.0), 'rating', 8)
    assert 1 <= found[0] <= 5


def test_both_modes_can_be_timed(reasoner):
    found = expectation_cost(ReasonerSettings(reasoner.folder, batch_size=2, max_new_tokens=8), images=2, size=32, repeats=1)
    assert found['ratio'] == pytest.approx(found['expectation'] / found['greedy']) and found['reuses_cache'] is True
    assert found['tokens'] > 0 and found['repeats'] == 1
