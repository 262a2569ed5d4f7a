"""The parts of the page's server: sliders, albums, the guard, the table, the map, the metrics."""

import asyncio
import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.__main__ import build_parser, main
from pyiqa_rali.app.albums import LONGEST_NAME, MEGABYTE, Albums, Limits, TooMuch, as_jpeg, smaller
from pyiqa_rali.app.guard import HEADERS, LARGEST_CALL, Guard, hosts_of, is_loopback
from pyiqa_rali.app.maps import drawn_map
from pyiqa_rali.app.metrics import OFFERED, Choice, PageMetric, PageMetrics, choices, label_of
from pyiqa_rali.app.server import Address, Answers
from pyiqa_rali.app.sliders import SLIDERS, checked, distorted
from pyiqa_rali.app.table import scores_csv
from pyiqa_rali.app.timing import Waits, as_text
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.reasoning_texts import PRISTINE


def photo(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Return a smooth picture with some texture, away from black and white."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 120 + 40 * np.sin(x / 5) + 30 * np.cos(y / 7)
    return np.clip(waves[..., None] + np.random.default_rng(seed).normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def png(pixels: np.ndarray | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photo() if pixels is None else pixels).save(stream, 'PNG')
    return stream.getvalue()


# ---- sliders ----

def test_neutral_sliders_change_nothing():
    pixels = photo()
    assert distorted(pixels, {}) is pixels
    assert distorted(pixels, {slider.name: slider.neutral for slider in SLIDERS}) is pixels


@pytest.mark.parametrize('slider', SLIDERS, ids=lambda slider: slider.name)
def test_a_slider_changes_more_the_farther_it_is_moved(slider):
    pixels = photo(96, 128)
    far = slider.low if slider.neutral != slider.low else slider.high
    changes = []
    for share in (0.3, 0.6, 1):
        changed = distorted(pixels, {slider.name: slider.neutral + share * (far - slider.neutral)})
        changes.append(np.abs(changed.astype(float) - pixels).mean())
    assert 0 < changes[0] < changes[1] < changes[2]


def test_exposure_has_a_direction_and_sliders_add_up():
    pixels = photo()
    assert distorted(pixels, {'exposure': -1}).mean() < pixels.mean() < distorted(pixels, {'exposure': 1}).mean()
    both = distorted(pixels, {'blur': 2, 'noise': 30})
    assert both.std() > distorted(pixels, {'blur': 2}).std()  # the noise comes after the lens
    assert (both == distorted(pixels, {'noise': 30, 'blur': 2})).all()  # the same place is the same picture


@pytest.mark.parametrize(('values', 'message'), [
    ({'colour': 1}, '"colour" is not one of the sliders exposure, blur'), ({'blur': float('nan')}, 'Blur: nan must'),
    ({'jpeg': 0}, 'JPEG quality: 0 must be a number from 5 to 100'), ({'noise': 'much'}, "Noise: 'much' must"),
    ({'exposure': 3.5}, 'Exposure: 3.5 must')])
def test_values_beyond_a_slider_are_rejected(values, message):
    with pytest.raises(OptionError, match=message):
        checked(values)


def test_curves_go_from_end_to_end():
    for slider in SLIDERS:
        assert {slider.low, slider.high, slider.neutral} <= set(slider.curve)


# ---- albums ----

def test_an_album_keeps_what_it_is_given_and_no_other_page_sees_it():
    albums = Albums(Limits())
    mine, other = albums.open(), albums.open()
    added = albums.add(mine, 'a.png', png())
    assert albums.open(mine) == mine and albums.open('guessed') not in (mine, other, 'guessed')
    assert albums.picture(mine, added.key) is added and (added.height, added.width) == (48, 64)
    assert (albums.pixels(added) == photo()).all()
    assert Image.open(io.BytesIO(added.thumb)).size == (64, 48)
    with pytest.raises(DataError, match='no longer there'):
        albums.picture(other, added.key)
    albums.remove(mine, [added.key, 'unknown'])
    assert albums.pictures(mine) == [] == albums.pictures('unknown')


def test_a_file_that_is_no_picture_is_kept_with_the_reason():
    albums = Albums(Limits())
    added = albums.add(albums.open(), 'a.jpg', b'\xff\xd8 no picture')
    assert added.error and not added.content and added.facts()['error'] == added.error


def test_limits_of_files_pictures_and_memory():
    albums = Albums(Limits(file_mb=1, pictures=2, memory_mb=1))
    album = albums.open()
    with pytest.raises(TooMuch, match='larger than 1 MB; start with --max-file-mb'):
        albums.add(album, 'a.png', b'x' * (MEGABYTE + 1))
    for name in 'ab':
        albums.add(album, name, png())
    with pytest.raises(TooMuch, match='at most 2 pictures; remove some, or start with --max-pictures'):
        albums.add(album, 'c', png())
    with pytest.raises(DataError, match='reload'):
        albums.add('unknown', 'a', png())
    for name, limits in (('max-file-mb', {'file_mb': 0}), ('max-pictures', {'pictures': -1}), ('memory-mb', {'memory_mb': 0})):
        with pytest.raises(OptionError, match=f'--{name}: -?. must be at least 1'):
            Limits(**limits)


def test_the_page_that_was_not_used_for_longest_gives_way():
    noise = png(np.random.default_rng(0).integers(0, 255, (290, 290, 3), dtype=np.uint8))
    albums = Albums(Limits(memory_mb=1))
    old, used, new = albums.open(), albums.open(), albums.open()
    first = albums.add(old, 'a', noise)
    second = albums.add(used, 'b', noise)
    assert MEGABYTE / 3 < first.memory < MEGABYTE / 2  # two fit, three do not
    albums.picture(old, first.key)  # now `used` was not used for longer
    albums.add(new, 'c', noise)
    assert albums.picture(old, first.key) is first
    with pytest.raises(DataError):
        albums.picture(used, second.key)
    with pytest.raises(TooMuch, match='at most 1 MB'):
        for _ in range(3):
            albums.add(new, 'd', noise)


def test_names_are_on_one_line_and_not_endless():
    albums = Albums(Limits())
    added = albums.add(albums.open(), 'a\n<b>\x00' + 'x' * 1000, png())
    assert len(added.name) == LONGEST_NAME and added.name.isprintable()
    assert albums.add(albums.open(), ' \n', png()).name == '?'


def test_pixels_are_kept_for_a_few_pictures_only():
    albums = Albums(Limits())
    album = albums.open()
    pictures = [albums.add(album, str(index), png(photo(seed=index))) for index in range(6)]
    assert all((albums.pixels(picture) == photo(seed=index)).all() for index, picture in enumerate(pictures))
    assert albums.pixels(pictures[0]) is albums.pixels(pictures[0])
    assert len(albums._decoded) == 3
    assert albums.pixels(pictures[0], 32).shape == (24, 32, 3)


def test_smaller_leaves_small_pictures_alone():
    pixels = photo()
    assert (smaller(pixels, 64) == pixels).all() and smaller(pixels, 64) is not pixels
    assert smaller(photo(10, 3000), 100).shape == (1, 100, 3)
    assert np.abs(np.asarray(Image.open(io.BytesIO(as_jpeg(pixels, 95)))).astype(int) - pixels).mean() < 4


# ---- the guard ----

async def _echo(scope, receive, send):
    """Answer with the body that was received; a cut connection answers nothing."""
    body = b''
    while True:
        message = await receive()
        if message['type'] == 'http.disconnect':
            return
        body += message.get('body', b'')
        if not message.get('more_body'):
            break
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'cache-control', b'public')]})
    await send({'type': 'http.response.body', 'body': body})


