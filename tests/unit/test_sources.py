import glob
import io
import itertools
import math
import os
import tarfile
import threading

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.scoring.lists import listed_paths
from pyiqa_rali.scoring.sources import ImageSources, expand_braces

MEMBERS = ('0.jpg', '1.jpg', '2.jpg', '1.jpg::2')  # of each shard: two have one name


@pytest.fixture(autouse=True)
def pictures(tmp_path, monkeypatch):
    """Empty files, for sources do not open pictures; shards of four pictures, two of one name, and a text."""
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
                                               *(f's-{n}.{e}::{i}' for n, e in ((0, 'tar'), (1, 'tar'), (2, 'tgz'))
                                                 for i in MEMBERS)]),
    ('**/*.[jJ][pP][gG]', ['a.jpg', 'deep/c.jpg', 'deep/er/d.JPG', 'odd[1].jpg']),
    ('deep/**', ['deep/c.jpg', 'deep/er/d.JPG']), ('**/er', ['deep/er/d.JPG']), ('*.dat', ['raw.dat']),
    ('odd[1].jpg', ['odd[1].jpg']), ('{a,odd*}.jpg', ['a.jpg', 'odd[1].jpg']),
    ('s-{0..1}.tar', [f's-{n}.tar::{i}' for n in range(2) for i in MEMBERS]),
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
    ('*.webp', OptionError, r'\*.webp: no file matches this pattern'),
    ('@list.txt', FileNotFoundError, '@list.txt: there is no list list.txt'),
    ('s-{3..1}.tar', OptionError, r'\{3..1\}: a range must not run backwards'),
])
def test_a_source_that_is_not_there_is_an_error_at_once(source, error, message):
    with pytest.raises(error, match=message):
        ImageSources(['a.jpg', source])


@pytest.mark.parametrize(('source', 'message'), [
    ('nowhere.jpg', 'nowhere.jpg: no such file or folder'),
    ('s-{2..9}.tar', r's-2.tar, .*\(\+11 more\): no such file or folder')])
def test_where_nothing_is_there_that_was_named_is_an_error_at_once(source, message):
    with pytest.raises(FileNotFoundError, match=message):
        ImageSources([source, source])


def test_what_is_missing_beside_others_stays_among_them():
    assert names('gone.jpg', 'a.jpg', 'nowhere', 's-{0,7}.tar') == [
        'gone.jpg', 'a.jpg', 'nowhere', *(f's-0.tar::{name}' for name in MEMBERS), 's-7.tar']


def test_a_list_names_files_shards_and_folders_and_missing_files_stay_in_it(pictures):
    (pictures / 'list.txt').write_bytes(b'b.png\r\n\ngone.jpg\ndeep\ns-0.tar\n\xe9.jpg\ngone.tar')
    found = list(ImageSources(['@list.txt']))
    assert [entry.name for entry in found] == [
        'b.png', 'gone.jpg', 'deep/c.jpg', 'deep/er/d.JPG', *(f's-0.tar::{name}' for name in MEMBERS), '\udce9.jpg', 'gone.tar']
    assert found[-1].error == 'shard damaged after 0 members: No such file or directory'


def test_a_list_comes_from_standard_input(monkeypatch):
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'b.png\na.jpg\n')))
    assert names('-') == ['b.png', 'a.jpg']


def test_what_is_no_image_is_counted_and_what_is_named_again_is_left_out():
    sources = ImageSources(['*', 'deep', 's-0.tar', 'a.jpg'])
    found = [entry.name for entry in sources]
    assert len(found) == len(set(found)) == 17
    assert sources.others == {'.txt': 1, '.csv': 2, '.dat': 1, '.json': 3}  # the folder is walked twice
    assert sources.repeated == 4  # two files below deep, a shard, a file


def test_files_are_named_before_they_are_opened_and_an_equal_object_opens_them():
    sources, elsewhere = ImageSources(['deep', 's-*.tar', 'a.jpg', 'a.jpg']), ImageSources(['deep', 's-*.tar', 'a.jpg'])
    files = list(sources.files())
    assert [file.path for file in files] == ['deep/c.jpg', 'deep/er/d.JPG', 's-0.tar', 's-1.tar', 'a.jpg']
    assert [file.path for file in files if file.holds_several] == ['s-0.tar', 's-1.tar'] and sources.repeated == 1
    assert [entry for file in files for entry in elsewhere.images_of(file)] == list(ImageSources(['deep', 's-*.tar', 'a.jpg']))
    assert elsewhere.others == {'.json': 2}


