"""One reader of pictures: its rule for every kind of pixel, and a reason for every file that it cannot read."""

import io
import os
import pickle
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import PIL.ImageFile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data import decoding, image_files, image_formats
from pyiqa_rali.data.image_files import ReadingOptions, UnreadableImage, read_rgb, read_size
from pyiqa_rali.data.image_finder import ImageFinder
from pyiqa_rali.data.image_formats import EXTRA, image_extensions
from tests.raw_files import dng

GRADIENT = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)
RGB = np.repeat(GRADIENT[..., None], 3, axis=2)
HIDDEN = {'black': 0, 'noise': np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8), 'white': 255}


def save(path, mode='RGB', **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GRADIENT).convert(mode).save(path, **options)
    return str(path)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def reason(source, *options, **names):
    with pytest.raises(UnreadableImage) as caught:
        read_rgb(source, *options, **names)
    assert '\n' not in str(caught.value) and str(caught.value).startswith(names.get('name', str(caught.value.path)))
    return caught.value.reason


@pytest.mark.parametrize(('name', 'mode'), [('a.png', 'RGB'), ('a.png', 'L'), ('a.png', 'RGBA'), ('a.png', 'LA'),
                                            ('a.png', 'P'), ('a.png', '1'), ('a.jpg', 'CMYK'), ('a.gif', 'P'), ('a.mpo', 'RGB'),
                                            ('a.webp', 'RGB'), ('a.bmp', 'RGB'), ('a.tif', 'LAB'), ('a.tif', 'YCbCr')])
def test_opaque_8_bit_pictures_are_read_as_pyiqas_metrics_read_a_path(tmp_path, monkeypatch, name, mode):
    from pyiqa.utils.img_util import imread2tensor
    monkeypatch.setattr('PIL.ImageFile.LOAD_TRUNCATED_IMAGES', False)  # pyiqa.data, which other tests import, switches it on
    path = save(tmp_path / name, mode)
    if mode == 'YCbCr' and int(PIL.__version__.split('.')[0]) < 13:  # Pillow cannot read the YCbCr TIFF that it has written
        with pytest.raises(OSError, match='truncated'):
            imread2tensor(path, rgb=True)
        assert 'truncated' in reason(path)
        return
    expected = (imread2tensor(path, rgb=True) * 255).round().byte().permute(1, 2, 0).numpy()
    found = read_rgb(path)
    assert np.array_equal(found, expected) and found.flags.writeable and read_size(path) == (20, 30)
    with open(path, 'rb') as stream:
        assert np.array_equal(read_rgb(stream.read(), name=name), expected)


def transparent(mode, hidden):
    """Return a picture whose left half is transparent and hides something."""
    gray = GRADIENT.copy()
    gray[:, :15] = hidden[:, :15] if isinstance(hidden, np.ndarray) else hidden
    alpha = np.full(gray.shape, 255, np.uint8)
    alpha[:, :15] = 0
    return Image.fromarray(np.dstack([gray] * (1 if mode == 'LA' else 3) + [alpha]), mode)


@pytest.mark.parametrize('hidden', HIDDEN)
@pytest.mark.parametrize(('mode', 'kind'), [('RGBA', 'PNG'), ('LA', 'PNG'), ('RGBA', 'WEBP'), ('RGBA', 'TIFF'), ('RGBA', 'TGA'),
                                            ('RGBA', 'ICO')])
def test_hidden_pixels_never_decide(mode, kind, hidden):
    options = {'lossless': True, 'exact': True} if kind == 'WEBP' else {'sizes': [(30, 20)]} if kind == 'ICO' else {}
    found = read_rgb(encoded(transparent(mode, HIDDEN[hidden]), kind, **options))
    expected = RGB.copy()
    expected[:, :15] = 255
    assert np.array_equal(found, expected)


def test_half_transparent_pixels_let_white_through():
    image = Image.fromarray(np.dstack([RGB, np.full((20, 30), 128, np.uint8)]), 'RGBA')
    assert np.abs(read_rgb(encoded(image, 'PNG')).astype(int) - (255 + RGB.astype(int)) / 2).max() <= 1