def asked(method: str, path: str, headers: dict | None = None, parts: tuple = (b'',), hosts: tuple = ('localhost',),
          raw_path: bytes | None = None, kind: str = 'http', largest: int = 1 << 20) -> tuple:
    """Return the status, the headers and the body that a guard answers; status 0 for no answer."""
    given = {'host': 'localhost:7860', **(headers or {})}
    scope = {'type': kind, 'method': method, 'path': path, 'raw_path': path.encode() if raw_path is None else raw_path,
             'headers': [(name.encode(), value.encode()) for name, value in given.items()]}
    messages = [{'type': 'http.request', 'body': part, 'more_body': index < len(parts) - 1} for index, part in enumerate(parts)]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(_echo, hosts, largest)(scope, receive, send))
    if not sent:
        return 0, {}, b''
    return (sent[0]['status'], {name.decode(): value.decode() for name, value in sent[0]['headers']},
            b''.join(message.get('body', b'') for message in sent[1:]))


@pytest.mark.parametrize(('method', 'path'), [
    ('GET', '/'), ('HEAD', '/'), ('GET', '/page.css'), ('GET', '/page.js'), ('GET', '/icon.svg'), ('GET', '/scores.csv'),
    ('GET', '/pictures/al-bum_1/k-ey/thumb'), ('GET', '/gradio_api/startup-events'), ('POST', '/pictures'),
    ('POST', '/gradio_api/run/score')])