def test_names_that_are_not_utf_8_are_kept(pictures):
    with open(os.fsencode(pictures) + b'/deep/\xff.jpg', 'wb'):
        pass
    assert names('deep')[-1] == 'deep/\udcff.jpg'


LINES = ['b.png', 'deep\\c.jpg', 'deep/er/d.JPG', 'odd[1].jpg', 'deep', 'gone.jpg', 'C:\\gone.png']
READ = ['b.png', 'deep/c.jpg', 'deep/er/d.JPG', 'odd[1].jpg', 'deep/c.jpg', 'deep/er/d.JPG', 'gone.jpg', 'C:\\gone.png']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be', 'utf-32'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('quote', ['', '"', "'"])
def test_lists_of_other_tools_are_read(pictures, encoding, end, quote):
    text = end.join(f'{quote}{line}{quote}' for line in [*LINES, 'mit Umlaut ä.jpg'])
    (pictures / 'mit Umlaut ä.jpg').write_bytes(b'')
    mark = '\ufeff' if encoding == 'utf-16-be' else ''
    (pictures / 'list.txt').write_bytes((mark + text).encode(encoding))
    found = list(listed_images(pictures / 'list.txt'))
    expected = [*dict.fromkeys(READ), 'mit Umlaut ä.jpg']
    assert found == [f'{quote}{name}{quote}' if quote and 'gone' in name else name for name in expected]


def listed_images(path):
    return [entry.name for entry in ImageSources([f'@{path}'])]


def test_a_path_that_exists_as_it_is_written_is_meant_so(pictures):
    odd = ['"a".jpg', 'back\\slash.png', ' spaces .jpg', '"quoted".tar']
    for name in odd[:3]:
        (pictures / name).write_bytes(b'')
    (pictures / 'back').mkdir()
    (pictures / 'back' / 'slash.png').write_bytes(b'')
    (pictures / 'list.txt').write_text('\n'.join([*odd[:3], 'b.png  ', '"say ""a"" again.jpg"']))
    (pictures / 'say "a" again.jpg').write_bytes(b'')
    assert listed_images(pictures / 'list.txt') == [*odd[:3], 'b.png', 'say "a" again.jpg']


@pytest.mark.parametrize(('content', 'message'), [
    (b'a.jpg\0b.png\0', 'list.txt, line 1: holds zero bytes: .*find without -print0'),
    ('a.jpg\nb.png\n'.encode('utf-16-le'), 'list.txt, line 1: holds zero bytes: .*UTF-16 with a byte-order mark'),
    (b'a.jpg\nb.png\rdeep\r', 'list.txt, line 2: there is a carriage return within the line'),
    (b'PK\x03\x04...', 'list.txt: is a spreadsheet file and not a list'),
    (b'\xff\xfea\0\n\0\x00\xd8', 'list.txt, line 2: is not UTF-16 text, which its byte-order mark promises')])
def test_a_list_that_is_none_is_refused_with_file_and_line(pictures, content, message):
    (pictures / 'list.txt').write_bytes(content)
    with pytest.raises(DataError, match=message):
        listed_images('list.txt')


def test_a_list_comes_from_a_pipe_as_it_is_written(pictures):
    read, write = os.pipe()
    lines = listed_paths(os.fdopen(read, 'rb', buffering=0), 'pipe')
    os.write(write, b'a.jpg\n')
    assert next(lines) == 'a.jpg'  # although the list is not at its end
    os.write(write, b'b.png\n')
    os.close(write)
    assert list(lines) == ['b.png']


def test_a_list_may_be_a_named_pipe_as_a_shell_makes_them(pictures):
    os.mkfifo('list')
    writer = threading.Thread(target=lambda: (pictures / 'list').write_text('a.jpg\nb.png\n'))
    writer.start()
    assert names('@list') == ['a.jpg', 'b.png']
    writer.join()


@pytest.mark.parametrize(('sources', 'expected'), [
    (['none'], ['none']), (['deep', 'none', 'none'], ['none']), (['@empty.txt'], ['empty.txt']), (['@list.txt'], ['none']),
    (['*.csv'], []), (['*.xyz'], ['*.xyz']), (['no.tar', 'a.jpg'], ['no.tar']), (['no.tgz'], ['no.tgz']),
    (['none*'], ['none*']), (['*'], ['no.tar', 'no.tgz', 'zeros.tar']),
    (['deep', 'deep/*', 'a.jpg', 'a.jpg'], []), (['zeros.tar'], ['zeros.tar'])])
