"""Features are found again by what they were computed from, and by nothing else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.model.image_encoder import ImageEncoderConfig, build_image_encoder
from pyiqa_rali.model.preprocessing import Preprocessing
from pyiqa_rali.training.rali.feature_store import FeatureStore, Stored, picture_keys
from pyiqa_rali.training.rali.features import embed
from pyiqa_rali.training.rali.picture_rows import ROWS_A_FILE, Embedding
from pyiqa_rali.training.rali.text_encoders import SentenceEncoder
from tests.tiny import TINY_TIMM, tiny_sentence_encoder, tiny_table

CPU = torch.device('cpu')


def stored(*numbers):
    return {str(number): Stored(torch.full((3,), float(number)), {'number': number}) for number in numbers}


@pytest.fixture(params=['memory', 'files'])
def store(request, tmp_path):
    return FeatureStore(tmp_path / 'cache' if request.param == 'files' else None)


def test_rows_are_found_by_who_computed_them_and_what_of(store):
    store.add('a', stored(1, 2))
    store.add('a', stored(3))
    store.add('b', {'1': Stored(torch.zeros(3))})
    found = store.get('a', ['3', '1', '9'])
    assert {key: each.row.tolist() for key, each in found.items()} == {'1': [1.0] * 3, '3': [3.0] * 3}
    assert found['3'].note == {'number': 3} and store.get('b', ['1'])['1'].row.tolist() == [0.0] * 3
    assert store.get('c', ['1']) == {} and store.get('a', []) == {}


def test_files_are_found_by_another_process_and_never_half_written(tmp_path, monkeypatch):
    store, other = FeatureStore(tmp_path), FeatureStore(tmp_path)
    assert other.get('a', ['1']) == {}  # it has listed the folder
    store.add('a', stored(1))
    assert other.get('a', ['1']) == {}
    other.look_again('a')
    assert set(other.get('a', ['1'])) == {'1'}

    def killed(tensors, path, metadata):
        Path(path).write_bytes(b'half')
        raise KeyboardInterrupt
    monkeypatch.setattr('safetensors.torch.save_file', killed)
    with pytest.raises(KeyboardInterrupt):
        store.add('a', stored(2))
    assert set(FeatureStore(tmp_path).get('a', ['1', '2'])) == {'1'}
    assert len(list(tmp_path.rglob('*.*'))) == 1


def test_a_damaged_file_is_named(tmp_path):
    FeatureStore(tmp_path).add('a', stored(1))
    file, = tmp_path.rglob('*.safetensors')
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=f'path: feature_cache: {file} is no file .* Delete it; what it held is computed'):
        FeatureStore(tmp_path).get('a', ['1'])


def test_a_file_whose_rows_changed_is_named(tmp_path):
    FeatureStore(tmp_path).add('a', stored(1))
    file, = tmp_path.rglob('*.safetensors')
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(4) if whole[-4:] != bytes(4) else whole[:-1] + b'\x40')
    with pytest.raises(CheckpointError, match='no file of features of ours: its rows are not those that were written. Delete'):
        FeatureStore(tmp_path).get('a', ['1'])


def test_files_of_earlier_versions_have_no_digest(tmp_path):
    FeatureStore(tmp_path).add('a', stored(1))
    file, = tmp_path.rglob('*.safetensors')
    with safe_open(file, framework='pt') as stream:
        told = stream.metadata()
    save_file(load_file(file), file, metadata={name: told[name] for name in ('keys', 'notes')})
    assert list(FeatureStore(tmp_path).get('a', ['1'])) == ['1']


def tiny_encoder(seed=0, embed_dim=8):
    torch.manual_seed(seed)
    preprocessing = Preprocessing(image_size=None, resize_mode='native', resize_size=40)
    config = ImageEncoderConfig('timm', TINY_TIMM.split('.')[0], preprocessing, embed_dim, None, 'mean_std', 12)
    return build_image_encoder(config).eval()


def table_in(folder, **changes):
    values = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': str(folder),
              'meta_info_file': str(folder / 'meta_info.csv'), 'mos_range': [1, 5], 'lower_better': False, **changes}
    return build_table('test', values, 3)


@pytest.fixture
def folder(tmp_path):
    tiny_table(tmp_path / 'data', 6)
    return tmp_path / 'data'


def test_pictures_are_told_by_their_files_and_how_they_are_read(folder, tmp_path):
    keys = picture_keys(table_in(folder))
    assert len(set(keys)) == 6
    shutil.copytree(folder, tmp_path / 'elsewhere')
    assert picture_keys(table_in(tmp_path / 'elsewhere')) == keys
    assert set(picture_keys(table_in(folder, upright=False))).isdisjoint(keys)
    assert picture_keys(table_in(folder, augment={'hflip': True})) is None
    Image.fromarray(np.full((40, 48, 3), 9, np.uint8)).save(folder / '002.png')
    changed = picture_keys(table_in(folder))
    assert [old == new for old, new in zip(keys, changed, strict=True)] == [True, True, False, True, True, True]


def synthetic(folder, **changes):
    values = {'name': 'drawn', 'type': 'SyntheticNRDataset', 'dataroot_photos': str(folder), 'crop_size': 64,
              'mos_range': [1, 5], 'lower_better': False, 'samples_per_epoch': 3, 'split_ratios': [1, 0, 0], **changes}
    return build_table('train', values, 0)


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        (tmp_path / 'photos').mkdir(exist_ok=True)
        small.resize((96, 72), Image.Resampling.BICUBIC).save(tmp_path / 'photos' / f'{number}.png')
    return tmp_path / 'photos'


def test_draws_are_told_by_their_options_photographs_and_number(photographs):
    keys = picture_keys(synthetic(photographs))
    longer = picture_keys(synthetic(photographs, samples_per_epoch=5, name='other', cached_photographs=1))
    assert len(set(longer)) == 5 and longer[:3] == keys
    for change in ({'seed': 1}, {'composite_probability': 0.5}, {'label_noise': 0.1}):
        assert set(picture_keys(synthetic(photographs, **change))).isdisjoint(keys)
    os.remove(photographs / '2.png')
    assert set(picture_keys(synthetic(photographs))).isdisjoint(keys)


@pytest.mark.parametrize('of', [Embedding.of_encoder, Embedding.of_backbone])
def test_features_from_rows_are_those_of_the_pictures(folder, store, of):
    encoder, table = tiny_encoder(), table_in(folder)
    expected = embed(encoder, table, CPU)
    for _ in range(2):
        embedding = of(encoder, store, CPU)
        project = encoder.project if of == Embedding.of_backbone else None
        found = embedding.features(table, project=project)
        assert torch.allclose(found.image_features, expected.image_features, atol=1e-5)
        assert torch.equal(found.mos, expected.mos) and torch.equal(found.mos_label, expected.mos_label)
        assert found.image_names == expected.image_names and found.agreement is None


def test_draws_come_back_with_labels_texts_and_opinions(photographs, store):
    encoder, table = tiny_encoder(), synthetic(photographs)
    expected = table.__getitems__([0, 1, 2])
    for _ in range(2):
        rows = Embedding.of_backbone(encoder, store, CPU).rows(table)
        items = rows.__getitems__([(0, 7), 1, 2])
        for item, original in zip(items, expected, strict=True):
            assert item['img'].shape == rows.rows[0].shape
            assert all(torch.equal(item[name], original[name]) for name in ('mos_label', 'agreement'))
            assert all(item[name] == original[name] for name in ('mos', 'reasoning_texts', 'distortion', 'levels', 'img_path'))


def test_what_is_kept_is_not_computed_again(folder, store, caplog):
    encoder, passed = tiny_encoder(), []
    encoder.backbone.register_forward_hook(lambda module, inputs, output: passed.append(len(output)))
    encode = Embedding.of_backbone(encoder, store, CPU).rows
    caplog.set_level('INFO')
    encoder.fold()  # tries the folded convolutions on pictures of its own
    passed.clear()
    encode(table_in(folder))
    assert sum(passed) == 6 and 'features of tiny: 0 of 6 pictures were there' in caplog.text
    encode(table_in(folder))
    assert sum(passed) == 6 and 'features of tiny: 6 of 6 pictures were there' in caplog.text
    Image.fromarray(np.full((40, 48, 3), 9, np.uint8)).save(folder / '002.png')
    encode(table_in(folder))
    assert sum(passed) == 7
    for other in (tiny_encoder(seed=1), tiny_encoder()):
        if other.config.preprocessing.resize_size == 40 and torch.equal(next(other.parameters()), next(encoder.parameters())):
            other.config = ImageEncoderConfig(**{**vars(other.config), 'preprocessing': Preprocessing(
                image_size=None, resize_mode='native', resize_size=32)})
        caplog.clear()
        Embedding.of_backbone(other, store, CPU).rows(table_in(folder))
        assert 'features of tiny: 0 of 6 pictures were there' in caplog.text
    with torch.no_grad():  # the projection is no part of the rows
        encoder.projection[1].weight.add_(1)
    caplog.clear()
    Embedding.of_backbone(encoder, store, CPU).rows(table_in(folder))
    assert 'features of tiny: 6 of 6 pictures were there' in caplog.text


def test_an_interrupted_run_keeps_the_files_that_it_had_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('pyiqa_rali.training.rali.picture_rows.ROWS_A_FILE', 2)
    encoder = tiny_encoder()
    embedding = Embedding.of_backbone(encoder, FeatureStore(tmp_path / 'cache'), CPU)
    embedding.batch_size = 2
    whole, passed = embedding.encode, []

    def encode(images):
        if len(passed) == 2:
            raise KeyboardInterrupt
        passed.append(len(images))
        return whole(images)
    embedding.encode = encode
    with pytest.raises(KeyboardInterrupt):
        embedding.rows(table_in(folder))
    again = Embedding.of_backbone(encoder, FeatureStore(tmp_path / 'cache'), CPU)
    assert len(again.store.get(again.identity, picture_keys(table_in(folder)))) == 4 < ROWS_A_FILE
    assert len(again.rows(table_in(folder))) == 6


def test_a_picture_that_is_there_twice_is_encoded_once(folder):
    shutil.copy(folder / '001.png', folder / '004.png')
    encoder, passed = tiny_encoder(), []
    encode = Embedding.of_encoder(encoder, FeatureStore(), CPU)
    whole = encode.encode
    encode.encode = lambda images: (passed.append(len(images)), whole(images))[1]
    rows = encode.rows(table_in(folder))
    assert sum(passed) == 5 and torch.equal(rows.rows[1], rows.rows[4])
    assert rows.items[1]['mos'] != rows.items[4]['mos'] and rows.items[4]['img_path'].endswith('004.png')


def test_texts_are_encoded_once_for_all_runs(tmp_path, monkeypatch):
    path = tiny_sentence_encoder(tmp_path / 'text')
    texts = ['The picture is sharp. The picture is dark.', 'The picture is dark.', 'very bad']
    expected = SentenceEncoder(path, split_sentences=True)(texts)
    SentenceEncoder(path, split_sentences=True).remember(texts, FeatureStore(tmp_path / 'cache'))
    again = SentenceEncoder(path, split_sentences=True)
    monkeypatch.setattr(again, 'encode', lambda texts: pytest.fail(f'{texts} are encoded again'))
    again.remember(texts, FeatureStore(tmp_path / 'cache'))
    assert torch.equal(again(texts), expected)


def test_a_process_that_is_late_shares_the_work_of_the_first_ones_list(folder, tmp_path, monkeypatch):
    """The first process has added a row before the second one lists the folder: each row is computed by one of them."""
    from pyiqa_rali.core import processes
    encoder, table = tiny_encoder(), table_in(folder)
    whole = Embedding.of_backbone(encoder, FeatureStore(), CPU).rows(table)
    first, second = (Embedding.of_backbone(encoder, FeatureStore(tmp_path / 'rows'), CPU) for _ in range(2))
    keys = picture_keys(table)

    def added_by_the_first(*indices):
        first.store.add(first.identity, {keys[index]: Stored(whole.rows[index]) for index in indices})

    added_by_the_first(0)
    monkeypatch.setattr(processes, 'world_size', lambda: 2)
    monkeypatch.setattr(processes, 'rank', lambda: 1)
    monkeypatch.setattr(processes, 'gather', lambda own: [[0, 1, 2, 3, 4, 5], own])
    monkeypatch.setattr(processes, 'barrier', lambda: added_by_the_first(2, 4))
    assert torch.allclose(second.rows(table, together=True).rows, whole.rows, atol=1e-5)