def test_the_guard_lets_the_page_through(method, path):
    status, headers, _ = asked(method, path)
    assert status == 200
    assert headers == {**HEADERS}  # those of the application gave way


@pytest.mark.parametrize(('method', 'path'), [
    ('GET', '/etc/passwd'), ('GET', '/../../etc/passwd'), ('GET', '//etc/passwd'), ('GET', '/page.css/../../x'),
    ('GET', '/page.css\n'),
    ('GET', '/pictures/a/../thumb'), ('GET', '/pictures/a/b/../../../etc/passwd'), ('GET', '/pictures/a/b/full'),
    ('GET', '/gradio_api/file=/etc/passwd'), ('GET', '/file=/etc/passwd'), ('GET', '/gradio_api/file/etc/passwd'),
    ('GET', '/gradio_api/proxy=http://example.com'), ('GET', '/config'), ('GET', '/gradio_api/info'), ('GET', '/static/x'),
    ('GET', '/assets/x'), ('GET', '/theme.css'), ('GET', '/docs'), ('GET', '/openapi.json'), ('GET', '/monitoring'),
    ('POST', '/gradio_api/upload'), ('POST', '/gradio_api/queue/join'), ('POST', '/gradio_api/run/predict'),
    ('POST', '/gradio_api/vibe-edit'), ('POST', '/'), ('GET', '/pictures'), ('PUT', '/pictures'), ('DELETE', '/'),
    ('OPTIONS', '/pictures'), ('GET', '/gradio_api/run/score')])
def test_the_guard_lets_nothing_else_through(method, path):
    status, headers, _ = asked(method, path)
    assert status == 404 and headers.items() >= HEADERS.items()


def test_escaped_addresses_are_refused():
    assert asked('GET', '/page.css', raw_path=b'/page%2ecss')[0] == 404
    assert asked('GET', '/pictures/a/b/thumb', raw_path=b'/pictures/a%2f..%2f/b/thumb')[0] == 404


@pytest.mark.parametrize(('headers', 'status'), [
    ({'host': 'localhost'}, 200), ({'host': '127.0.0.1:7860'}, 200), ({'host': '[::1]:7860'}, 200),
    ({'host': '192.168.0.7'}, 200),
    ({'host': 'LOCALHOST:7860'}, 200), ({'host': 'evil.example:7860'}, 403), ({'host': 'localhost.evil.example'}, 403),
    ({'host': ''}, 403), ({'origin': 'http://localhost:7860'}, 200), ({'origin': 'http://evil.example'}, 403),
    ({'origin': 'null'}, 403), ({'origin': 'http://localhost:1'}, 403), ({'sec-fetch-site': 'same-origin'}, 200),
    ({'sec-fetch-site': 'none'}, 200), ({'sec-fetch-site': 'cross-site'}, 403), ({'sec-fetch-site': 'same-site'}, 403)])
def test_the_guard_knows_who_asks(headers, status):
    assert asked('POST', '/gradio_api/run/score', headers)[0] == status


