import gzip
import io
import itertools
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyiqa_rali.data.image_files import UnreadableImage
from pyiqa_rali.scoring import entries
from pyiqa_rali.scoring.entries import read_entry
from pyiqa_rali.scoring.shards import shard_entries


def picture(index):
    stream = io.BytesIO()
    Image.fromarray(np.full((20, 24 + index, 3), 40 * index, np.uint8)).save(stream, 'PNG')
    return stream.getvalue()


def write_shard(path, members):
    with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def error_of(entry):
    try:
        read_entry(entry)
    except UnreadableImage as error:
        assert error.path == entry.name
        return error.reason
    return ''


MEMBERS = [(f'{"long/" * 30 if index == 2 else ""}{index}.png', picture(index)) for index in range(4)]


@pytest.mark.parametrize('name', ['s.tar', 's.tgz'])
def test_images_are_read_out_of_the_shard_and_other_members_counted(tmp_path, name):
    path = write_shard(tmp_path / name, [MEMBERS[0], ('0.json', b'{}'), *MEMBERS[1:], ('readme', b'')])
    others = Counter()
    found = [(entry.name, entry.position, read_entry(entry)) for entry in shard_entries(path, 7, others)]
    assert [name for name, _, _ in found] == [f'{path}::{name}' for name, _ in MEMBERS]
    assert [position for _, position, _ in found] == [(7, 1), (7, 3), (7, 4), (7, 5)]
    for index, (_, _, pixels) in enumerate(found):
        assert pixels.shape == (20, 24 + index, 3) and (pixels == 40 * index).all()
    assert others == {'.json': 1, '': 1}


@pytest.mark.parametrize('name', ['s.tar', 's.tgz'])
def test_a_shard_cut_anywhere_gives_what_is_whole_and_says_so(tmp_path, name):
    content = Path(write_shard(tmp_path / 's.tar', MEMBERS)).read_bytes()
    last = content.rstrip(b'\0')
    whole = {f'{tmp_path / name}::{member}' for member, _ in MEMBERS}
    for end in range(0, len(last) // 512 * 512 + 512, 256):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content[:end], mtime=0) if name == 's.tgz' else content[:end])
        *images, error = shard_entries(str(path), 0, Counter())
        assert error.name == str(path) and error.error.startswith(f'shard damaged after {error.position[1] - 1} members: ')
        assert {entry.name for entry in images} <= whole
        errors = [error_of(entry) for entry in images]
        assert not any(errors[:-1])
        assert not errors or errors[-1] == '' or re.match('the shard (ends after|breaks off within this image)', errors[-1])


def test_a_header_that_is_damaged_in_the_middle_is_told(tmp_path):
    path = tmp_path / 's.tar'
    write_shard(path, MEMBERS[:2])
    content = bytearray(path.read_bytes())
    second = content.index(b'1.png')
    content[second + 100] ^= 255
    path.write_bytes(content)
    first, error = shard_entries(str(path), 0, Counter())
    assert error_of(first) == ''
    assert error.error == 'shard damaged after 1 members: a header is not readable'


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('s.tar', b'', 'empty file'), ('s.tar', b'no tar' * 200, 'truncated header|bad checksum|invalid'),
    ('s.tgz', b'no gzip', 'Not a gzipped file'), ('s.tgz', gzip.compress(b'x' * 9000, mtime=0)[:20], 'ended before'),
    ('s.tar.gz', b'\x1f\x8b\x08\0\0\0\0\0\0\x03' + b'\xff' * 99, 'invalid')])
