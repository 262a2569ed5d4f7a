import json
import os

import pytest
from PIL import Image

from pyiqa_rali.core.errors import did_you_mean, some
from pyiqa_rali.core.files import (
    atomic_folder,
    atomic_open,
    atomic_path,
    remove_leftovers,
    sha256,
    without_nan,
    write_json,
    write_picture,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(RuntimeError), atomic_open(path) as stream:
        stream.write('new')
        raise RuntimeError
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_json_is_whole(tmp_path):
    write_json(tmp_path / 'deep' / 'a.json', {'ä': 1})
    assert json.loads((tmp_path / 'deep' / 'a.json').read_text(encoding='utf-8')) == {'ä': 1}
    assert len(sha256(tmp_path / 'deep' / 'a.json')) == 64


def test_a_folder_is_whole_or_absent(tmp_path):
    path = tmp_path / 'model'
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / 'config.json').write_text('half')
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    (tmp_path / '.model.part').mkdir()
    (tmp_path / '.model.part' / 'left by a kill').write_text('')
    for content in 'one', 'two':
        with atomic_folder(path) as folder:
            assert not any(folder.iterdir())
            (folder / content).write_text('')
        assert [each.name for each in path.iterdir()] == [content] and list(tmp_path.iterdir()) == [path]


def test_json_has_null_for_what_is_no_number():
    assert without_nan({'a': (1.0, float('nan')), 'b': {'c': float('nan'), 'd': 'x'}}) == {'a': [1.0, None], 'b': {'c': None,
                                                                                                             'd': 'x'}}


def test_pictures_are_written_in_the_format_of_their_name(tmp_path):
    picture = Image.new('RGB', (20, 10), 'teal')
    for name, form in ('a.png', 'PNG'), ('b.JPG', 'JPEG'):
        write_picture(tmp_path / 'new' / name, picture)
        with Image.open(tmp_path / 'new' / name) as written:
            assert (written.format, written.size) == (form, (20, 10))
    write_picture(tmp_path / 'coarse.jpg', Image.effect_noise((64, 64), 50), quality=5)
    write_picture(tmp_path / 'fine.jpg', Image.effect_noise((64, 64), 50), quality=95)
    assert (tmp_path / 'coarse.jpg').stat().st_size < (tmp_path / 'fine.jpg').stat().st_size / 2
    assert not list(tmp_path.rglob('.*'))


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    for name in '.a.csv.123.part', 'b.part', '.hidden':
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / 'nowhere')
    assert {path.name for path in tmp_path.iterdir()} == {'b.part', '.hidden'}


def test_a_full_disk_is_named_with_the_file():
    with pytest.raises(OSError, match=r'cannot write /dev/full.*No space left'), atomic_path('/dev/full') as temporary:
        raise OSError(28, 'No space left on device', str(temporary))


def test_hints():
    assert did_you_mean('temprature', ['temperature']) == ' Did you mean "temperature"?'
    assert did_you_mean('zzz', ['temperature']) == ''
    assert some(list('abcdefg'), 3) == 'a, b, c (+4 more)' and some([]) == ''


@pytest.mark.parametrize('mask', [0o022, 0o077])
def test_others_may_read_what_they_might_read_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / 'plain').write_text('')
        with atomic_path(tmp_path / 'ours') as temporary:
            temporary.touch(mode=0o600)
        assert (tmp_path / 'ours').stat().st_mode == (tmp_path / 'plain').stat().st_mode
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
