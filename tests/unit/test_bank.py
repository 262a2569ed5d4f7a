import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import ReasoningText, load_reasoning_texts, paired, save_reasoning_texts
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.data.synthetic.quality_texts import WRITER
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.model.checkpoint_bank import bank_texts
from pyiqa_rali.model.preprocessing import Preprocessing
from pyiqa_rali.model.text_bank import TextBank
from pyiqa_rali.training.rali.bank import candidates_of_file, candidates_of_run, choose, make_bank
from pyiqa_rali.training.rali.batches import alignment_dataset
from pyiqa_rali.training.rali.options import BankOptions
from pyiqa_rali.training.rali.text_encoders import SentenceEncoder, load_text_encoder
from tests.tiny import WORDS, tiny_sentence_encoder, tiny_table


def test_a_bank_of_version_0_1_is_read():
    old = {'texts': ['Blurred.', 'Fine.', 'Odd.'], 'distortions': [[['blur', 2]], [], None], 'temperature': 0.02}
    assert bank_texts(old) == [ReasoningText('Blurred.', None, None, [('blur', 2.0)]), ReasoningText('Fine.', None, None, []),
                               ReasoningText('Odd.', None, None)]
    assert TextBank(old, 8).texts == old['texts'] and TextBank(old, 8).classes == ['blur', 'pristine']


def test_texts_keep_seed_model_and_distortions_from_a_table_to_the_bank(tmp_path):
    paths = tiny_table(tmp_path)
    written = {name: [replace(text, distortions=[('noise', 2.0)]) for text in texts]
               for name, texts in load_reasoning_texts(paths['texts']).items()}
    save_reasoning_texts(paths['texts'], written)
    values = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'], 'meta_info_file': paths['table'],
              'split_index': 'split_photo', 'mos_range': [1, 5], 'lower_better': False, 'reasoning_texts': paths['texts']}
    native = Preprocessing(image_size=None, resize_mode='native')
    part = alignment_dataset(build_table('train', values, 3), dataset_section('train', values), None, native)
    found = candidates_of_run([part], 10, 0)
    every = [text for texts in written.values() for text in texts]
    assert {text.text for text in found} == {text.text for text in every} and set(map(str, found)) <= set(map(str, every))
    assert {(text.model, text.seed) for text in found} == {('tiny', 0), ('tiny', 1)}
    assert all(text.distortions == [('noise', 2.0)] for text in found)


def test_texts_of_drawn_pictures_say_who_wrote_them_and_what_is_wrong(tmp_path):
    values = {'name': 'drawn', 'type': 'SyntheticNRDataset', 'crop_size': 64, 'samples_per_epoch': 4, 'only': ['jpeg'],
              'pristine_probability': 0.0, 'composite_probability': 0.0, 'metrics': ['psnr']}
    native = Preprocessing(image_size=None, resize_mode='native')
    part = alignment_dataset(build_table('train', values, 0), dataset_section('train', values), None, native)
    found = candidates_of_run([part], 4, 0)
    assert found and {text.model for text in found} == {WRITER}
    assert all([name for name, _ in text.distortions] == ['jpeg'] for text in found)


def test_a_large_table_does_not_crowd_out_the_other_training_sets():
    many, few = ([[ReasoningText(f'{name} {number}.', 0, name)] for number in range(size)]
                 for name, size in (('many', 1000), ('few', 50)))
    found = candidates_of_run([SimpleNamespace(texts=many), SimpleNamespace(texts=few)], 200, 0)
    assert [sum(text.model == name for text in found) for name in ('many', 'few')] == [100, 50]
    assert found == candidates_of_run([SimpleNamespace(texts=many), SimpleNamespace(texts=few)], 200, 0)
    assert found != candidates_of_run([SimpleNamespace(texts=many), SimpleNamespace(texts=few)], 200, 1)
    assert len(candidates_of_run([SimpleNamespace(texts=many)], 200, 0)) == 1000


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
    candidates = [ReasoningText(f'the picture is {word}', number, f'model {number % 2}',
                                [('blur', 2.0)] if number % 2 else None) for number, word in enumerate(WORDS)]
    features, values = make_bank(candidates, encoder, BankOptions(num_texts=5), 0, {'texts': 'mine'})
    assert features.shape == (5, 16) and features.dtype == torch.float16 and len(values['texts']) == 5
    assert features.float().norm(dim=1).tolist() == pytest.approx([1] * 5, abs=2e-3)
    with torch.no_grad():
        again = torch.nn.functional.normalize(encoder(values['texts']), dim=-1)
    assert torch.allclose(features.float(), again, atol=1e-3)
    assert bank_texts(values) == [item for item in candidates if item.text in values['texts']]  # with seed and model
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
    assert candidates_of_file(path) == [*texts['a.png'], *texts['b.png'], *texts['d.png']]  # 'Blurred.' as it came first


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