def test_a_file_that_is_no_shard_is_told(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    error, = shard_entries(str(tmp_path / name), 0, Counter())
    assert error.error.startswith('shard damaged after 0 members: ')
    assert re.search(message, error.error)


def test_links_and_members_too_large_are_told(tmp_path, monkeypatch):
    path = tmp_path / 's.tar'
    with tarfile.open(path, 'w') as tar:
        link = tarfile.TarInfo('link.png')
        link.type, link.linkname = tarfile.SYMTYPE, '0.png'
        tar.addfile(link)
        folder = tarfile.TarInfo('folder.png')
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        info = tarfile.TarInfo('0.png')
        info.size = len(MEMBERS[0][1])
        tar.addfile(info, io.BytesIO(MEMBERS[0][1]))
    monkeypatch.setattr(entries, 'LARGEST_MEMBER', 10)
    first, second = [error_of(entry) for entry in shard_entries(str(path), 0, Counter())]
    assert 'a link or a sparse file' in first
    assert second == f'{len(MEMBERS[0][1])} bytes are too many for an image: is the shard damaged?'


def test_a_member_that_is_no_picture_says_so_without_an_address(tmp_path):
    path = write_shard(tmp_path / 's.tar', [('0.png', b'no picture')])
    entry, = shard_entries(path, 0, Counter())
    assert error_of(entry) == 'cannot identify image file'



@pytest.mark.parametrize('name', ['s.tar', 's.tgz'])
def test_shards_that_were_joined_give_all_their_images(tmp_path, name):
    first = Path(write_shard(tmp_path / 'a.tar', MEMBERS[:2])).read_bytes()
    second = Path(write_shard(tmp_path / 'b.tar', MEMBERS[2:])).read_bytes()
    for pieces in ([first, second], [first, first, second]):
        content = b''.join(pieces)
        (tmp_path / name).write_bytes(gzip.compress(content) if name == 's.tgz' else content)
        found = list(shard_entries(str(tmp_path / name), 0, Counter()))
        assert [error_of(entry) for entry in found] == [''] * (2 * len(pieces))
        widths = [read_entry(entry).shape[1] for entry in found]
        assert widths == [24, 25] * (len(pieces) - 1) + [26, 27]


def blocks_of(path):
    """Return the content of a shard and where the header of each member begins; long names take two more blocks before."""
    with tarfile.open(path) as tar:
        return bytearray(path.read_bytes()), [member.offset for member in tar]


@pytest.mark.parametrize('name', ['s.tar', 's.tgz'])
@pytest.mark.parametrize(('lost', 'size', 'fill'), [
    *((lost, *hole) for lost in range(4) for hole in ((512, b'\0'), (512, b'\xff'), (100, b'x'))),
    *((lost, 1024, b'\0') for lost in range(3))])  # a whole member; the last one could not be told from a shorter shard
def test_behind_a_damaged_header_every_other_image_is_found(tmp_path, name, lost, size, fill):
    content, offsets = blocks_of(Path(write_shard(tmp_path / 'whole.tar', MEMBERS)))
    content[offsets[lost]:offsets[lost] + size] = fill * size
    (tmp_path / name).write_bytes(gzip.compress(content) if name == 's.tgz' else content)
    *images, error = shard_entries(str(tmp_path / name), 3, Counter())
    names = [entry.name.rpartition('/')[2].rpartition('::')[2] for entry in images if not error_of(entry)]
    wanted = [f'{index}.png' for index in range(4) if index != lost]
    assert [each for each in names if each in wanted] == wanted
    assert error.name == str(tmp_path / name) and error.error.startswith(f'shard damaged after {lost} members: ')
    assert error.position > max(entry.position for entry in images)


def test_several_damaged_places_are_counted_in_one_row(tmp_path):
    members = [(f'{index}.png', picture(index)) for index in range(6)]
    content, offsets = blocks_of(Path(write_shard(tmp_path / 's.tar', members)))
    for lost in (1, 4):
        content[offsets[lost]:offsets[lost] + 512] = bytes(512)
    (tmp_path / 's.tar').write_bytes(content)
    *images, error = shard_entries(str(tmp_path / 's.tar'), 0, Counter())
    assert [entry.name[-5:] for entry in images] == ['0.png', '2.png', '3.png', '5.png']
    assert error.error == 'shard damaged after 1 members: a header is not readable (and 1 more damaged places)'


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(0, 30_000), st.integers(1, 5000), st.sampled_from([0, 255, 65]))
def test_no_hole_of_any_kind_loses_an_image_in_silence(tmp_path_factory, start, size, fill):
    path = tmp_path_factory.mktemp('shard') / 's.tar'
    content, offsets = blocks_of(Path(write_shard(path, [(f'{index}.png', noisy(index)) for index in range(6)])))
    end = start + size
    content[start:end] = bytes([fill]) * len(content[start:end])
    path.write_bytes(content)
    found = list(shard_entries(str(path), 0, Counter()))
    whole = {entry.name for entry in found if not error_of(entry)}
    touched = {index for index, (begin, after) in enumerate(zip(offsets, [*offsets[1:], len(content)], strict=True))
               if begin < end and start < after}
    assert {f'{path}::{index}.png' for index in range(6) if index not in touched} <= whole
    lost = {index for index, begin in enumerate(offsets) if start <= begin < end and start < begin + 512}
    assert not lost or any(error_of(entry) for entry in found) or (fill == 0 and whole_members(start, end, offsets))


def whole_members(start, end, offsets):
    """Whether a hole covers members from the first to the last byte, which nothing can tell from a shorter shard."""
    return any(start <= begin and after <= end for begin, after in itertools.pairwise(offsets)) or end > offsets[-1]


def noisy(index):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (36, 40 + index, 3), dtype=np.uint8)).save(stream, 'PNG')
    return stream.getvalue()


def test_a_tar_file_inside_a_shard_is_a_member_and_no_part_of_it(tmp_path):
    inner = Path(write_shard(tmp_path / 'inner.tar', MEMBERS[:1])).read_bytes()
    path = write_shard(tmp_path / 's.tar', [('inner.tar', inner), MEMBERS[1]])
    others = Counter()
    found = list(shard_entries(path, 0, others))
    assert [entry.name for entry in found] == [f'{path}::1.png'] and others == {'.tar': 1}


def test_zeros_that_may_be_a_hole_or_a_short_end_mark_are_told_and_every_image_is_found(tmp_path):
    content, offsets = blocks_of(Path(write_shard(tmp_path / 's.tar', MEMBERS[:2])))
    end = offsets[1] + 1024  # of the data of a small picture
    second = Path(write_shard(tmp_path / 'b.tar', MEMBERS[2:])).read_bytes()
    (tmp_path / 's.tar').write_bytes(content[:end] + bytes(1024) + second)
    *images, error = shard_entries(str(tmp_path / 's.tar'), 0, Counter())
    assert [read_entry(entry).shape[1] for entry in images] == [24, 25, 26, 27]
    assert error.error == 'shard damaged after 2 members: zeros in the middle: shards that were joined, or a hole'


def test_an_image_within_which_a_compressed_shard_breaks_off_has_a_row(tmp_path):
    noise = [np.random.default_rng(value).integers(0, 255, 3000, np.uint8).tobytes() for value in range(3)]
    write_shard(tmp_path / 's.tar', [(f'{place}.png', content) for place, content in enumerate(noise)])
    packed = gzip.compress((tmp_path / 's.tar').read_bytes(), mtime=0)
    (tmp_path / 's.tgz').write_bytes(packed[:len(packed) // 2])
    found = list(shard_entries(str(tmp_path / 's.tgz'), 0, Counter()))
    assert [entry.name.rpartition('::')[2] for entry in found] == ['0.png', '1.png', str(tmp_path / 's.tgz')]
    assert found[0].content == noise[0] and not found[0].error
    assert found[1].error.startswith('the shard breaks off within this image: Compressed file ended before')
    assert found[2].error.startswith('shard damaged after 2 members: Compressed file ended before')
