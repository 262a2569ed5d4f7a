import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pyiqa_rali
from pyiqa_rali import from_array, score, score_column, score_metrics
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model.metric_net import as_tensor
from pyiqa_rali.scoring.entries import read_entry
from pyiqa_rali.scoring.given import entries_of

PIXELS = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)


class Red:
    """A metric in pyiqa's form: how red pictures are, not how blue."""

    device, lower_better, score_range, metric_name = 'cpu', False, '0, 1', 'red'

    def __call__(self, images):
        return images[:, 0].mean((1, 2))[:, None]


@pytest.fixture
def path(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / 'a.png')
    return tmp_path / 'a.png'


def every_kind(path):
    """The same picture in every form that a program may have it in, with the channels that an array needs."""
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    return [(str(path), None), (path, None), (path.read_bytes(), None), (bytearray(path.read_bytes()), None),
            (Image.open(path), None), (PIXELS, 'rgb'), (PIXELS[..., ::-1], 'bgr'), (tensor / 255, None), (tensor[None], None),
            (PIXELS.astype(np.uint16) * 257, 'rgb'), ({'bytes': path.read_bytes(), 'path': None}, None),
            (np.dstack([PIXELS, np.full((20, 24, 1), 255, np.uint8)]), 'rgba')]


def test_a_picture_has_one_score_in_whatever_form_it_is_given(path):
    expected = PIXELS[..., 0].mean() / 255
    for given, channels in every_kind(path):
        found = score(given, Red(), channels=channels)
        assert found.scores == [pytest.approx(expected, abs=1e-6)], (type(given), channels)
        assert score([given], Red(), channels=channels).scores == found.scores


def test_a_list_may_hold_everything_in_any_size(path):
    big = np.full((90, 70, 3), 255, np.uint8)
    found = score([str(path), big, Image.fromarray(big[:30]), path.read_bytes(), torch.zeros(3, 16, 17), b'broken'], Red(),
                  channels='bgr', batch_size=4)
    assert found.names == [str(path), *(f'images[{place}]' for place in range(1, 6))]
    assert found.scores[1:5] == [1.0, 1.0, pytest.approx(PIXELS[..., 0].mean() / 255, abs=1e-6), 0.0]
    assert list(found.errors) == ['images[5]'] and 'cannot identify' in found.errors['images[5]']


def test_words_and_pictures_keep_what_words_mean(path):
    found, empty = entries_of([path.parent, Image.fromarray(PIXELS)])
    assert [entry.name for entry in found] == [str(path), 'images[1]'] and not empty
    again, _ = entries_of([str(path), str(path)])
    assert len(again) == 1


@pytest.mark.parametrize(('given', 'channels', 'message'), [
    (PIXELS, None, r"images\[0\]: an array may be RGB or BGR, .* give channels='rgb' or 'bgr'"),
    ([PIXELS], None, r'images\[0\]: an array may be RGB or BGR'),
    (PIXELS, 'hsv', "channels: 'hsv' is not one of rgb, bgr"),
    (PIXELS / 255, 'rgb', 'array: its type is float64; it must be uint8 or uint16'),
    (PIXELS, 'rgba', r"its shape is \(20, 24, 3\); channels='rgba' needs \(H, W, 4\)"),
    (PIXELS.transpose(2, 0, 1), 'rgb', r'array.transpose\(1, 2, 0\)'),
    (torch.ones(3, 20, 20) * 255, None, r'from 255 to 255; they must be in \[0, 1\]'),
    (torch.zeros(3, 20, 20, dtype=torch.int64), None, 'a tensor of torch.int64'),
    ([torch.zeros(2, 3, 20, 20)], None, r'a tensor of shape \(2, 3, 20, 20\)'),
    ([3.5], None, r'images\[0\]: is a float; it must be a path or an address'), ([], None, 'the list is empty')])
def test_what_a_picture_is_is_not_guessed(given, channels, message):
    with pytest.raises(OptionError, match=message):
        entries_of(given, channels)


def test_arrays_become_pictures_with_their_colours_named():
    assert np.array_equal(np.asarray(from_array(PIXELS, 'bgr')), PIXELS[..., ::-1])
    assert np.array_equal(np.asarray(from_array(PIXELS[..., 0], 'gray')), PIXELS[..., 0])
    see_through = from_array(np.zeros((4, 4, 4), np.uint8), 'bgra')
    assert read_entry(entries_of(see_through)[0][0]).min() == 255  # laid on white, as everywhere
    assert as_tensor(from_array(PIXELS, 'rgb')).shape == (1, 3, 20, 24)
    with pytest.raises(OptionError, match='pyiqa_rali.from_array'):
        as_tensor(PIXELS)


def test_a_column_in_and_a_column_out(path):
    table = pd.DataFrame({'path': [str(path), None, 'gone.png', np.nan, str(path.parent)]}, index=[7, 3, 9, 4, 1])
    table['quality'] = score_column(table['path'], Red())
    assert table['quality'].name == 'quality' and list(table.index) == [7, 3, 9, 4, 1]
    assert table['quality'].isna().tolist() == [False, True, True, True, True]
    found = score_column(table['path'], Red())
    empty = 'there is no picture: the cell is empty'
    assert found.name == 'red' and found.attrs['errors'] == {3: empty, 9: 'No such file or directory', 4: empty,
                                                             1: 'it is a folder'}
    assert score_column(pd.Series([path.read_bytes(), PIXELS, str(path), str(path)]), Red(), channels='rgb').nunique() == 1
    assert len(score_column(pd.Series([], dtype=object), Red())) == 0
    with pytest.raises(OptionError, match='column: is a list'):
        score_column(['a.png'], Red())


