"""What a model was trained on travels with its weights, and test images among it are found."""

import json

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.core.errors import CheckpointError, DataError
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.data.inspection import inspect_images
from pyiqa_rali.data.training_images import (
    KEY,
    TrainingImages,
    overlap,
    overlap_told,
    record_beside,
    record_in,
    refuse_overlap,
    told_of,
)
from tests.unit.test_inspection import picture


@pytest.fixture
def trained(tmp_path):
    """Five training pictures in a folder, and their record."""
    paths = [picture(tmp_path / 'train' / f'{number:03d}.png', number) for number in range(5)]
    return paths, TrainingImages.of({'mine': inspect_images(paths)})


def test_the_same_file_is_found_under_another_name(trained, tmp_path):
    paths, record = trained
    copy = tmp_path / 'renamed' / 'x.png'
    copy.parent.mkdir()
    copy.write_bytes(paths[2].read_bytes())
    others = [picture(tmp_path / 'test' / f't{number}.png', 50 + number) for number in range(3)]
    assert record.among([*others, copy, paths[0]]) == {str(copy): True, str(paths[0]): True}


def test_the_same_pixels_are_found_under_another_name_and_in_another_format(trained, tmp_path):
    paths, record = trained
    (tmp_path / 'test').mkdir()
    copies = [tmp_path / 'test' / f'renamed{number}{extension}' for number, extension in enumerate(('.png', '.bmp', '.tif'))]
    for path, copy in zip(paths, copies, strict=False):
        Image.open(path).save(copy, **({'compress_level': 0} if copy.suffix == '.png' else {}))
    lossy = tmp_path / 'test' / 'lossy.jpg'
    Image.open(paths[3]).save(lossy, quality=70)
    assert copies[0].read_bytes() != paths[0].read_bytes()
    assert record.among([*copies, lossy]) == {str(copy): True for copy in copies}


def test_a_picture_that_was_trained_on_as_it_is_stored_is_found(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(picture(tmp_path / 'a.png', 1, (20, 40))).save(tmp_path / 'b.jpg', exif=exif)
    (tmp_path / 'renamed.jpg').write_bytes((tmp_path / 'b.jpg').read_bytes())
    record = TrainingImages.of({'mine': inspect_images([tmp_path / 'b.jpg'], ReadingOptions(upright=False))})
    assert record.among([tmp_path / 'renamed.jpg']) == {str(tmp_path / 'renamed.jpg'): True}


def test_the_same_picture_in_another_size_or_format_is_found_by_its_name(trained, tmp_path):
    paths, record = trained
    (tmp_path / 'test').mkdir()
    large, jpeg = tmp_path / 'test' / '001.png', tmp_path / 'test' / '002.JPG'
    Image.open(paths[1]).resize((320, 240), Image.Resampling.BICUBIC).save(large)
    Image.open(paths[2]).save(jpeg, quality=70)
    assert record.among([large, jpeg]) == {str(large): False, str(jpeg): False}
    with pytest.raises(DataError, match=r'x: 2 of 2 test images were trained on \(2 of them as a picture of that name and'):
        refuse_overlap(overlap(record, [large, jpeg]), 'x', 'val: overlap', 'fail')


def test_the_name_alone_proves_nothing(trained, tmp_path):
    _, record = trained
    others = [picture(tmp_path / 'another_set' / f'{number:03d}.png', 70 + number) for number in range(5)]
    assert record.among(others) == {}


def test_files_that_cannot_be_read_are_none_of_them(trained, tmp_path):
    _, record = trained
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / '001.png').write_bytes(b'')
    assert record.among([tmp_path / 'test' / '001.png', tmp_path / 'gone.png', tmp_path]) == {}


def test_it_comes_back_from_metadata_and_from_beside_the_weights(trained, tmp_path):
    paths, record = trained
    record = record.and_those_of(None, 'Qwen/base')
    record.save(tmp_path)
    read = [record_beside(tmp_path), record_in(json.loads(json.dumps({KEY: record.to_dict()})))]
    for each in read:
        assert np.array_equal(each.entries, record.entries) and each.entries.dtype == np.uint64
        assert (each.sets, each.unrecorded, list(each.among(paths))) == ({'mine': 5}, ['Qwen/base'], list(map(str, paths)))
        assert told_of(each) == '5 (5 of mine); and those of Qwen/base, which keeps no record'
    assert len(json.dumps(TrainingImages(np.arange(21000, dtype=np.uint64).reshape(-1, 3)).to_dict())) < 33 * 7000


