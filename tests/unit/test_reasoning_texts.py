import json
import os
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data import reasoning_texts
from pyiqa_rali.data.reasoning_texts import ReasoningText, load_reasoning_texts, save_reasoning_texts


def line(image='a.png', texts=('Sharp.', 'Clear.')):
    return {'image': image, 'texts': [{'text': text, 'seed': seed, 'model': 'm'} for seed, text in enumerate(texts)]}


def write(path, *rows):
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding='utf-8')
    return path


def join_texts(*arguments):
    """Return the texts alone; what comes with them has a test of its own."""
    return [[item.text for item in texts] for texts in reasoning_texts.join_texts(*arguments)]


def texts_of(*names):
    return {name: [ReasoningText(f'text of {name}', 0, 'm')] for name in names}


def test_what_is_saved_is_loaded(tmp_path):
    texts = {'ü.png': [ReasoningText('Scharf.\nUnd „hell“.', 3, 'model'), ReasoningText('Clear.', 4, 'model')]}
    save_reasoning_texts(tmp_path / 'texts.jsonl', texts)
    assert load_reasoning_texts(tmp_path / 'texts.jsonl') == texts
    assert len((tmp_path / 'texts.jsonl').read_text().splitlines()) == 1


@pytest.mark.parametrize('rows, message', [
    ([line(), line()], '1 images appear in it more than once: a.png'),
    ([line(texts=())], '1 images have no text: a.png'),
    ([line(texts=('Sharp.', ' \n'))], '1 images have an empty text: a.png'),
    ([line(texts=('Sharp.', 'Sharp.'))], '1 images have the same text twice: a.png'),
    (['{"image": "a.png"'], 'line 1: cannot be read'),
    ([line(), '{"image": "b.png"}'], 'line 2: cannot be read .*texts'),
    ([line(), '{"image": "b.png", "texts": [{"text": "x", "seed": "one", "model": "m"}]}'], 'line 2: cannot be read'),
    (['{"image": "b.png", "texts": [{"text": 5, "seed": 1, "model": "m"}]}'], '5 is not a text'),
])
def test_lines_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load_reasoning_texts(write(tmp_path / 'texts.jsonl', *rows))


def test_a_missing_file(tmp_path):
    with pytest.raises(OptionError, match=r'reasoning_texts: .*gone.jsonl is not a file'):
        load_reasoning_texts(tmp_path / 'gone.jsonl')


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / 'texts.jsonl').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match='line 1: is not UTF-16 text'):
        load_reasoning_texts(tmp_path / 'texts.jsonl')


def test_texts_are_joined_by_the_end_of_the_path():
    images = ['/data/one/a.png', '/data/two/a.png', '/data/two/b.png']
    joined = join_texts(images, texts_of('two/a.png', 'b.png', 'one/a.png'))
    assert joined == [['text of one/a.png'], ['text of two/a.png'], ['text of b.png']]


@pytest.mark.parametrize('texts, message', [
    (texts_of('a.png', 'b.png'), r'1 texts name an image that fits several files: a.png'),
    (texts_of('one/a.png', 'two/a.png', 'b.png', 'two/b.png'), r'1 texts name the same image'),
    (texts_of('one/a.png', 'two/a.png', 'b.png', 'x.png', 'y.png'), r'2 texts name an image .* not in the table: x.png, y.png'),
    (texts_of('one/a.png'), r'2 training images have no text: /data/two/a.png, /data/two/b.png'),
    (texts_of('one/a.png', 'two/a.png', 'ab.png'), r'1 texts name an image that is not in the table: ab.png'),
])
def test_joins_that_fail_count_and_name(texts, message):
    with pytest.raises(DataError, match=message):
        join_texts(['/data/one/a.png', '/data/two/a.png', '/data/two/b.png'], texts)


def test_an_image_that_is_in_the_table_twice_has_its_texts_twice():
    images = ['/d/a.png', '/d/b.png', '/d/a.png']
    assert join_texts(images, texts_of('a.png', 'b.png')) == [['text of a.png'], ['text of b.png'], ['text of a.png']]
    with pytest.raises(DataError, match='1 training images have no text: /d/a.png'):
        join_texts(images, texts_of('b.png'))