def test_bodies_have_a_limit_whatever_they_say():
    assert asked('POST', '/pictures', {'content-length': str(1 << 20)})[0] == 200
    status, _, body = asked('POST', '/pictures', {'content-length': str((1 << 20) + 1)})
    assert status == 413 and 'larger than 1 MB' in json.loads(body)['error']
    assert asked('POST', '/pictures', {'content-length': '-1'})[0] == 413
    assert asked('POST', '/gradio_api/run/score', {'content-length': str(LARGEST_CALL + 1)})[0] == 413
    assert asked('POST', '/pictures', parts=(b'ab', b'cd'))[2] == b'abcd'
    assert asked('POST', '/pictures', parts=(b'x' * (1 << 19),) * 3)[0] == 0  # said nothing of its length: cut


def test_no_web_sockets():
    assert asked('GET', '/', kind='websocket')[0] == 0


def test_hosts():
    assert hosts_of('127.0.0.1') == hosts_of('localhost') == {'localhost', '127.0.0.1', '::1'}
    assert {'localhost', 'studio', '::1'} <= hosts_of('Studio')
    assert all(map(is_loopback, ('127.0.0.1', '127.0.3.1', 'localhost', '[::1]', '::1')))
    assert not any(map(is_loopback, ('0.0.0.0', '192.168.0.1', '::', 'studio')))


# ---- table, map, metrics ----

def test_the_table_has_every_picture():
    albums = Albums(Limits())
    album = albums.open()
    scored, formula, _ = (albums.add(album, name, content) for name, content in
                          (('a, b.png', png()), ('=1+1.png', png()), ('broken.png', b'no')))
    scored.verdicts['rali-lite'] = {'score': 3.25, 'low': 2.5, 'high': 4.0,
                                    'votes': [{'label': 'JPEG blocking', 'share': 0.876}],
                                    'aspects': [{'label': 'Sharpness', 'value': 0.5}]}
    scored.verdicts['piqe'] = {'score': 30.0}
    formula.verdicts['rali-lite'] = {'error': 'too small'}
    rows = list(csv.DictReader(io.StringIO(scores_csv(albums.pictures(album)).decode())))
    assert [(row['image'], row['metric'], row['score'], row['error']) for row in rows] == [
        ('a, b.png', 'rali-lite', '3.25', ''), ('a, b.png', 'piqe', '30.0', ''), ("'=1+1.png", 'rali-lite', '', 'too small'),
        ('broken.png', '', '', rows[3]['error'])]
    assert rows[0]['low'] == '2.5' and rows[0]['votes'] == 'JPEG blocking 0.88' and rows[0]['Sharpness'] == '0.5'
    assert rows[1]['Sharpness'] == '' and rows[3]['error']


@pytest.mark.parametrize('lower_better', [False, True])
def test_a_map_is_orange_where_it_is_bad_and_clear_in_between(lower_better):
    values = np.tile(np.linspace(1, 5, 21), (4, 1))
    content, bad, good = drawn_map(-values if lower_better else values, (40, 210), lower_better)
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert pixels.shape == (40, 210, 4)
    (red, _, blue, left), (_, _, right_blue, right) = pixels[20, 5], pixels[20, -5]
    assert red > blue and right_blue > 100 and left > 200 < right and pixels[20, 105, 3] < 5
    assert (good < bad) == lower_better
    assert (np.asarray(Image.open(io.BytesIO(drawn_map(np.ones((2, 2)), (8, 8))[0])))[..., 3] == 0).all()


def test_a_map_lies_where_its_encoder_looked():
    values = np.tile(np.linspace(1, 5, 21), (4, 1))
    alpha = np.asarray(Image.open(io.BytesIO(drawn_map(values, (40, 80), region=(0, 0.25, 1, 0.75))[0])))[..., 3]
    assert (alpha[:, :20] == 0).all() and (alpha[:, 60:] == 0).all() and alpha[20, 21] > 200 < alpha[20, 58]
    beyond = np.asarray(Image.open(io.BytesIO(drawn_map(values, (40, 80), region=(0, -0.5, 1, 1.5))[0])))[..., 3]
    assert beyond.shape == (40, 80) and beyond[20, 0] < 100 > beyond[20, 79] and beyond[20, 40] < 5