def test_colours_that_stand_for_transparency_become_white():
    key = int(GRADIENT[4, 5])
    expected = np.where(key == GRADIENT, 255, GRADIENT)
    for image, value in ((Image.fromarray(GRADIENT), key), (Image.fromarray(RGB), (key,) * 3),
                         (Image.fromarray(GRADIENT.astype(np.uint16) * 257), key * 257)):
        assert np.array_equal(read_rgb(encoded(image, 'PNG', transparency=value))[..., 0], expected), image.mode
    palette = Image.fromarray(GRADIENT).convert('P')
    for kind, value in (('PNG', key), ('PNG', bytes(0 if each == key else 255 for each in range(256))), ('GIF', key)):
        assert np.array_equal(read_rgb(encoded(palette, kind, transparency=value))[..., 0], expected), value


def png(bit_depth, colour_type, rows, *chunks):
    """Return a PNG of which Pillow cannot write the kind."""
    def chunk(name, content):
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    height, width = rows.shape[:2]
    data = b''.join(b'\0' + row.astype('>u2').tobytes() for row in rows)
    header = struct.pack('>IIBBBBB', width, height, bit_depth, colour_type, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + b''.join(chunk(*each) for each in chunks) + \
        chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b'')


def test_16_bit_colour_and_its_transparency():
    colour = RGB.astype(np.uint16) * 257
    assert np.array_equal(read_rgb(png(16, 2, colour)), RGB)
    key = int(GRADIENT[4, 5]) * 257
    found = read_rgb(png(16, 2, colour, (b'tRNS', struct.pack('>HHH', key, key, key))))
    assert np.array_equal(found[..., 0], np.where(key // 257 == GRADIENT, 255, GRADIENT))
    alpha = np.where(np.arange(30) < 15, 0, 65535) * np.ones((20, 1))
    found = read_rgb(png(16, 6, np.dstack([colour, alpha])))
    assert (found[:, :15] == 255).all() and np.array_equal(found[:, 15:], RGB[:, 15:])


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM', 'JPEG2000', 'JXL'])
def test_16_bit_gray_keeps_its_tones_where_pillow_alone_would_clip(kind):
    if kind == 'JXL':
        image_formats.decoders(with_extra=True)
    options = {'lossless': True} if kind == 'JXL' else {'irreversible': False} if kind == 'JPEG2000' else {}
    assert np.array_equal(read_rgb(encoded(Image.fromarray(GRADIENT.astype(np.uint16) * 257), kind, **options)), RGB)


def tiff(values, bits, photometric=1, big_endian=False):
    """Return an uncompressed gray TIFF; 12 bits are packed."""
    height, width = values.shape
    order = '>' if big_endian else '<'
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        data = b''.join(bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255]) for first, second in pairs)
    else:
        data = values.astype(f'{order}u2').tobytes()
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1),
            (278, 3, height), (279, 4, len(data))]
    entries = b''.join(struct.pack(f'{order}HHI{"HH" if kind == 3 else "I"}', tag, kind, 1, value, *[0] * (kind == 3))
                       for tag, kind, value in tags)
    data += b'\0' * (len(data) % 2)
    return (b'MM\0*' if big_endian else b'II*\0') + struct.pack(f'{order}I', 8 + len(data)) + data + \
        struct.pack(f'{order}H', len(tags)) + entries + bytes(4)


@pytest.mark.parametrize('big_endian', [False, True])
def test_tiffs_of_12_bits_and_with_white_as_zero(big_endian):
    sixteen = GRADIENT.astype(np.uint16) * 257
    assert np.array_equal(read_rgb(tiff(sixteen, 16, big_endian=big_endian)), RGB)
    if not big_endian:
        assert np.array_equal(read_rgb(tiff(np.rint(GRADIENT / 255 * 4095), 12)), RGB)
        assert np.array_equal(read_rgb(tiff(65535 - sixteen, 16, photometric=0)), RGB)


