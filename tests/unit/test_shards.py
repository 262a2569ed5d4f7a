import gzip
import io
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
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
        assert not errors or errors[-1] == '' or 'the shard ends after ' in errors[-1]


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
