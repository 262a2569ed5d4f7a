"""Generation with a tiny model: batches change nothing, sampling is a softmax's, scores and descriptions are made of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.core.seeds import derived_seed
from pyiqa_rali.vlm.decoding import Sampling
from pyiqa_rali.vlm.generation import GumbelSampling, complete, decode, placeholder_tokens
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.prompts import Prompt, ReasoningCard, read_card
from pyiqa_rali.vlm.scorer import ReasoningScorer, to_pil
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


def test_completions_do_not_depend_on_the_batch(reasoner, pictures):
    question = reasoner.card.prompt()
    for seeds in (None, [1, 2, 3, 4]):
        together = complete(reasoner, pictures, question, 24, seeds)
        alone = [complete(reasoner, [picture], question, 24, seeds and [seed])[0]
                 for picture, seed in zip(pictures, seeds or [0] * 4, strict=True)]
        assert together == alone
    assert complete(reasoner, pictures, question, 24, [1, 2, 3, 4]) != complete(reasoner, pictures, question, 24, [5, 6, 7, 8])


def test_sampling_is_that_of_the_softmax():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    processor = GumbelSampling([0], Sampling(temperature=0.7))
    counts = np.bincount([int(processor(None, logits).argmax()) for _ in range(4000)], minlength=4) / 4000
    assert counts == pytest.approx(torch.softmax(logits[0] / 0.7, 0).numpy(), abs=0.025)


@pytest.mark.parametrize(('sampling', 'expected'), [
    (Sampling(top_k=2), [0.731, 0.269, 0, 0]), (Sampling(top_p=0.7), [0.731, 0.269, 0, 0]),
    (Sampling(top_p=1.0, top_k=9), None), (Sampling(top_p=0.6), [1, 0, 0, 0]),
    (Sampling(temperature=0.5, top_k=3), [0.867, 0.117, 0.016, 0])])
def test_sampling_leaves_out_what_is_unlikely(sampling, expected):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    processor = GumbelSampling([0], sampling)
    counts = np.bincount([int(processor(torch.zeros(1, 1), logits).argmax()) for _ in range(4000)], minlength=4) / 4000
    expected = torch.softmax(logits[0], 0).numpy() if expected is None else expected
    assert counts == pytest.approx(expected, abs=0.025)


def test_repeated_tokens_are_penalised_and_padding_is_not():
    logits = torch.zeros(2, 4) + 1
    processor = GumbelSampling([0, 0], Sampling(temperature=1e-6, repetition_penalty=2.0), torch.tensor([2, 0]))
    found = processor(torch.tensor([[0, 0, 2], [0, 1, 2]]), logits) * 1e-6
    assert found.round(decimals=3).tolist() == [[1, 1, 0.5, 1], [0.5, 0.5, 0.5, 1]]


def test_greedy_completions_do_not_heed_the_penalty_of_the_checkpoint(reasoner, pictures, monkeypatch):
    before = complete(reasoner, pictures, reasoner.card.prompt(), 24)
    monkeypatch.setattr(reasoner.model.generation_config, 'repetition_penalty', 50.0)
    monkeypatch.setattr(reasoner.model.generation_config, 'no_repeat_ngram_size', 1)
    assert complete(reasoner, pictures, reasoner.card.prompt(), 24) == before
    left_to_it = complete(reasoner, pictures, reasoner.card.prompt(), 24, [1, 2, 3, 4], Sampling(repetition_penalty=None))
    assert left_to_it != complete(reasoner, pictures, reasoner.card.prompt(), 24, [1, 2, 3, 4])


def test_sampling_with_bounds_does_not_depend_on_the_batch(reasoner, pictures):
    sampling = Sampling(temperature=2.0, top_k=5, top_p=0.9, repetition_penalty=1.3)
    together = complete(reasoner, pictures, Prompt('Rate it.'), 24, [1, 2, 3, 4], sampling)
    assert together == [complete(reasoner, [picture], Prompt('Rate it.'), 24, [seed], sampling)[0]
                        for picture, seed in zip(pictures, [1, 2, 3, 4], strict=True)]


def test_seeds_are_derived_from_all_parts():
    assert derived_seed(0, 'a', 1) == derived_seed(0, 'a', 1) and 0 <= derived_seed(0, 'a', 1) < 2 ** 63
    assert len({derived_seed(0, 'a', 1), derived_seed(1, 'a', 1), derived_seed(0, 'b', 1), derived_seed(0, 'a', 2)}) == 4


def test_completions_never_hold_a_placeholder(reasoner, pictures):
    forbidden = placeholder_tokens(reasoner.model.config)
    assert len(forbidden) == 4
    found = complete(reasoner, pictures, Prompt('Rate it.'), 200, [1, 2, 3, 4], Sampling(temperature=5.0))
    assert not {token for row in found for token in row} & set(forbidden)


def scorer(folder, **options):
    return ReasoningScorer(pretrained_model_path=folder, max_new_tokens=24, **options)


@pytest.mark.parametrize('mode', ['expectation', 'greedy', 'mean'])
def test_scores_do_not_depend_on_batch_or_run(folder, mode):
    images = torch.rand(4, 3, 40, 56, generator=torch.Generator().manual_seed(0))  # one more than a batch holds
    net = scorer(folder, mode=mode, num_samples=2, batch_size=3)
    scores = net(images)
    assert scores.shape == (4, 1) and scores.dtype == torch.float32 and bool(((scores >= 1) & (scores <= 5)).all())
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(scores, alone, atol=1e-5)
    assert torch.equal(scores, scorer(folder, mode=mode, num_samples=2, batch_size=3)(images))


def test_another_family_of_models(tmp_path):
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    net = scorer(tiny_qwen3_vl(tmp_path / 'qwen3'), num_samples=2)
    for net.mode in ('expectation', 'greedy', 'mean'):
        assert torch.allclose(net(images), torch.cat([net(image[None]) for image in images]), atol=1e-5)


def test_gray_and_other_float_types(folder):
    net = scorer(folder)
    gray = torch.rand(1, 1, 40, 40)
    assert torch.allclose(net(gray), net(gray.expand(-1, 3, -1, -1)))
    assert net(gray.half()).dtype == torch.float32


def test_describing(folder, pictures):
    found = scorer(folder, mode='greedy', resamples=1).describe(pictures)
    assert [each.status for each in found] == ['expectation'] * 4  # random weights write nothing that can be parsed
    assert all(1 <= each.rating <= 5 and isinstance(each.reasoning_text, str) for each in found)


def test_what_was_written_is_parsed(folder, pictures, monkeypatch):
    net = scorer(folder, mode='greedy')
    written = iter(['<think>Sharp.</think><answer>{"rating": 4.5}</answer>', 'nothing', '3', '63'])
    tokenizer = net.reasoner.processor.tokenizer
    answers = [tokenizer.encode(text, add_special_tokens=False) for text in written]
    again = tokenizer.encode('<think>Dark.</think><answer>{"rating": 2}</answer>', add_special_tokens=False)
    monkeypatch.setattr('pyiqa_rali.vlm.generation.complete',
                        lambda reasoner, images, *rest: answers if len(images) == 4 else [again] * len(images))
    found = net.describe(pictures)
    assert [(each.rating, each.status) for each in found] == [(4.5, 'parsed'), (2, 'resampled'), (3, 'parsed'),
                                                              (2, 'resampled')]
    assert found[0].reasoning_text == 'Sharp.' and found[1].reasoning_text == 'Dark.'


def test_a_rating_that_cannot_be_had_is_nan_with_a_warning_and_a_count(folder, monkeypatch):
    net = scorer(folder)
    monkeypatch.setattr(ReasoningScorer, '_expect', lambda self, pictures, *rest: [float('nan')] * len(pictures))
    with pytest.warns(UserWarning, match=r'2 of 2 pictures have NO SCORE \(NaN\)'):
        scores = net(torch.rand(2, 3, 40, 40))
    assert scores.isnan().all() and net.failures == 2


def test_ratings_map_to_a_mos_scale(folder):
    images = torch.rand(2, 3, 40, 40)
    plain, mapped = scorer(folder), scorer(folder, mos_range=[0, 100], lower_better=True)
    assert (plain.score_range, mapped.score_range, mapped.lower_better) == ('1, 5', '0, 100', True)
    assert torch.allclose(mapped(images), 100 - (plain(images) - 1) * 25, atol=1e-3)


def test_the_metric_of_pyiqa(folder, tmp_path):
    import pyiqa

    import pyiqa_rali  # noqa: F401 (registers)
    metric = pyiqa.create_metric('rali-reasoning', device='cpu', pretrained_model_path=str(folder), max_new_tokens=24)
    Image.new('RGB', (50, 40), 'teal').save(tmp_path / 'a.png')
    assert metric(str(tmp_path / 'a.png')).shape == (1, 1) and metric.score_range == '1, 5'
    assert sum(parameter.numel() for parameter in metric.parameters()) == sum(
        parameter.numel() for parameter in metric.net.model.parameters())


@pytest.mark.parametrize(('options', 'error', 'message'), [
    ({'mode': 'expectations'}, OptionError, 'mode: "expectations" is not one of .* Did you mean "expectation"'),
    ({'num_samples': 0}, OptionError, 'num_samples: 0 must be a whole'),
    ({'temperature': 0}, OptionError, 'temperature: 0 must be'), ({'top_k': 0}, OptionError, 'top_k: 0 must be a whole number'),
    ({'top_p': 1.5}, OptionError, 'top_p: 1.5 must be above 0'),
    ({'mos_range': [0, 9]}, OptionError, 'give both'), ({'dtype': 'int8'}, OptionError, 'dtype: "int8"'),
    ({'rating_range': [5, 1]}, OptionError, r'rating_range: \[5, 1\] must be'),
    ({'min_pixels': 9, 'max_pixels': 4}, OptionError, 'min_pixels: 9 is more than max_pixels: 4'),
    ({'score_prompt': '{colour}'}, OptionError, 'cannot be filled in')])
def test_options_that_cannot_be_used(folder, options, error, message):
    with pytest.raises(error, match=message):
        scorer(folder, **options)(torch.rand(1, 3, 40, 40))


def test_models_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(OptionError, match='pretrained_model_path: must name a folder'):
        ReasoningScorer()
    for source, message in ((tmp_path / 'gone', 'is not a folder'), (tmp_path, 'is not a model folder'),
                            ('nobody/nothing', 'nobody/nothing: is not in the cache of the hub')):
        with pytest.raises(CheckpointError, match=message):
            ReasoningScorer(pretrained_model_path=str(source))


@pytest.mark.parametrize('name', ['qinsight', 'visualquality-r1'])
def test_published_models_fail_fast_offline(name):
    import pyiqa

    import pyiqa_rali  # noqa: F401 (registers)
    with pytest.raises(CheckpointError, match='cannot be reached. What can be done: give the folder of a copy'):
        pyiqa.create_metric(name, device='cpu')


def test_a_model_that_says_nothing_about_its_scale_needs_one(folder, tmp_path):
    import shutil
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    (copy / 'pyiqa_rali_reasoning.json').unlink()
    with pytest.raises(CheckpointError, match='does not say on which scale it rates'):
        scorer(copy)
    assert scorer(copy, rating_range=[0, 10]).score_range == '0, 10'


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file
    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    tensors = load_file(copy / 'model.safetensors')
    tensors.pop(next(name for name in tensors if 'visual' in name))
    save_file(tensors, copy / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(CheckpointError, match='1 weights do not fit'):
        scorer(copy)
    (copy / 'model.safetensors').write_bytes(b'nothing')
    with pytest.raises(CheckpointError, match='cannot be loaded as an image-text-to-text model'):
        scorer(copy)


def test_the_card_is_kept_and_checked(tmp_path):
    card = ReasoningCard(score_prompt='From {low} to {high}: {example}', rating_range=[0, 10], training='none')
    card.save(tmp_path)
    assert read_card(tmp_path) == card and card.prompt().question == 'From 0 to 10: 6.05'
    assert read_card(tmp_path / 'gone') is None
    for content, message in (('[]', 'is not a card'), ('{"format_version": 9}', 'has format 9'),
                             ('{"format_version": 1, "colour": 1}', 'unknown key "colour"')):
        (tmp_path / 'pyiqa_rali_reasoning.json').write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read_card(tmp_path)


def test_decoding_keeps_the_tags_and_drops_the_end(reasoner):
    tokens = reasoner.processor.tokenizer.encode('<think>a</think><|im_end|>', add_special_tokens=False)
    assert decode(reasoner, tokens) == '<think>a</think>'


def test_tensors_are_taken_for_what_they_are(folder):
    net = scorer(folder, mode='greedy')
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0)).mul(255).round()
    kinds = images.to(torch.uint8), images / 255, images.half() / 255
    assert len({to_pil(kind)[0].tobytes() for kind in kinds}) == 1
    for wrong, message in ((images, 'values from .* to 25[0-9]; they must be in'), (images[0] / 255, r'shape \(3, 40, 56\)'),
                           (images[:, :2] / 255, r'shape \(2, 2, 40, 56\)'), (images * float('nan'), 'values from nan')):
        with pytest.raises(OptionError, match=message):
            net(wrong)
    with pytest.raises(OptionError, match='as_loss: a reasoning model cannot be a loss'):
        net((images / 255).requires_grad_())
    with pytest.raises(DataError, match='takes no pictures of 300 x 1 pixels: .*aspect ratio'):
        net.describe([Image.new('RGB', (300, 1))])


def test_weights_that_are_nan_are_a_failure(folder, pictures):
    for mode in ('expectation', 'greedy', 'mean'):
        net = scorer(folder, mode=mode, num_samples=2)
        for parameter in net.parameters():
            parameter.data.fill_(float('nan'))
        with pytest.warns(UserWarning, match='have NO SCORE'):
            assert net(torch.rand(1, 3, 32, 32)).isnan().all()
        assert {each.status for each in net.describe(pictures[:2])} == {'failed'}


def test_text_and_expected_rating_belong_together(folder, pictures):
    """Where nothing that is written has a rating, both are those of the first completion."""
    greedy = scorer(folder, mode='greedy').describe(pictures)
    expected = scorer(folder, mode='expectation').describe(pictures)
    assert {each.status for each in greedy} == {'expectation'}
    assert [replace(each, rating=0.0) for each in greedy] == [replace(each, rating=0.0) for each in expected]
    assert [each.rating for each in greedy] == pytest.approx([each.rating for each in expected], abs=1e-5)


@pytest.mark.parametrize(('options', 'message'), [
    ({'rating_range': '1,5'}, "rating_range: '1,5' must be .lowest"), ({'rating_range': ['1', '5']}, 'two numbers such as'),
    ({'num_samples': '3'}, "num_samples: '3' must be a whole number"),
    ({'temperature': '1'}, "temperature: '1' must be a number"),
    ({'batch_size': 0}, 'batch_size: 0 must be a whole number of at least 1')])
def test_values_of_other_types_are_refused(folder, options, message):
    with pytest.raises(OptionError, match=message):
        scorer(folder, **options)