def test_where_there_is_no_record_nothing_is_assumed(tmp_path):
    assert record_in({}) is None and record_beside(tmp_path) is None and told_of(None).startswith('unknown')
    found = overlap(None, ['a.png', 'b.png'])
    assert found.trained_on is None and overlap_told(found.plain()) == 'unknown'
    refuse_overlap(found, 'x', 'y', 'fail')


def test_a_model_trained_from_another_remembers_both(trained, tmp_path):
    paths, record = trained
    more = [picture(tmp_path / 'more' / f'm{number}.png', 30 + number) for number in range(2)]
    both = TrainingImages.of({'more': inspect_images([*more, paths[0]])}).and_those_of(record, 'first')
    assert list(both.among([*paths, *more])) == [str(path) for path in (*paths, *more)]
    assert len(both) == 7 and both.sets == {'mine': 5, 'more': 3} and both.unrecorded == []
    third = TrainingImages.of({}).and_those_of(record.and_those_of(None, 'hub'), 'second')
    assert third.unrecorded == ['hub'] and len(third) == 5


@pytest.mark.parametrize(('change', 'message'), [
    ({'entries': 'AAAA'}, 'cannot be read'), ({'count': 9}, '5 of 9 images'), ({'entries': 5}, 'cannot be read'),
    ({'format_version': 2}, 'has format 2; this version reads 1. Upgrade'), ({'entries': None}, 'cannot be read')])
def test_damaged_records_are_refused(trained, change, message):
    with pytest.raises(CheckpointError, match=f'x.safetensors: its record of training images .*{message}'):
        record_in({KEY: {**trained[1].to_dict(), **change}}, 'x.safetensors')
    with pytest.raises(CheckpointError, match='cannot be read'):
        record_in({KEY: ['nothing']}, 'x.safetensors')


def test_a_damaged_file_beside_the_weights(tmp_path):
    (tmp_path / 'pyiqa_rali_training_images.json').write_text('{')
    with pytest.raises(CheckpointError, match=r'training_images.json: cannot be read'):
        record_beside(tmp_path)


def test_tests_on_training_images_are_refused_unless_they_are_to_be_counted(trained, tmp_path):
    paths, record = trained
    new = [picture(tmp_path / 'test' / f't{number}.png', 50 + number) for number in range(3)]
    found = overlap(record, [*new, *paths])
    with pytest.raises(DataError, match=r'rali on mine: 5 of 8 test images were trained on: .*000.png.*s: overlap: count'):
        refuse_overlap(found, 'rali on mine', 'statistics: overlap', 'fail')
    refuse_overlap(found, 'rali on mine', 'statistics: overlap', 'count')
    refuse_overlap(overlap(record, new), 'rali on mine', 'statistics: overlap', 'fail')
    assert overlap_told(found.plain()) == '5 of 8: 000.png, 001.png, 002.png, 003.png, 004.png'
    assert overlap_told({'trained_on': 9, 'images': 9, 'first': ['a/x.png'], 'unrecorded': ['w']}) == (
        '9 of 9: x.png (+8 more); unknown for w, which it was trained from')


def test_an_encoder_in_the_folder_in_which_a_run_is_started(trained, tmp_path, monkeypatch):
    """Its name is no path, and the record of its run is in the folder above, or nowhere."""
    import torch
    from safetensors.torch import save_file

    from pyiqa_rali.training.rali.run_images import _record_of_start
    folder = tmp_path / 'run' / 'align'
    folder.mkdir(parents=True)
    save_file({'weight': torch.zeros(1)}, folder / 'encoder.safetensors', metadata={'image_encoder': '{}'})
    monkeypatch.chdir(folder)
    assert _record_of_start('encoder.safetensors') is None
    (tmp_path / 'run' / 'training_images.json').write_text(json.dumps(trained[1].to_dict()))
    assert _record_of_start('encoder.safetensors').to_dict() == trained[1].to_dict()