def test_folders_lists_globs_and_shards_without_an_image_are_told(pictures, sources, expected):
    (pictures / 'none').mkdir()
    for name, content in (('none/notes.txt', b''), ('empty.txt', b'\n\n'), ('list.txt', b'a.jpg\nnone\n'), ('a.csv', b''),
                          ('.xyz', b''), ('x.xyz.txt', b''), ('zeros.tar', bytes(10240))):
        (pictures / name).write_bytes(content)
    (pictures / 'b.xyz').mkdir()
    for name in ('no.tar', 'no.tgz'):
        with tarfile.open(name, 'w:gz' if name.endswith('gz') else 'w') as tar:
            tar.addfile(tarfile.TarInfo('0.json'))
    found = ImageSources(sources)
    list(found)
    assert sorted(found.empty) == sorted(expected)


def test_a_glob_on_other_files_alone_is_empty(pictures):
    sources = ImageSources(['n*.*'])
    assert list(sources) == [] and sources.empty == ['n*.*'] and sources.others == {'.txt': 1}


def test_a_named_pipe_that_is_called_a_shard_does_not_stop_the_run(pictures):
    os.mkfifo('pipe.tar')
    entry, = ImageSources(['pipe.tar'])
    assert entry.error == 'shard damaged after 0 members: it is a named pipe and not a file'


LITERALS = st.text(st.characters(codec='utf-8', exclude_characters='{},./\0*?[]@-\n', exclude_categories=['Cs']), max_size=6)
RANGES = st.tuples(st.integers(0, 300), st.integers(0, 40), st.integers(0, 5)).map(
    lambda each: (str(each[0]).zfill(each[2]), str(each[0] + each[1])))


def rendered(part):
    if isinstance(part, str):
        return part
    return f'{{{"..".join(part)}}}' if isinstance(part, tuple) else f'{{{",".join(part)}}}'


def meaning(part):
    if isinstance(part, str):
        return [part]
    if isinstance(part, list):
        return part
    first, last = part
    padded = first.startswith('0') or last.startswith('0')
    return [str(number).zfill(max(map(len, part)) if padded else 0) for number in range(int(first), int(last) + 1)]


@given(st.lists(st.one_of(LITERALS, RANGES, st.lists(LITERALS, min_size=2, max_size=4)), max_size=5))
def test_braces_stand_for_every_combination_in_order(parts):
    choices = [meaning(part) for part in parts]
    text = ''.join(map(rendered, parts))
    assume(math.prod(map(len, choices)) <= 3000 and not os.path.exists(text))
    assert expand_braces(text) == [''.join(chosen) for chosen in itertools.product(*choices)]


@given(st.text('{}.,0123456789ab-', max_size=20))
def test_braces_of_any_kind_never_end_in_another_error(text):
    try:
        found = expand_braces(text)
    except OptionError:
        return
    assert found and (found == [text] or '{' in text)


@pytest.mark.parametrize('text', ['{0..99999999999999999999}', '{0..999}{0..999}{0..999}', '{0..1000000}'])
def test_braces_that_stand_for_too_much_are_refused_at_once(text):
    with pytest.raises(OptionError, match='more than 1000000 n.* Give a list instead'):
        expand_braces(text)


FILES = st.sets(st.lists(st.sampled_from(['a', 'b c', 'ä', '{1,2}', '[x]', '@l']), min_size=1, max_size=3).map(
    lambda parts: '/'.join(parts) + '.jpg'), min_size=1, max_size=8)


@given(FILES, st.data())
def test_every_way_of_naming_files_gives_each_of_them_once(tmp_path_factory, files, data):
    root = tmp_path_factory.mktemp('files')
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')
    paths = {str(root / name) for name in files}
    listed = root / 'list.txt'
    listed.write_text('\n'.join(sorted(paths)))
    ways = [[str(root)], [f'@{listed}'], sorted(paths), [f'{glob.escape(str(root))}/**']]
    sources = [word for way in data.draw(st.lists(st.sampled_from(ways), min_size=1, max_size=3)) for word in way]
    listing = ImageSources(sources)
    found = list(listing)
    assert sorted(entry.name for entry in found) == sorted(paths) and not any(entry.error for entry in found)
    assert len({entry.position for entry in found}) == len(found) and not listing.empty
