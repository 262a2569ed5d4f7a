import os

import numpy as np
import PIL.ImageFile
import pytest
from PIL import Image

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.image_files import ImageFinder, read_image_file, read_like_pyiqa

GRADIENT = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)


def save(path, mode='RGB', **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GRADIENT).convert(mode).save(path, **options)
    return str(path)


@pytest.mark.parametrize(('name', 'mode'), [('a.png', 'RGB'), ('a.png', 'L'), ('a.png', 'RGBA'), ('a.png', 'LA'),
                                            ('a.png', 'P'), ('a.png', '1'), ('a.jpg', 'CMYK'), ('a.gif', 'P'),
                                            ('a.webp', 'RGB'), ('a.bmp', 'RGB'), ('a.tif', 'LAB')])
def test_pictures_are_read_as_pyiqas_metrics_read_a_path(tmp_path, name, mode):
    from pyiqa.utils.img_util import imread2tensor
    path = save(tmp_path / name, mode)
    expected = (imread2tensor(path, rgb=True) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(read_like_pyiqa(path), expected)


def test_16_bit_gray_keeps_its_tones_where_pillow_alone_would_clip(tmp_path):
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / 'a.png')
    assert np.array_equal(read_like_pyiqa(str(tmp_path / 'a.png')), np.repeat(GRADIENT[..., None], 3, axis=2))


@pytest.mark.parametrize('values', [GRADIENT.astype(np.float32), GRADIENT.astype(np.int32)])
def test_pixels_without_a_known_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / 'a.tif')
    with pytest.raises(DataError, match=r'32-bit pixels \(mode [IF]\) have no known range; convert the image to 8 or 16'):
        read_like_pyiqa(str(tmp_path / 'a.tif'))


def test_what_other_modules_set_for_pillow_does_not_matter(tmp_path, monkeypatch):
    """pyiqa's ava_dataset switches truncated files on for the whole process."""
    monkeypatch.setattr('PIL.ImageFile.LOAD_TRUNCATED_IMAGES', True)
    save(tmp_path / 'a.jpg', quality=95)
    cut_short(tmp_path / 'a.jpg')
    found = read_image_file(str(tmp_path / 'a.jpg'))
    assert found.pixels is None and 'truncated' in found.error.lower() and PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda path: path.write_bytes(b''), 'cannot identify image file'),
    (lambda path: path.write_text('not a picture'), 'cannot identify image file'),
    (cut_short, 'truncated'),
    (lambda path: path.unlink(), 'no such file'),
])
def test_a_file_that_cannot_be_read_says_why(tmp_path, spoil, message):
    path = tmp_path / 'a.jpg'
    save(path, quality=95)
    spoil(path)
    found = read_image_file(str(path))
    assert found.pixels is None and found.path == str(path) and '\n' not in found.error
    assert message in found.error.lower()


def test_a_picture_too_large_to_be_honest_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 200)
    assert 'decompression bomb' in read_image_file(save(tmp_path / 'a.png')).error


def test_folders_are_walked_in_order_through_links_but_not_in_circles(tmp_path):
    paths = [save(tmp_path / 'photos' / name) for name in ('b.png', 'a.JPG', 'deep/er/c.webp')]
    (tmp_path / 'photos' / 'notes.txt').write_text('no picture')
    (tmp_path / 'elsewhere').mkdir()
    linked = save(tmp_path / 'elsewhere' / 'd.png')
    (tmp_path / 'photos' / 'link').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'photos' / 'deep' / 'back').symlink_to(tmp_path / 'photos')
    finder = ImageFinder([str(tmp_path / 'photos'), linked])
    found = [os.path.relpath(path, tmp_path) for path in finder]
    assert found == ['photos/a.JPG', 'photos/b.png', 'photos/deep/er/c.webp', 'photos/link/d.png', 'elsewhere/d.png']
    assert finder.other_files == 1 and len(paths) == 3


def test_a_named_file_is_tried_whatever_its_extension(tmp_path):
    path = save(tmp_path / 'picture', format='PNG')
    assert list(ImageFinder([path])) == [path] and read_image_file(path).pixels.shape == (20, 30, 3)


def test_a_source_that_does_not_exist_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: no such file or folder'):
        ImageFinder([str(tmp_path / 'nowhere')])


def test_a_folder_that_cannot_be_listed_is_yielded_so_that_it_counts(tmp_path, monkeypatch):
    save(tmp_path / 'photos' / 'closed' / 'a.png')

    def refuse(path):
        if str(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, 'scandir', refuse)
    monkeypatch.setattr(os, 'listdir', refuse)
    found = list(ImageFinder([str(tmp_path / 'photos')]))
    assert found == [str(tmp_path / 'photos' / 'closed')]
    assert 'Permission denied' in read_image_file(found[0]).error


def test_a_link_to_itself_is_yielded_so_that_reading_tells(tmp_path):
    (tmp_path / 'loop.png').symlink_to('loop.png')
    Image.new('RGB', (8, 8)).save(tmp_path / 'ok.png')
    found = [read_image_file(path) for path in ImageFinder([str(tmp_path)])]
    assert [bool(each.error) for each in found] == [True, False]
