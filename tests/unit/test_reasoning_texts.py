import json

import pytest

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import ReasoningText, join_texts, load_reasoning_texts, save_reasoning_texts


def line(image='a.png', texts=('Sharp.', 'Clear.')):
    return {'image': image, 'texts': [{'text': text, 'seed': seed, 'model': 'm'} for seed, text in enumerate(texts)]}


def write(path, *rows):
    path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding='utf-8')
    return path


def texts_of(*names):
    return {name: [ReasoningText(f'text of {name}', 0, 'm')] for name in names}


def test_what_is_saved_is_loaded(tmp_path):
    texts = {'ü.png': [ReasoningText('Scharf.\nUnd „hell“.', 3, 'model'), ReasoningText('Clear.', 4, 'model')]}
    save_reasoning_texts(tmp_path / 'texts.jsonl', texts)
    assert load_reasoning_texts(tmp_path / 'texts.jsonl') == texts
    assert len((tmp_path / 'texts.jsonl').read_text().splitlines()) == 1


@pytest.mark.parametrize('rows, message', [
    ([line(), line()], '1 images stand in it more than once: a.png'),
    ([line(texts=())], '1 images have no text: a.png'),
    ([line(texts=('Sharp.', ' \n'))], '1 images have an empty text: a.png'),
    ([line(texts=('Sharp.', 'Sharp.'))], '1 images have the same text twice: a.png'),
    (['{"image": "a.png"'], 'line 1: cannot be read'),
    ([line(), '{"image": "b.png"}'], 'line 2: cannot be read .*texts'),
    ([line(), '{"image": "b.png", "texts": [{"text": "x", "seed": "one", "model": "m"}]}'], 'line 2: cannot be read'),
    (['{"image": "b.png", "texts": [{"text": 5, "seed": 1, "model": "m"}]}'], '5 is no text'),
])
def test_lines_that_cannot_be_used(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load_reasoning_texts(write(tmp_path / 'texts.jsonl', *rows))


def test_a_missing_file(tmp_path):
    with pytest.raises(OptionError, match=r'reasoning_texts: .*gone.jsonl is not a file'):
        load_reasoning_texts(tmp_path / 'gone.jsonl')


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / 'texts.jsonl').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match='line 1: cannot be read'):
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


def test_texts_of_another_split_are_left_alone():
    assert join_texts(['/d/a.png'], texts_of('a.png', 'v.png'), ['v.png', 'a.png']) == [['text of a.png']]