def test_texts_of_another_split_are_left_alone():
    assert join_texts(['/d/a.png'], texts_of('a.png', 'v.png'), ['v.png', 'a.png']) == [['text of a.png']]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_files_of_other_tools(tmp_path, encoding):
    rows = '\r\n'.join(json.dumps(line(f'ü/{name}', ('Two\u2028lines.',)), ensure_ascii=False) for name in ('a.png', 'b.png'))
    (tmp_path / 'texts.jsonl').write_bytes(rows.encode(encoding))
    assert list(load_reasoning_texts(tmp_path / 'texts.jsonl')) == ['ü/a.png', 'ü/b.png']


def test_folders_as_windows_writes_them():
    images = ['/data/one/a.png', '/data/two/a.png']
    assert join_texts(images, texts_of('two\\a.png', 'one\\a.png')) == [['text of one\\a.png'], ['text of two\\a.png']]
    assert join_texts(images[:1], texts_of('one\\a.png', 'two\\a.png'), ['two/a.png']) == [['text of one\\a.png']]


parts = st.sampled_from(['a', 'b', 'c', 'a.png', 'b.png', 'ü ü'])
paths = st.lists(st.lists(parts, min_size=1, max_size=4).map('/'.join), min_size=1, max_size=8, unique=True)


def ends_of(path):
    """All names that a text may give to an image."""
    pieces = PurePosixPath(path).parts
    return ['/'.join(pieces[start:]) for start in range(len(pieces))]


def images_of(name, images):
    """The images that a name may mean: those that it is an end of, and of several the one that it is the whole name of."""
    fitting = [image for image in images if name in ends_of(image)]
    root = os.path.commonpath([os.path.dirname(image) for image in images])
    return [image for image in fitting if image in (name, os.path.join(root, name))] or fitting


@given(paths, st.data())
def test_each_image_gets_its_own_texts_by_any_name_that_means_it_alone(images, data):
    images = [f'root/{image}' for image in images]
    names = {image: data.draw(st.sampled_from([end for end in ends_of(image) if images_of(end, images) == [image]]))
             for image in images}  # its whole name at least
    texts = texts_of(*data.draw(st.permutations(list(names.values()))))
    assert join_texts(images, texts) == [[f'text of {names[image]}'] for image in images]


@given(paths, st.data())
def test_a_name_that_means_several_images_is_never_given_to_one(images, data):
    images = [f'root/{image}' for image in images]
    shared = sorted({end for image in images for end in ends_of(image) if len(images_of(end, images)) > 1})
    if shared:
        with pytest.raises(DataError, match='1 texts name an image that fits several files'):
            join_texts(images, texts_of(data.draw(st.sampled_from(shared)), *images))


@given(paths, paths)
def test_texts_of_no_image_are_told(images, others):
    unknown = [f'elsewhere/{name}' for name in others]
    with pytest.raises(DataError, match=f'{len(unknown)} texts name an image that is not in the table'):
        join_texts(images, texts_of(*images, *unknown))
    assert join_texts(images, texts_of(*images, *unknown), unknown) == [[f'text of {image}'] for image in images]


def test_an_image_beside_a_folder_with_one_of_its_name():
    images = ['/data/a.png', '/data/b/a.png', '/data/b/c.png']
    assert join_texts(images, texts_of('b/a.png', 'a.png', 'c.png')) == [['text of a.png'], ['text of b/a.png'],
                                                                         ['text of c.png']]


def test_a_joined_text_keeps_all_that_is_known_of_it():
    texts = {'a.png': [ReasoningText(text, seed, 'writer', [('blur', 2.5)]) for seed, text in enumerate(['Blurred.', 'Soft.'])],
             'b.png': [ReasoningText('Fine.', 9, 'other', [])]}
    assert reasoning_texts.join_texts(['/d/b.png', '/d/a.png'], texts) == [texts['b.png'], texts['a.png']]
