import pytest
import torch
import torch.nn.functional as F

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.training.rali.text_encoders import (
    OpenClipText,
    SentenceEncoder,
    resolve_text_encoder,
    split_into_sentences,
)
from tests.tiny import tiny_open_clip_config, tiny_sentence_encoder

LONG = 'the picture is sharp ' * 10 + '.'


@pytest.fixture
def folder(tmp_path):
    return tiny_sentence_encoder(tmp_path / 'text')


def test_padding_does_not_change_features(folder):
    encoder = SentenceEncoder(folder).eval()
    alone = encoder(['the picture is sharp.'])
    together = encoder(['the picture is sharp.', 'the picture is very very blurred and dark with bad colours.'])
    assert torch.allclose(alone[0], together[0], atol=1e-5)


def test_a_frozen_encoder_encodes_a_text_once(folder):
    encoder = SentenceEncoder(folder).eval()
    calls = []
    original = encoder.encode
    encoder.encode = lambda texts: calls.extend(texts) or original(texts)
    first, again = encoder(['good.', 'bad.', 'good.']), encoder(['bad.', 'good.'])
    assert calls == ['good.', 'bad.'] and torch.equal(first[0], first[2]) and torch.equal(first[:2].flip(0), again)
    assert not first.requires_grad


def test_a_trained_encoder_gets_gradients(folder):
    encoder = SentenceEncoder(folder, train=True).eval()
    encoder(['good.', 'bad.', 'good.']).square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_sentences_are_averaged(folder):
    encoder = SentenceEncoder(folder, split_sentences=True).eval()
    whole = SentenceEncoder(folder).eval()
    parts = F.normalize(whole(['the picture is sharp.', 'very noisy.']), dim=-1)
    assert torch.allclose(encoder(['the picture is sharp. very noisy.'])[0], parts.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(('split', 'texts', 'expected'), [
    (False, [LONG, 'good.'], 1), (True, [LONG + ' good.', LONG], 1), (True, ['good. ' * 40], 0), (False, ['good. ' * 40], 1)])
def test_texts_beyond_the_context_are_counted(folder, split, texts, expected):
    assert SentenceEncoder(folder, split_sentences=split).count_long(texts) == expected


@pytest.mark.parametrize('sigmoid', [False, True])
def test_open_clip_text_tower(tmp_path, sigmoid):
    import open_clip
    name = tiny_open_clip_config(tmp_path, sigmoid)
    model = open_clip.create_model(name)
    expected = model.encode_text(open_clip.get_tokenizer(name)(['sharp', 'noisy']))
    encoder = OpenClipText(model, open_clip.get_tokenizer(name), 16).eval()
    assert torch.allclose(encoder(['sharp', 'noisy']), expected, atol=1e-6)
    assert encoder.count_long([LONG, 'sharp']) == 1
    assert not any(parameter_name.startswith('model.visual') for parameter_name, _ in encoder.named_parameters())


@pytest.mark.parametrize(('text', 'expected'), [
    ('One. Two! Three?', ['One.', 'Two!', 'Three?']), ('No end', ['No end']), ('3.5 stays. ', ['3.5 stays.']), ('', [])])
def test_split_into_sentences(text, expected):
    assert split_into_sentences(text) == expected


@pytest.mark.parametrize(('path', 'message'), [
    (None, 'must be given with library: transformers'), ('./nowhere', '"./nowhere" is not a folder'),
    ('installed:no_such_package', 'pip install no-such-package')])
def test_unusable_paths_are_refused(path, message):
    with pytest.raises(OptionError, match=message):
        resolve_text_encoder(path)
