"""Every image of a run is read before its first step; what cannot be used is named all at once."""

import os

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import ReadingOptions
from pyiqa_rali.data.inspection import (
    content_digest,
    inspect_images,
    look_of,
    name_digest,
    refuse_unusable,
    sizes_told,
)


def picture(path, seed=0, size=(60, 80), scale=1):
    """A smooth random picture, which may be stored larger or smaller."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((int(size[1] * scale), int(size[0] * scale)), Image.Resampling.BICUBIC)
    image.save(path)
    return path


def test_all_is_read_and_all_failures_are_named_at_once(tmp_path):
    good = [picture(tmp_path / f'{number}.png', number) for number in range(6)]
    cut = tmp_path / 'cut.png'
    cut.write_bytes(good[0].read_bytes()[:200])
    (tmp_path / 'text.png').write_text('no picture')
    paths = [*good, cut, tmp_path / 'text.png', tmp_path / 'gone.png', tmp_path]
    found = inspect_images(paths)
    assert [image.path for image in found] == [str(path) for path in paths]
    assert [image.error == '' for image in found] == [True] * 6 + [False] * 4
    assert (found[0].height, found[0].width) == (60, 80)
    with pytest.raises(DataError) as raised:
        refuse_unusable([*found, *found], 'training images', lambda image: 'too gray' if image.path.endswith('3.png') else '')
    message = str(raised.value)
    assert message.startswith('5 of 10 training images cannot be used:\n')
    for name, why in (('3.png', 'too gray'), ('cut.png', 'truncated'), ('text.png', ''), ('gone.png', 'No such file')):
        assert any(name in line and why in line for line in message.splitlines()), (name, message)
    assert message.endswith('Fix or remove them, and their rows in the tables.')
    refuse_unusable(found[:6], 'images')


def test_many_failures_are_counted(tmp_path):
    with pytest.raises(DataError) as raised:
        refuse_unusable(inspect_images(tmp_path / f'{number}.png' for number in range(130)), 'images')
    lines = str(raised.value).splitlines()
    assert lines[0] == '130 of 130 images cannot be used:' and lines[101] == '  and 30 more' and len(lines) == 103


def test_a_pipe_is_no_image_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    assert 'pipe' in inspect_images([tmp_path / 'a.png'])[0].error


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = picture(tmp_path / 'a.png', 1)
    first = inspect_images([path])[0]
    picture(path, 2, (30, 40))
    second = inspect_images([path])[0]
    assert (second.height, second.width) == (30, 40) and first.content != second.content and first.look != second.look


def test_sizes_are_those_that_are_read(tmp_path):
    image = Image.fromarray(np.zeros((20, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / 'a.jpg', exif=exif)
    sizes = [(found.height, found.width) for upright in (True, False)
             for found in inspect_images([tmp_path / 'a.jpg'], ReadingOptions(upright=upright))]
    assert sizes == [(40, 20), (20, 40)]
    assert sizes_told(inspect_images([picture(tmp_path / f'{n}.png', 0, (20 + n, 30)) for n in range(5)])) == (
        '20 x 30, 21 x 30, 22 x 30 and 2 more')


def test_the_look_stays_when_size_and_format_change(tmp_path):
    for seed in range(20):
        original, small = inspect_images([picture(tmp_path / f'{seed}_{scale}.png', seed, scale=scale) for scale in (4, 1)])
        jpeg = tmp_path / f'{seed}.jpg'
        Image.open(original.path).save(jpeg, quality=60)
        other = inspect_images([picture(tmp_path / f'{seed}_other.png', seed + 100)])[0]
        assert (original.look ^ small.look).bit_count() <= 10
        assert (original.look ^ inspect_images([jpeg])[0].look).bit_count() <= 10
        assert (original.look ^ other.look).bit_count() > 10
    assert look_of(np.full((9, 9, 3), 7, dtype=np.uint8)) == 0


def test_digests(tmp_path):
    first, copy, other = (picture(tmp_path / name, seed) for name, seed in (('a/x.png', 1), ('b/y.png', 1), ('a/z.png', 2)))
    contents = [image.content for image in inspect_images([first, copy, other])]
    assert contents[0] == contents[1] != contents[2]
    flat = np.zeros((2, 6, 3), dtype=np.uint8)
    assert content_digest(flat) != content_digest(flat.reshape(4, 3, 3)) and content_digest(flat) < 2 ** 64
    assert name_digest('set/Images\\A0001.BMP') == name_digest('/other/a0001.png') != name_digest('a0002.png')
    assert max(*contents, name_digest(first)) < 2 ** 64
