"""A metric that is given a file or a picture of Pillow reads it as the commands do: one picture, one score."""

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pyiqa
import pytest
import torch
from PIL import Image, ImageOps
from pyiqa.utils.img_util import imread2tensor

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.image_files import ReadingOptions, UnreadableImage, read_rgb, rgb_of
from tests.raw_files import dng
from tests.tiny import tiny_vlm
from tests.unit.test_surroundings import HEAD, metric_of, saved

GRAY = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(image, kind='PNG', **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def with_hidden(value):
    pixels = PHOTO.copy()
    pixels[:, :30] = value
    alpha = np.where(np.arange(60) < 30, 0, 255).astype(np.uint8) * np.ones((40, 1), np.uint8)
    return Image.fromarray(np.dstack([pixels, alpha]))


FILES = {'rgb': encoded(Image.fromarray(PHOTO)), '16 bits': encoded(Image.fromarray(GRAY.astype(np.uint16) * 257)),
         'transparent': encoded(with_hidden(0)), 'turned': encoded(Image.fromarray(PHOTO), exif=turned()),
         'colour key': encoded(Image.fromarray(GRAY), transparency=7), 'gray and alpha': encoded(with_hidden(3).convert('LA')),
         'jpeg': encoded(Image.fromarray(PHOTO), 'JPEG', exif=turned()), 'cmyk': encoded(Image.new('CMYK', (60, 40)), 'JPEG'),
         'palette': encoded(Image.fromarray(PHOTO).convert('P'), 'GIF'), 'tiff': encoded(Image.fromarray(PHOTO), 'TIFF')}


@pytest.fixture(scope='module')
def metric(tmp_path_factory):
    return metric_of(saved(tmp_path_factory.mktemp('weights'), HEAD))


def as_read(content, **options):
    return torch.from_numpy(read_rgb(content, ReadingOptions(**options))).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize('name', FILES)
def test_a_file_its_bytes_and_a_picture_of_pillow_get_the_score_of_the_commands(metric, tmp_path, name):
    path = tmp_path / 'picture.bin'
    path.write_bytes(FILES[name])
    expected = metric(as_read(FILES[name]))
    opened, loaded = Image.open(path), Image.open(path)
    loaded.load()
    before = opened.mode, dict(opened.info), opened.size
    for picture in (str(path), path, FILES[name], opened, loaded, loaded.copy()):
        assert torch.equal(metric(picture), expected), type(picture)
    assert (opened.mode, dict(opened.info), opened.size) == before


def test_pyiqas_own_reader_would_give_other_scores(metric):
    """What this is for: without it, one file has two scores."""
    for name in ('16 bits', 'transparent', 'turned', 'colour key'):
        assert not torch.equal(metric(imread2tensor(FILES[name], rgb=True)[None]), metric(FILES[name])), name


def test_hidden_pixels_do_not_decide(metric):
    scores = [metric(with_hidden(value)).item() for value in (0, 99, 255)]
    white = PHOTO.copy()
    white[:, :30] = 255
    assert scores == [metric(Image.fromarray(white)).item()] * 3


def test_a_picture_that_was_turned_already_is_not_turned_again(metric):
    opened = Image.open(io.BytesIO(FILES['turned']))
    assert torch.equal(metric(ImageOps.exif_transpose(opened)), metric(opened))


def test_whether_pictures_are_turned_and_their_limit_are_options(metric, tmp_path):
    as_stored = metric_of(saved(tmp_path, HEAD), upright=False, pixel_limit=2400)
    assert torch.equal(as_stored(FILES['turned']), metric(as_read(FILES['turned'], upright=False)))
    assert torch.equal(as_stored(Image.open(io.BytesIO(FILES['turned']))), as_stored(FILES['turned']))
    for other in (pickle.loads(pickle.dumps(as_stored)), copy.deepcopy(as_stored)):
        assert other(FILES['turned']).item() == pytest.approx(as_stored(FILES['turned']).item(), abs=1e-6)
    assert abs(as_stored(FILES['turned']) - metric(FILES['turned'])) > 1e-4
    for picture in (FILES['rgb'], Image.open(io.BytesIO(FILES['rgb']))):
        limited = metric_of(tmp_path / 'rali.safetensors', pixel_limit=2399)
        with pytest.raises(UnreadableImage, match=r'its 2400 pixels .* \(pixel_limit in option files and create_metric\)'):
            limited(picture)
    with pytest.raises(OptionError, match="upright: 'no' must be true or false"):
        metric_of(tmp_path / 'rali.safetensors', upright='no')


def test_what_cannot_be_read_is_named(metric, tmp_path):
    with pytest.raises(UnreadableImage, match=r'nowhere.png: cannot be read as an image \(No such file'):
        metric(str(tmp_path / 'nowhere.png'))
    (tmp_path / 'short.png').write_bytes(FILES['rgb'][:-900])
    for picture in (str(tmp_path / 'short.png'), Image.open(tmp_path / 'short.png')):
        with pytest.raises(UnreadableImage, match='short.png: cannot be read as an image .*truncated'):
            metric(picture)
    with pytest.raises(UnreadableImage, match=r'the picture: .*32-bit pixels have no known range'):
        metric(Image.fromarray(GRAY.astype(np.int32)))
    with pytest.raises(UnreadableImage, match='floating-point pixels have no known range'):
        metric(Image.fromarray(GRAY.astype(np.float32)))
    with pytest.raises(UnreadableImage, match='it is the preview inside .* raw file; give the path'):
        metric(Image.open(io.BytesIO(dng(64, 48, preview=Image.new('RGB', (32, 24), 'red')))))


@pytest.mark.parametrize('picture', [PHOTO, [PHOTO], ['a.png'], None, 3])
def test_what_is_no_picture_is_refused_with_advice(metric, picture):
    with pytest.raises(OptionError, match='a picture was given as .*must be a path, the bytes .*An array may be RGB or BGR'):
        metric(picture)


def test_16_bits_that_were_made_in_memory_are_16_bits():
    assert np.array_equal(rgb_of(Image.fromarray(GRAY.astype(np.uint16) * 257))[..., 0], GRAY)


def test_a_file_can_be_scored_as_a_loss_too(tmp_path):
    metric = metric_of(saved(tmp_path, HEAD), as_loss=True)
    assert torch.equal(metric(FILES['turned']), metric(as_read(FILES['turned'])))


def test_other_metrics_read_as_pyiqa_does():
    other = pyiqa.create_metric('entropy', device='cpu')
    for name in ('transparent', 'turned'):
        content = FILES[name]
        assert torch.equal(other(content), other(imread2tensor(content, rgb=True)[None]))
    with pytest.raises(Exception, match='Unsupported source type'):
        other(PHOTO)


def test_a_reasoning_model_reads_as_the_commands_do(tmp_path):
    metric = pyiqa.create_metric('rali-reasoning', device='cpu', max_new_tokens=6,
                                 pretrained_model_path=tiny_vlm(tmp_path / 'tiny'))
    for name in ('transparent', 'turned', '16 bits'):
        picture = Image.open(io.BytesIO(FILES[name]))
        expected = metric.net.describe(as_read(FILES[name]))
        assert metric.net.describe([picture]) == expected
        assert metric(FILES[name]).item() == metric(picture).item() == pytest.approx(expected[0].rating, abs=1e-6)


@pytest.mark.slow
def test_pyiqas_command_gives_the_score_of_ours(tmp_path):
    path = tmp_path / 'turned.png'
    path.write_bytes(FILES['turned'])
    theirs = subprocess.run([sys.executable, '-m', 'pyiqa.pyiqa_cmd', 'rali-lite', '-t', str(path), '--device', 'cpu'],
                            capture_output=True, text=True)
    score = pyiqa.create_metric('rali-lite', device='cpu')(str(path)).item()
    assert theirs.returncode == 0, theirs.stderr
    assert f'{score:.4f}'[:5] in theirs.stdout and score == pyiqa.create_metric('rali-lite', device='cpu')(
        as_read(FILES['turned'])).item()