def test_pictures_of_8_bits_and_tensors_of_floats_in_one_list_have_their_own_scores(path):
    """They share a window; one kind must not be taken for the other."""
    tensor = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))
    other = torch.rand(3, 18, 30, generator=torch.Generator().manual_seed(1))
    given = [Image.open(path), tensor, path.read_bytes(), other, torch.from_numpy(PIXELS).permute(2, 0, 1), str(path)]
    found = score(given, Red()).scores
    assert found == [score(each, Red()).scores[0] for each in given]
    red = PIXELS[..., 0].mean() / 255
    assert found == pytest.approx([red, tensor[0].mean().item(), red, other[0].mean().item(), red, red])


def test_open_files_stacks_and_paths_in_mappings(path):
    expected = score(str(path), Red()).scores
    with open(path, 'rb') as file:
        assert score(file, Red()).scores == expected
    assert score([io.BytesIO(path.read_bytes()), io.BytesIO(path.read_bytes())], Red()).scores == expected * 2
    with pytest.raises(OptionError, match=r'images\[0\]: the file is open for text; open it with "rb"'):
        score(io.StringIO('a.png'), Red())
    stack = torch.from_numpy(PIXELS).permute(2, 0, 1)[None].repeat(3, 1, 1, 1)
    found = score(stack, Red())
    assert found.scores == expected * 3 and found.names == ['images[0]', 'images[1]', 'images[2]']
    assert score(np.stack([PIXELS, PIXELS]), Red(), channels='rgb').scores == expected * 2
    column = score_column(pd.Series([{'bytes': None, 'path': str(path)}, {'bytes': None, 'path': 'gone.png'}]), Red())
    assert column[0] == expected[0] and column.attrs['errors'] == {1: 'No such file or directory'}


def test_several_metrics_at_once(path, monkeypatch):
    from pyiqa_rali.scoring import metrics
    monkeypatch.setattr(metrics, 'make_metric', lambda name, weights, device: Red())
    found = score_metrics([PIXELS, str(path)], ['brisque', 'piqe'], channels='rgb')
    assert list(found) == ['brisque', 'piqe'] and found['piqe'].scores == found['brisque'].scores and len(found['piqe']) == 2
    with pytest.raises(OptionError, match='metrics: piqe is given twice'):
        score_metrics(path, ['piqe', 'piqe'])


def test_torchmetrics_averages_over_pictures():
    quality = pyiqa_rali.ImageQuality(Red())
    quality.update(torch.full((3, 3, 16, 16), 0.5))
    quality.update([torch.zeros(3, 20, 16), torch.full((3, 16, 30), 255, dtype=torch.uint8)])
    assert quality.compute().item() == pytest.approx(0.5) and quality.higher_is_better
    quality.reset()
    quality.update(torch.ones(1, 3, 16, 16))
    assert quality.compute().item() == 1.0
    each = pyiqa_rali.ImageQuality(Red(), reduction='none')
    each.update(torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]))
    assert each.compute().tolist() == [0.0, 1.0]
    for wrong in (torch.zeros(3, 16, 16), torch.zeros(1, 2, 16, 16)):
        with pytest.raises(OptionError, match=r'must be \(N, 3, H, W\)'):
            quality.update(wrong)
    with pytest.raises(OptionError, match='reduction'):
        pyiqa_rali.ImageQuality(Red(), reduction='sum')


def test_torchmetrics_counts_all_pictures_of_an_update_or_none():
    class Picky(Red):
        def __call__(self, images):
            if images.shape[-1] < 16:
                raise ValueError('too small')
            return super().__call__(images)
    quality = pyiqa_rali.ImageQuality(Picky())
    quality.update(torch.zeros(0, 3, 16, 16))
    quality.update([torch.full((3, 16, 16), 0.25)])
    with pytest.raises(ValueError, match='too small'):
        quality.update([torch.ones(3, 16, 16), torch.ones(3, 16, 8)])
    assert quality.compute().item() == 0.25
    other = pyiqa_rali.ImageQuality(Picky())
    other.update(torch.full((3, 3, 16, 16), 0.75))
    quality.merge_state(other)
    assert quality.compute().item() == pytest.approx((0.25 + 3 * 0.75) / 4)  # over pictures, not over batches


def test_rows_with_the_same_label_keep_all_their_reasons(path, tmp_path):
    column = pd.Series([str(path), None, 'gone.png', 'gone.png'], index=['a', 'a', 'a', 'b'])
    found = score_column(column, Red())
    assert found.isna().tolist() == [False, True, True, True] and list(found.index) == ['a', 'a', 'a', 'b']
    assert found.attrs['errors'] == {'a': 'there is no picture: the cell is empty; No such file or directory',
                                     'b': 'No such file or directory'}


@pytest.mark.slow
def test_torchmetrics_with_the_embedded_weights(path):
    import pickle
    quality = pyiqa_rali.ImageQuality('rali-lite')
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    quality.update(images)
    expected = score([images[0], images[1]], 'rali-lite', device='cpu')
    assert quality.compute().item() == pytest.approx(np.mean(expected.scores), abs=1e-4)
    assert pickle.loads(pickle.dumps(quality)).compute() == quality.compute()
    assert quality.score_range == expected.score_range and quality.higher_is_better
