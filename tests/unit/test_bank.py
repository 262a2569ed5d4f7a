import json

import numpy as np
import pytest
import torch

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import ReasoningText, load_reasoning_texts, paired, save_reasoning_texts
from pyiqa_rali.training.rali.bank import Candidate, candidates_of_file, choose, make_bank
from pyiqa_rali.training.rali.options import BankOptions
from pyiqa_rali.training.rali.text_encoders import SentenceEncoder, load_text_encoder
from tests.tiny import WORDS, tiny_sentence_encoder


@pytest.mark.parametrize('selection', ['kmeans', 'farthest'])
def test_the_choice_covers_groups_of_texts_and_follows_the_seed(selection):
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(16, 16)))[0][:6]
    features = np.repeat(centres, [50, 40, 3, 3, 2, 2], axis=0) + rng.normal(0, 0.01, (100, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    chosen = choose(features, 6, selection, seed=1)
    assert chosen == choose(features, 6, selection, seed=1) == sorted(set(chosen))
    assert sorted((features[chosen] @ centres.T).argmax(axis=1)) == list(range(6))
    assert len(choose(features, 30, selection, seed=1)) == 30
    assert choose(features, 100, selection, 1) == choose(features, 500, selection, 1) == list(range(100))


def test_a_bank_holds_unit_features_of_its_texts(tmp_path):
    encoder = SentenceEncoder(tiny_sentence_encoder(tmp_path))
    candidates = [Candidate(f'the picture is {word}', [('blur', 2.0)] if number % 2 else None)
                  for number, word in enumerate(WORDS)]
    features, values = make_bank(candidates, encoder, BankOptions(num_texts=5), 0, {'texts': 'mine'})
    assert features.shape == (5, 16) and features.dtype == torch.float16 and len(values['texts']) == 5
    assert features.float().norm(dim=1).tolist() == pytest.approx([1] * 5, abs=2e-3)
    with torch.no_grad():
        again = torch.nn.functional.normalize(encoder(values['texts']), dim=-1)
    assert torch.allclose(features.float(), again, atol=1e-3)
    known = {item.text: item.distortions for item in candidates}
    assert [None if pairs is None else [tuple(pair) for pair in pairs] for pairs in values['distortions']] == [
        known[text] for text in values['texts']]
    assert values['made']['candidates'] == len(WORDS) and values['made']['texts'] == 'mine'
    few = make_bank(candidates, encoder, BankOptions(num_texts=5, num_candidates=5), 0, {})[1]
    assert len(few['texts']) == 5 and few['texts'] == make_bank(candidates, encoder, BankOptions(num_texts=9, num_candidates=5),
                                                                0, {})[1]['texts']
    with pytest.raises(DataError, match='there is no text to choose from'):
        make_bank([], encoder, BankOptions(), 0, {})


def test_distortions_stand_in_the_file_of_texts(tmp_path):
    texts = {'a.png': [ReasoningText('Blurred.', 0, 'm', [('blur', 2.5)]), ReasoningText('Soft.', 1, 'm', [('blur', 2.5)])],
             'b.png': [ReasoningText('Fine.', 0, 'm', [])], 'c.png': [ReasoningText('Blurred.', 0, 'm', [('noise', 1.0)])],
             'd.png': [ReasoningText('Odd.', 0, 'm')]}
    path = tmp_path / 'texts.jsonl'
    save_reasoning_texts(path, texts)
    assert load_reasoning_texts(path) == texts
    assert 'distortions' not in path.read_text().splitlines()[-1]
    assert candidates_of_file(path) == [Candidate('Blurred.', [('blur', 2.5)]), Candidate('Soft.', [('blur', 2.5)]),
                                        Candidate('Fine.', []), Candidate('Odd.', None)]
    assert [item.text for item in candidates_of_file(path, ['Odd.', 'Soft.', 'Missing.'])] == ['Soft.', 'Odd.']


@pytest.mark.parametrize('broken', [3, [['blur']], [['blur', 'strong']], 'blur'])
def test_distortions_that_cannot_be_read_are_refused(tmp_path, broken):
    path = tmp_path / 'texts.jsonl'
    path.write_text(json.dumps({'image': 'a.png', 'texts': [{'text': 'A.', 'seed': 0, 'model': 'm'}], 'distortions': broken}))
    with pytest.raises(DataError, match='line 1: cannot be read'):
        load_reasoning_texts(path)


@pytest.mark.parametrize(('columns', 'expected'), [
    (('jpeg', '3'), [('jpeg', 3.0)]), (('jpeg+haze', '3+1.5'), [('jpeg', 3.0), ('haze', 1.5)]),
    (('jpeg', 2.5), [('jpeg', 2.5)]),
    (('pristine', 0), []), ((None, '3'), None), (('jpeg', None), None)])
def test_columns_become_pairs(columns, expected):
    assert paired(*columns) == expected


def test_more_types_than_levels_are_refused():
    with pytest.raises(DataError, match='names 2 types, level "3" 1 levels'):
        paired('jpeg+haze', '3')


def test_a_clip_in_a_folder_encodes_texts_as_transformers_does(tmp_path):
    from open_clip import SimpleTokenizer
    from transformers import CLIPConfig, CLIPModel
    text = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32, 'vocab_size': 49408,
            'max_position_embeddings': 20, 'bos_token_id': 49406, 'eos_token_id': 49407}
    vision = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32, 'image_size': 16,
              'patch_size': 8}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    clip.save_pretrained(tmp_path)
    encoder = load_text_encoder(str(tmp_path), False)
    texts = ['a sharp picture', 'noise everywhere, and more of it']
    tokens = SimpleTokenizer(context_length=20)(texts)
    with torch.no_grad():
        expected = clip.text_projection(clip.text_model(input_ids=tokens).pooler_output)
        assert torch.allclose(encoder(texts), expected, atol=1e-5) and encoder.embed_dim == 8
    assert encoder.num_tokens('a sharp picture') == 5
    text['vocab_size'] = 64
    CLIPModel(CLIPConfig(text_config={**text, 'eos_token_id': 2}, vision_config=vision, projection_dim=8)).save_pretrained(
        tmp_path / 'small')
    with pytest.raises(OptionError, match='has 64 tokens'):
        load_text_encoder(str(tmp_path / 'small'), False)


def test_a_folder_that_is_no_text_encoder_is_named(tmp_path):
    with pytest.raises(OptionError, match='cannot be read'):
        load_text_encoder(str(tmp_path), False)