def test_the_page_s_map_is_the_metric_s():
    metrics = PageMetrics(choices(['rali-lite'], None), 'cpu')
    pixels = photo(96, 128)
    values, region = metrics.load('rali-lite').where(pixels)
    net = metrics.load('rali-lite').net
    import torch
    expected = net.quality_map(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0]
    assert np.allclose(values, expected, atol=1e-5) and values.ndim == 2 and region == (0, 0, 1, 1)


def test_metrics_of_the_page():
    assert [each.label for each in choices([], None)] == list(OFFERED)
    assert choices([], '/x/mine.safetensors')[0] == Choice('rali (mine.safetensors)', 'rali', '/x/mine.safetensors')
    assert [each.name for each in choices(['rali-lite-v1', 'rali-lite'], None)] == ['rali-lite-v1', 'rali-lite']
    with pytest.raises(OptionError, match='--metric: "rali-lite" is given twice'):
        choices(['rali-lite', 'rali-lite'], None)
    with pytest.raises(OptionError, match='--metric: "rali-light" is not known to pyiqa.*Did you mean "rali-lite"'):
        choices(['rali-light'], None)
    with pytest.raises(OptionError, match='compares with a reference'):
        choices(['psnr'], None)


def test_a_verdict_is_the_metrics_score_and_the_commands_explanation():
    import pyiqa

    from pyiqa_rali.model.metric_net import as_tensor
    metrics = PageMetrics(choices(['rali-lite', 'piqe'], None), 'cpu')
    pixels = photo(64, 96)
    metric = pyiqa.create_metric('rali-lite', device='cpu')
    images = as_tensor(Image.fromarray(pixels))
    found = metrics.verdict('rali-lite', pixels)
    explained = metric.net.explain(images)[0]
    assert found['score'] == float(metric(images)) == pytest.approx(explained.score, abs=1e-6)
    assert found['texts'][0] == {'text': explained.texts[0].text, 'cosine': pytest.approx(explained.texts[0].cosine, abs=1e-4)}
    assert found['votes'][0]['share'] == pytest.approx(explained.votes[0].share, abs=1e-4)
    assert found['votes'][0]['label'] == label_of(explained.votes[0].distortion)
    assert len(found['basis']['weights']) == len(explained.weights)
    assert sum(weight * score for weight, score in zip(found['basis']['weights'], found['basis']['scores'], strict=True)) == (
        pytest.approx(found['score'], abs=0.01))
    assert metrics.load('rali-lite').facts() == {
        **metrics.load('rali-lite').facts(), 'label': 'rali-lite', 'ends': [1, 5], 'lower_better': False, 'map': True}
    other = metrics.verdict('piqe', pixels)
    assert other == {'score': float(pyiqa.create_metric('piqe', device='cpu')(images))}
    assert metrics.load('piqe').facts() == {'label': 'piqe', 'ends': [0, 100], 'lower_better': True, 'map': False}