@pytest.mark.parametrize(('values', 'kind', 'message'), [
    (GRADIENT.astype(np.float32) / 255, 'TIFF', 'floating-point pixels have no known range; convert it to 8 or 16 bits'),
    (GRADIENT.astype(np.int32), 'TIFF', '32-bit pixels of TIFF have no known range; convert it to PNG of 8 or 16 bits'),
    (GRADIENT.astype(np.float32), 'PPM', 'floating-point pixels have no known range')])
def test_pixels_without_a_known_range_are_refused(values, kind, message):
    assert message in reason(encoded(Image.fromarray(values), kind))


TURNED = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
          6: RGB.transpose(1, 0, 2)[:, ::-1], 7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: RGB.transpose(1, 0, 2)[::-1]}


@pytest.mark.parametrize('orientation', [*TURNED, 0, 9])
@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'TIFF'])
def test_pictures_are_turned_upright_as_exif_says_unless_that_is_switched_off(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'lossless': True} if kind == 'WEBP' else {}
    content = encoded(Image.fromarray(RGB), kind, exif=exif, **options)
    upright = TURNED.get(orientation, RGB)
    assert np.array_equal(read_rgb(content), upright) and read_size(content) == upright.shape[:2]
    stored = upright if kind == 'TIFF' else RGB  # Pillow's own doing
    assert np.array_equal(read_rgb(content, ReadingOptions(upright=False)), stored)
    if kind != 'TIFF':
        assert read_size(content, ReadingOptions(upright=False)) == (20, 30)


def test_a_damaged_exif_block_does_not_cost_the_picture():
    content = encoded(Image.fromarray(RGB), 'JPEG', exif=b'Exif\0\0II*\0\xff\xff\xff\xff' + b'\xff' * 40, quality=95)
    assert read_rgb(content).shape == (20, 30, 3)


def test_the_first_picture_of_several_is_read(tmp_path):
    frames = [Image.fromarray(GRADIENT), Image.fromarray(255 - GRADIENT)]
    for kind in ('GIF', 'TIFF', 'PNG', 'WEBP'):
        options = {'lossless': True} if kind == 'WEBP' else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(read_rgb(content), RGB), kind


def test_what_other_modules_set_for_pillow_does_not_matter(tmp_path, monkeypatch):
    """pyiqa's ava_dataset switches truncated files on for the whole process."""
    monkeypatch.setattr('PIL.ImageFile.LOAD_TRUNCATED_IMAGES', True)
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 7)
    save(tmp_path / 'a.jpg', quality=95)
    assert read_rgb(str(tmp_path / 'a.jpg')).shape == (20, 30, 3)
    cut_short(tmp_path / 'a.jpg')
    assert 'truncated' in reason(str(tmp_path / 'a.jpg'))
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True and Image.MAX_IMAGE_PIXELS == 7


