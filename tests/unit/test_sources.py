import io
import os
import tarfile

import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.scoring.sources import ImageSources, expand_braces


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """Empty files, for sources do not open pictures; a shard of three pictures, a text, and a picture named again."""
    monkeypatch.chdir(tmp_path)
    for name in ('a.jpg', 'b.png', 'notes.txt', 'deep/c.jpg', 'deep/er/d.JPG', 'deep/er/e.csv', 'odd[1].jpg', 'raw.dat'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    for shard in ('s-0.tar', 's-1.tar', 's-2.tgz'):
        with tarfile.open(shard, 'w:gz' if shard.endswith('gz') else 'w') as tar:
            for name in ('0.jpg', '0.json', '1.jpg', '2.jpg', '1.jpg'):
                tar.addfile(tarfile.TarInfo(name))
    return tmp_path


def names(*sources, **share):
    return [entry.name for entry in ImageSources(sources, **share)]


@pytest.mark.parametrize(('source', 'expected'), [
    ('a.jpg', ['a.jpg']), ('notes.txt', ['notes.txt']), ('deep', ['deep/c.jpg', 'deep/er/d.JPG']),
    ('*.jpg', ['a.jpg', 'odd[1].jpg']), ('*', ['a.jpg', 'b.png', 'deep/c.jpg', 'deep/er/d.JPG', 'odd[1].jpg',
                                               *(f's-{n}.{e}::{i}.jpg' for n, e in ((0, 'tar'), (1, 'tar'), (2, 'tgz'))
                                                 for i in range(3))]),
    ('**/*.[jJ][pP][gG]', ['a.jpg', 'deep/c.jpg', 'deep/er/d.JPG', 'odd[1].jpg']),
    ('deep/**', ['deep/c.jpg', 'deep/er/d.JPG']), ('**/er', ['deep/er/d.JPG']), ('*.dat', ['raw.dat']),
    ('odd[1].jpg', ['odd[1].jpg']), ('{a,odd*}.jpg', ['a.jpg', 'odd[1].jpg']),
    ('s-{0..1}.tar', [f's-{n}.tar::{i}.jpg' for n in range(2) for i in range(3)]),
])
def test_a_source_stands_for_its_images_in_order(source, expected):
    assert names(source) == expected


@pytest.mark.parametrize(('text', 'expected'), [
    ('x', ['x']), ('{08..10}', ['08', '09', '10']), ('{8..10}', ['8', '9', '10']), ('a{b,}c', ['abc', 'ac']),
    ('{0..1}{x,y}', ['0x', '0y', '1x', '1y']), ('{a..c}', ['{a..c}']), ('{}', ['{}']), ('{x', ['{x'])])
def test_braces_are_expanded_as_a_shell_does(text, expected):
    assert expand_braces(text) == expected


def test_a_file_with_braces_in_its_name_goes_first(pictures):
    (pictures / '{1..2}.jpg').write_bytes(b'')
    assert names('{1..2}.jpg') == ['{1..2}.jpg']


@pytest.mark.parametrize(('source', 'error', 'message'), [
    ('nowhere.jpg', FileNotFoundError, 'nowhere.jpg: no such file or folder'),
    ('s-{0..9}.tar', FileNotFoundError, r's-2.tar, .*\(\+3 more\): no such file or folder'),
    ('*.webp', OptionError, r'\*.webp: no file matches this pattern'),
    ('@list.txt', FileNotFoundError, '@list.txt: there is no list list.txt'),
    ('s-{3..1}.tar', OptionError, r'\{3..1\}: a range must not run backwards'),
])
def test_a_source_that_is_not_there_is_an_error_at_once(source, error, message):
    with pytest.raises(error, match=message):
        ImageSources(['a.jpg', source])


def test_a_list_names_files_shards_and_folders_and_missing_files_stay_in_it(pictures):
    (pictures / 'list.txt').write_bytes(b'b.png\r\n\ngone.jpg\ndeep\ns-0.tar\n\xe9.jpg\ngone.tar')
    found = list(ImageSources(['@list.txt']))
    assert [entry.name for entry in found] == [
        'b.png', 'gone.jpg', 'deep/c.jpg', 'deep/er/d.JPG', 's-0.tar::0.jpg', 's-0.tar::1.jpg', 's-0.tar::2.jpg',
        '\udce9.jpg', 'gone.tar']
    assert found[-1].error == 'shard damaged after 0 members: No such file or directory'


def test_a_list_comes_from_standard_input_but_not_for_several_processes(monkeypatch):
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'b.png\na.jpg\n')))
    assert names('-') == ['b.png', 'a.jpg']
    with pytest.raises(OptionError, match='-: standard input cannot be shared by several processes'):
        ImageSources(['-'], 0, 2)


def test_what_is_no_image_is_counted_and_what_is_named_again_is_left_out():
    sources = ImageSources(['*', 'deep', 's-0.tar', 'a.jpg'])
    found = [entry.name for entry in sources]
    assert len(found) == len(set(found)) == 14
    assert sources.others == {'.txt': 1, '.csv': 2, '.dat': 1, '.json': 3}  # the folder is walked twice
    assert sources.repeated == 3 + 4  # one member of each shard; two files below deep, a shard, a file


@pytest.mark.parametrize('world', [2, 3])
def test_processes_share_all_images_without_an_overlap_and_the_counts_add_up(world):
    whole = ImageSources(['*', 'deep', 'a.jpg'])
    entries = list(whole)
    shares = [ImageSources(['*', 'deep', 'a.jpg'], rank, world) for rank in range(world)]
    parts = [list(share) for share in shares]
    assert sorted((entry for part in parts for entry in part), key=lambda entry: entry.position) == entries
    assert all(parts) and all(part == sorted(part, key=lambda entry: entry.position) for part in parts)
    assert sum(share.repeated for share in shares) == whole.repeated
    assert sum((share.others for share in shares), start=type(whole.others)()) == whole.others


def test_names_that_are_not_utf_8_are_kept(pictures):
    with open(os.fsencode(pictures) + b'/deep/\xff.jpg', 'wb'):
        pass
    assert names('deep')[-1] == 'deep/\udcff.jpg'