def test_intervals_are_those_of_the_checkpoint(tmp_path):
    import torch

    from pyiqa_rali.model.checkpoint import save_checkpoint
    from pyiqa_rali.model.rali import RALI
    from tests.unit.test_intervals import calibrated
    from tests.unit.test_rali import random_rali
    save_checkpoint(tmp_path / 'rali.safetensors', *calibrated(random_rali()))
    metrics = PageMetrics(choices(['rali'], str(tmp_path / 'rali.safetensors')), 'cpu')
    pixels = photo(96, 96)
    found = metrics.verdict('rali (rali.safetensors)', pixels)
    net = RALI(pretrained_model_path=str(tmp_path))
    expected = net.score_with_interval(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    assert found['low'] == pytest.approx(float(expected.low)) and found['high'] == pytest.approx(float(expected.high))
    assert found['low'] <= found['score'] <= found['high'] and found['coverage'] == 0.9
    assert found['unlike'] == bool(expected.unlike) and 'votes' not in found  # it has no bank


def test_a_metric_that_cannot_answer_says_why():
    metrics = PageMetrics(choices(['rali-lite'], None), 'cpu')
    assert '16' in metrics.verdict('rali-lite', photo(8, 8))['error']
    assert 'not one of the metrics rali-lite' in metrics.verdict('qalign', photo())['error']
    with pytest.raises(DataError, match='plain has no map'):
        PageMetric('plain', None, False).where(photo())
    assert PageMetric('plain', None, False).ends is None


def test_a_score_that_is_not_finite_is_a_reason():
    metrics = PageMetrics(choices(['piqe'], None), 'cpu')
    black = np.zeros((64, 64, 3), np.uint8)  # in which PIQE finds no block to divide by
    assert metrics.verdict('piqe', black) == {'error': 'the score is nan'}
    assert metrics.verdict('piqe', photo(64, 64))['score'] > 0


def test_labels_of_votes():
    assert label_of('jpeg') == 'JPEG blocking' and label_of(PRISTINE) == 'no distortion' and label_of('own_type') == 'own type'


def test_answers_have_a_reason_or_a_result():
    albums = Albums(Limits())
    answers = Answers(PageMetrics(choices(['rali-lite'], None), 'cpu'), albums, private=True)
    functions = {function.__name__: function for function in answers.functions()}
    started = functions['start']('')
    album = started['album']
    assert started['metrics'] == ['rali-lite'] and started['private'] and '.jpg' in started['extensions']
    picture = albums.add(album, 'a.png', png(photo(64, 96)))
    first = functions['score'](album, picture.key, 'rali-lite')
    assert first['verdict'] is functions['score'](album, picture.key, 'rali-lite')['verdict']  # computed once
    plain = functions['distort'](album, picture.key, 'rali-lite', '{}', False)
    assert plain['verdict']['score'] == first['verdict']['score'] and 'picture' not in plain
    worse = functions['distort'](album, picture.key, 'rali-lite', '{"noise": 50}', True)
    assert worse['verdict']['score'] != plain['verdict']['score'] and worse['picture'].startswith('data:image/jpeg;base64,')
    for name, values, message in (
            ('distort', (album, picture.key, 'rali-lite', '{"noise": 51}', False), 'Noise: 51 must be'),
            ('distort', (album, picture.key, 'rali-lite', '[', False), 'not JSON'),
            ('distort', (album, picture.key, 'rali-lite', '[]', False), 'is no object'),
            ('score', ('unknown', picture.key, 'rali-lite'), 'no longer there'),
            ('score', (album, picture.key, 'x' * 99), 'is not one of the metrics rali-lite'),
            ('score', (album, '../../etc/passwd', 'rali-lite'), 'no longer there'),
            ('remove', (album, '{}'), 'is no list')):
        assert message in functions[name](*values)['error']
    assert functions['start'](album)['pictures'][0]['verdicts'] == {'rali-lite': first['verdict']}  # nothing of 'xxx'
    assert functions['remove'](album, json.dumps([picture.key])) == {} and functions['start'](album)['pictures'] == []


# ---- the command ----

def test_arguments_are_checked_before_anything_is_loaded(capsys):
    for words, message in ((['--port', '70000'], '--port: 70000 must be'), (['--max-file-mb', '0'], '--max-file-mb: 0 must be'),
                           (['--pixel-limit', '0'], '--pixel-limit: 0 must be'), (['-m', 'nope'], '"nope" is not known'),
                           (['--weights', '/nowhere.safetensors'], 'nowhere')):
        assert main(['app', *words]) == 2
        assert message in capsys.readouterr().err
    assert Address().host == '127.0.0.1'  # unless told
    assert build_parser('app').parse_args(['app']).host == '127.0.0.1'


def test_what_is_measured_is_told():
    waits = Waits(2.0, 4.0, 3.5, (0.1,) * 39 + (0.4,), 0.08)
    assert waits.in_time and not Waits(2, 5.1, 5, (0.1,), 0.1).in_time and not Waits(2, 4, 4, (0.1, 0.5), 0.1).in_time
    assert 'computed 3.50 s' in as_text(waits) and 'computed 80 ms of each' in as_text(waits)
    assert 'first score 4.00 s' in as_text(waits) and 'median 100 ms' in as_text(waits) and 'longest 400 ms' in as_text(waits)