def test_threads_leave_the_settings_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr('PIL.ImageFile.LOAD_TRUNCATED_IMAGES', True)
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    save(tmp_path / 'a.jpg', quality=95)
    cut_short(tmp_path / 'a.jpg')
    unread = []

    def work():
        for _ in range(30):
            try:
                read_rgb(str(tmp_path / 'a.jpg'))
            except UnreadableImage:
                unread.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(unread) == 240
    assert (PIL.ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, warnings.filters) == (True, limit, filters)


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[:-40])


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda path: path.write_bytes(b''), 'the file is empty'),
    (lambda path: path.write_bytes(bytes(5000)), 'it holds zeros only: a download that was not finished?'),
    (lambda path: path.write_text('not a picture'), 'cannot identify image file'),
    (lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0'), 'a Git LFS pointer'),
    (lambda path: path.write_text('\n <!DOCTYPE html><html>404'), 'it holds a web page and not a picture'),
    (lambda path: path.write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'), 'vector graphics have no pixels'),
    (cut_short, 'image file is truncated'),
    (lambda path: path.unlink(), 'No such file or directory'),
    (lambda path: (path.unlink(), path.mkdir()), 'it is a folder'),
    (lambda path: (path.unlink(), os.mkfifo(path)), 'it is a named pipe and not a file'),
    (lambda path: (path.unlink(), path.symlink_to('/dev/zero')), 'it is a device and not a file'),
    (lambda path: (path.unlink(), socket.socket(socket.AF_UNIX).bind(str(path))), 'it is a socket and not a file'),
    (lambda path: (path.unlink(), path.symlink_to(path.name)), 'symbolic links'),
])
def test_a_file_that_cannot_be_read_says_why(tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    path = tmp_path / 'a.jpg'
    save(path, quality=95)
    spoil(path)
    assert message in reason(str(path)) and str(path) not in reason(str(path))
    with pytest.raises(UnreadableImage, match='a.jpg: cannot be read as an image') as caught:
        read_size(path) if message != 'image file is truncated' else read_rgb(path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


class Panic(BaseException):
    """As the panic of a decoder that is written in Rust."""


@pytest.mark.parametrize(('error', 'message'), [
    (MemoryError(), 'there is not enough memory to decode it'), (struct.error('unpack needs'), 'error: unpack needs'),
    (Panic('index out of bounds\nbacktrace'), 'Panic: index out of bounds'), (KeyError('x'), "KeyError: 'x'"),
    (RecursionError(), 'RecursionError: RecursionError'), (OSError('broken data stream\nmore'), 'broken data stream'),
    (Warning('odd'), 'Warning: odd'), (PermissionError(13, 'Permission denied', '/a.png'), 'Permission denied'),
    (SyntaxError('broken PNG file'), 'broken PNG file')])
def test_whatever_a_decoder_raises_becomes_a_reason(tmp_path, monkeypatch, error, message):
    path = save(tmp_path / 'a.png')

    def fail(*arguments):
        raise error

    monkeypatch.setattr(PIL.ImageFile.ImageFile, 'load', fail)
    assert reason(path) == message


def test_interruptions_are_no_fault_of_a_picture(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.png')

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(PIL.ImageFile.ImageFile, 'load', stop)
    with pytest.raises(KeyboardInterrupt):
        read_rgb(path)


def test_warnings_as_errors_change_no_picture(tmp_path):
    content = encoded(Image.fromarray(GRADIENT).convert('P'), 'PNG', transparency=bytes([0] * 9 + [255] * 247))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = read_rgb(content, ReadingOptions(pixel_limit=700))  # above half of it, where Pillow warns
    assert np.array_equal(found, read_rgb(content))


def zeroed(content, count):
    """Return a file whose last bytes were never written."""
    return content[:-count] + bytes(count)


PHOTO = np.asarray(Image.effect_noise((96, 64), 60))


@pytest.mark.parametrize(('kind', 'options'), [('PNG', {}), ('PNG', {'compress_level': 0}), ('JPEG', {}),
                                               ('JPEG', {'progressive': True}), ('JPEG', {'optimize': True})])
def test_pictures_whose_end_was_overwritten_with_zeros_are_refused(kind, options):
    whole = encoded(Image.fromarray(PHOTO), kind, **options)
    decoded_by_pillow = 0
    for count in range(1, len(whole) // 2, max(1, len(whole) // 60)):
        content = zeroed(whole, count)
        try:
            Image.open(io.BytesIO(content)).load()
            decoded_by_pillow += 1
        except (OSError, SyntaxError):
            pass
        if kind == 'PNG' and count <= 4:  # the checksum of the end itself
            assert np.array_equal(read_rgb(content), read_rgb(whole))
        else:
            assert re.search('damaged|truncated|broken', reason(content)), count
    assert decoded_by_pillow or kind == 'JPEG'


def test_a_jpeg_with_zeros_that_pillow_takes_for_pixels_is_refused():
    whole = encoded(Image.fromarray(GRADIENT).resize((256, 256)), 'JPEG')
    content = zeroed(whole, 40) + bytes(4000)
    Image.open(io.BytesIO(content)).load()
    assert reason(content) == 'damaged JPEG file: its end is missing; a copy or a download that was not finished?'


def test_a_png_with_wrong_or_missing_parts_says_which():
    whole = encoded(Image.fromarray(PHOTO), 'PNG', compress_level=0)
    place = whole.index(b'IEND') - 8  # the checksum before the length and the name of the last chunk
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:]
    Image.open(io.BytesIO(changed)).load()
    assert reason(changed).startswith('damaged PNG file: a checksum of its pixels is wrong;')
    Image.open(io.BytesIO(whole[:-12])).load()
    assert reason(whole[:-12]).startswith('damaged PNG file: its end is missing;')


@pytest.mark.parametrize('tail', [bytes(700), b'no part of the picture', b'\xff\xd8\xff\xe0' + bytes(9)])
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'MPO'])
def test_what_follows_a_picture_does_not_matter(kind, tail):
    whole = encoded(Image.fromarray(PHOTO), kind)
    assert np.array_equal(read_rgb(whole + tail), read_rgb(whole))


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_picture():
    thumbnail = encoded(Image.fromarray(GRADIENT), 'JPEG')
    exif = b'Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0' + thumbnail
    whole = encoded(Image.fromarray(GRADIENT).resize((256, 256)), 'JPEG', exif=exif)
    assert read_rgb(whole).shape == (256, 256, 3) and whole.count(b'\xff\xd9') == 2
    assert 'its end is missing' in reason(zeroed(whole, 40) + bytes(4000))


def test_no_picture_that_comes_with_scikit_image_is_taken_for_damaged():
    import skimage.data
    found = [path for path in ImageFinder([os.path.dirname(skimage.data.__file__)]) if path.endswith(('.png', '.jpg'))]
    assert len(found) >= 10 and all(read_rgb(path).size for path in found)


def test_a_picture_above_the_limit_is_not_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.png')
    assert read_rgb(path, ReadingOptions(pixel_limit=600)).shape == (20, 30, 3)
    monkeypatch.setattr(PIL.ImageFile.ImageFile, 'load', lambda self: pytest.fail('decoded'))
    assert reason(path, ReadingOptions(pixel_limit=599)) == (
        'its 600 pixels are more than the limit; raise --pixel-limit (pixel_limit in option files and create_metric), '
        'or make it smaller')
    with pytest.raises(UnreadableImage, match='its 600 pixels'):
        read_size(path, ReadingOptions(pixel_limit=599))


def test_pictures_that_pillow_calls_bombs_are_read_up_to_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    content = encoded(Image.fromarray(RGB), 'PNG')
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(content))
    assert np.array_equal(read_rgb(content), RGB)


def test_a_bomb_inside_a_small_picture_is_refused():
    inner = encoded(Image.new('RGB', (300, 300)), 'PNG')
    icon = struct.pack('<HHH', 0, 1, 1) + struct.pack('<BBBBHHII', 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert 'its 90000 pixels are more than the limit' in reason(icon, ReadingOptions(pixel_limit=1000))


@pytest.mark.parametrize('values', [{'pixel_limit': 0}, {'pixel_limit': '9'}, {'pixel_limit': True}, {'upright': 1}])
def test_options_that_cannot_be_used(values):
    with pytest.raises(OptionError, match=next(iter(values))):
        ReadingOptions(**values)


@pytest.fixture
def without_extra(monkeypatch):
    """The decoders of an installation without the extra `formats`, whatever is installed here."""
    import_module = image_formats.importlib.import_module

    def only_plain(name):
        if name in ('pillow_heif', 'pillow_jxl', 'rawpy'):
            raise ImportError(name)
        return import_module(name)

    for name in ('HEIF', 'JXL'):
        monkeypatch.delitem(Image.OPEN, name, raising=False)
    monkeypatch.setattr(image_formats.importlib, 'import_module', only_plain)
    image_formats.decoders.cache_clear()
    yield
    image_formats.decoders.cache_clear()


HEADS = {'a.heic': b'\0\0\0\x1cftypheic\0\0\0\0', 'a.jxl': b'\xff\x0a' + bytes(9), 'photo.jpg': b'\0\0\0\x1cftypheix\0\0\0\0'}


@pytest.mark.parametrize('name', [*HEADS, 'a.dng', 'a.NEF'])
def test_formats_that_need_the_extra_are_listed_and_say_so(tmp_path, without_extra, name):
    path = tmp_path / name
    path.write_bytes(HEADS.get(name, b'II*\0'))
    assert list(ImageFinder([str(tmp_path)])) == [str(path)]
    assert reason(str(path)).endswith(f'needs {EXTRA}')


@pytest.mark.parametrize(('name', 'message'), [
    ('a.exr', 'floating-point pixels have no known range'), ('a.svg', 'vector graphics have no pixels of their own'),
    ('a.eps', 'vector graphics'), ('a.jxr', 'no reader supports this format')])
def test_pictures_that_nothing_reads_are_listed_and_say_why(tmp_path, name, message):
    path = tmp_path / name
    path.write_bytes(b'v/1\x01 some bytes')
    assert list(ImageFinder([str(tmp_path)])) == [str(path)]
    assert message in reason(str(path))


def test_data_that_pillow_only_knows_by_name_is_no_picture():
    assert not {'.h5', '.hdf', '.mpg', '.grib', '.bufr', '.txt', '.csv', '.tar', ''} & image_extensions()
    assert {'.jpg', '.mpo', '.png', '.heic', '.jxl', '.avif', '.dng', '.cr3', '.exr'} <= image_extensions()


@pytest.mark.parametrize('kind', ['HEIF', 'JXL', 'AVIF'])
def test_the_extra_reads_its_formats_also_under_another_name(tmp_path, kind):
    image_formats.decoders(with_extra=True)
    y, x = np.mgrid[0:40, 0:60]
    picture = np.clip(np.stack([4 * x, 5 * y, 128 + 0 * x], axis=2), 0, 255).astype(np.uint8)
    content = encoded(Image.fromarray(picture), kind, quality=95)
    for name in (f'a.{kind.lower()}', 'a.jpg'):
        (tmp_path / name).write_bytes(content)
        found = read_rgb(str(tmp_path / name))
        assert found.shape == (40, 60, 3) and np.abs(found.astype(int) - picture).mean() < 6
    assert reason(content[:len(content) // 3], name='a.png').startswith('damaged')


def test_heif_and_jxl_are_turned_once():
    image_formats.decoders(with_extra=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.repeat(np.repeat(RGB, 2, 0), 2, 1))
    assert read_rgb(encoded(picture, 'HEIF', exif=exif.tobytes(), quality=95)).shape == (60, 40, 3)
    assert read_rgb(encoded(picture, 'AVIF', exif=exif.tobytes(), quality=95)).shape == (60, 40, 3)
    # JPEG XL's codestream says how it is turned, here not at all; EXIF only repeats that
    assert read_rgb(encoded(picture, 'JXL', exif=exif.tobytes())).shape == (40, 60, 3)


def test_a_camera_raw_file_is_developed_and_never_its_preview_taken(tmp_path):
    content = dng(64, 48, preview=Image.new('RGB', (16, 12), 'red'))
    with Image.open(io.BytesIO(content)) as preview:
        assert preview.size == (16, 12)  # what Pillow alone would score
    for name in ('a.dng', 'a.tif'):
        (tmp_path / name).write_bytes(content)
        found = read_rgb(str(tmp_path / name))
        assert found.shape == (48, 64, 3) and read_size(str(tmp_path / name)) == (48, 64)
        assert found[:, 40:].mean() > found[:, :24].mean() + 50  # the right half is the bright one
    turned = dng(64, 48, orientation=6)
    assert read_rgb(turned, name='a.dng').shape == (64, 48, 3) and read_size(turned, name='a.dng') == (64, 48)
    assert read_rgb(turned, ReadingOptions(upright=False), 'a.dng').shape == (48, 64, 3)
    assert 'its 3072 pixels are more than the limit' in reason(content, ReadingOptions(pixel_limit=99), name='a.dng')
    for cut in (content[:200], content[:len(content) // 2]):
        assert re.fullmatch(r'damaged, or no camera raw file that LibRaw knows \(.+\); copy it from the camera again, or .*',
                            reason(cut, name='a.dng'))


@pytest.mark.parametrize(('content', 'message'), [
    (b'no picture at all' * 9, 'damaged, or no camera raw file that LibRaw knows'), (b'', 'the file is empty'),
    (bytes(999), 'it holds zeros only'), (b'<html>404', 'it holds a web page'),
    (encoded(Image.fromarray(RGB), 'JPEG'), 'it holds a JPEG picture and no camera raw; give it the extension of that'),
    (encoded(Image.fromarray(RGB), 'PNG'), 'it holds a PNG picture and no camera raw')])
@pytest.mark.parametrize('name', ['a.CR2', 'a.dng', 'a.nef'])
def test_what_is_no_camera_raw_file_says_what_it_is(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    for source in (str(tmp_path / name), content):
        assert reason(source, name=name).startswith(message)


def test_the_extra_is_loaded_only_where_it_is_needed(tmp_path):
    path = save(tmp_path / 'a.jpg')
    code = ('import sys; from pyiqa_rali.data.image_files import read_rgb; read_rgb(sys.argv[1]); '
            'print([name for name in ("pillow_heif", "pillow_jxl", "rawpy", "torch") if name in sys.modules])')
    assert subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True).stdout == '[]\n'


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
    assert list(ImageFinder([path])) == [path] and read_rgb(path).shape == (20, 30, 3)


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
    assert reason(found[0]) == 'Permission denied'


def test_odd_files_in_a_folder_are_yielded_so_that_reading_tells(tmp_path):
    (tmp_path / 'loop.png').symlink_to('loop.png')
    os.mkfifo(tmp_path / 'pipe.png')
    Image.new('RGB', (8, 8)).save(tmp_path / 'ok.png')
    found = list(ImageFinder([str(tmp_path)]))
    assert [os.path.basename(path) for path in found] == ['loop.png', 'ok.png', 'pipe.png']
    assert 'symbolic links' in reason(found[0]) and 'named pipe' in reason(found[2])


def test_only_files_and_folders_are_no_special_files():
    for kind in (stat.S_IFREG, stat.S_IFDIR):
        image_files.refuse_special_file(kind | 0o644)


def test_a_process_forked_while_a_thread_decodes_reads_too(tmp_path):
    path = save(tmp_path / 'a.png')
    with decoding.decoding():  # as if another thread were in the middle
        child = os.fork()
        if not child:
            try:
                os._exit(0 if read_rgb(path).shape == (20, 30, 3) and decoding._PILLOW._inside == 0 else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


KINDS = ('PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP', 'BMP', 'PPM', 'JPEG2000', 'ICO', 'TGA', 'HEIF', 'AVIF', 'JXL', 'DNG')


@pytest.fixture(scope='module')
def intact():
    image_formats.decoders(with_extra=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    return {kind: dng(32, 24) if kind == 'DNG' else encoded(picture, kind) for kind in KINDS}


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(KINDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.floats(0, 1))
def test_damaged_files_of_every_kind_are_pictures_or_unreadable_and_nothing_else(intact, kind, changes, end):
    content = bytearray(intact[kind])
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    name = f'a.{kind.lower()}'
    for source in (bytes(content), bytes(content[:int(end * len(content))])):
        try:
            pixels = read_rgb(source, ReadingOptions(pixel_limit=1_000_000), name)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
        except UnreadableImage as error:
            assert error.path == name and error.reason and '\n' not in error.reason and 'BytesIO' not in error.reason
