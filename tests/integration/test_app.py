"""The page as it is served: what its server answers and what not, and a real browser that uses it."""

import csv
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from pyiqa_rali.app.albums import Albums, Limits
from pyiqa_rali.app.metrics import PageMetrics, choices
from pyiqa_rali.app.server import Address, launch
from tests.integration.test_report import browser, luminance

pytestmark = pytest.mark.slow

CONTROLS = ('button', 'slider', 'combobox', 'checkbox', 'link', 'tab', 'listbox', 'textbox', 'dialog', 'progressbar', 'img',
            'image')
METRICS = ('rali-lite', 'rali-lite-v1')
PATIENCE = 180_000  # milliseconds; other programs may be busy


@pytest.fixture(scope='module')
def url() -> Iterator[str]:
    """The address of a page with small limits."""
    albums = Albums(Limits(file_mb=1, pictures=30))
    server, address = launch(PageMetrics(choices(METRICS, None), 'cpu'), albums, Address(port=0))
    yield address
    server.get_blocks().close(verbose=False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Pictures of falling quality, one in a folder below, one that is broken, and a file that is none."""
    folder = tmp_path_factory.mktemp('pictures') / 'holiday'
    (folder / 'more').mkdir(parents=True)
    face = Image.fromarray(astronaut()).crop((100, 0, 356, 192)).resize((128, 96), Image.Resampling.LANCZOS)
    clear = np.asarray(face).astype(float)
    rng = np.random.default_rng(0)
    for name, noise in (('a.png', 0), ('b <i>&.png', 25), ('more/c.png', 70)):
        pixels = np.clip(clear + rng.normal(0, 1, (96, 128, 3)) * noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / 'broken.png').write_bytes((folder / 'a.png').read_bytes()[:200])
    (folder / 'notes.txt').write_text('no picture')
    return folder


# ---- the server ----

def request(url: str, method: str, path: str, body: bytes = b'', headers: dict | None = None) -> tuple[int, bytes, dict]:
    """Send one request exactly as it is written; return status, body and headers."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    connection.putrequest(method, path, skip_host='host' in (headers or {}), skip_accept_encoding=True)
    for name, value in {'content-length': str(len(body)), **(headers or {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, {name.lower(): value for name, value in answer.getheaders()}


def ask(url: str, name: str, *values) -> dict:
    status, body, _ = request(url, 'POST', f'/gradio_api/run/{name}', json.dumps({'data': values}).encode(),
                              {'content-type': 'application/json'})
    assert status == 200, body
    return json.loads(body)['data'][0]


def send(url: str, album: str, path: Path, name: str = '') -> dict:
    status, body, _ = request(url, 'POST', f'/pictures?album={quote(album)}&name={quote(name or path.name)}', path.read_bytes())
    assert status == 200, body
    return json.loads(body)


SECRETS = ('/etc/passwd', 'pyiqa_rali/app/server.py')
FORMS = ('/{}', '/gradio_api/file={}', '/gradio_api/file/{}', '/file={}', '/static/{}', '/assets/{}', '/gradio_api/static/{}',
         '/custom_component/x/client/component/{}', '/gradio_api/custom_component/x/client/component/{}', '/svelte/{}',
         '/pictures/x/{}/thumb', '/pictures/x/y/{}', '/gradio_api/proxy=file://{}', '/gradio_api/proxy=http://127.0.0.1{}',
         '/gradio_api/stream/x/{}', '/gradio_api/upload_progress?upload_id={}', '/gradio_api/component_server/{}')
WAYS = ('{}', '../{}', '../../../../../../..{}', '..%2f..%2f..%2f..%2f..%2f..{}', '%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{}',
        '%252e%252e{}', '....//....//....//..{}', '..\\..\\..\\..{}', '/{}', './/..//..//..//..//..{}', '{}%00.png', 'file://{}')


def test_no_file_of_the_server_can_be_read(url):
    tried = 0
    for form in FORMS:
        for way in WAYS:
            for secret in SECRETS:
                path = form.format(way.format(secret).replace(' ', ''))
                status, body, _ = request(url, 'GET', path)
                assert status == 404 and len(body) < 100, (path, status, body[:200])
                tried += 1
    assert tried == len(FORMS) * len(WAYS) * len(SECRETS)


def test_a_value_that_names_a_file_is_a_value(url, tmp_path):
    secret = tmp_path / 'secret.txt'
    secret.write_text('the word is swordfish')
    named = {'path': str(secret), 'meta': {'_type': 'gradio.FileData'}, 'url': f'file://{secret}', 'orig_name': 'x'}
    album = ask(url, 'start', '')['album']
    for name, values in (('start', [named]), ('score', [album, named, METRICS[0]]), ('remove', [album, json.dumps([named])]),
                         ('distort', [album, str(secret), METRICS[0], json.dumps({'jpeg': named}), True])):
        status, body, _ = request(url, 'POST', f'/gradio_api/run/{name}', json.dumps({'data': values}).encode(),
                                  {'content-type': 'application/json'})
        assert status in (200, 400, 422, 500) and b'swordfish' not in body, body


def test_other_sites_and_other_names_are_refused(url):
    body = json.dumps({'data': ['']}).encode()
    own = url.rstrip('/')
    for headers, status in (({'origin': own}, 200), ({'origin': 'http://example.com'}, 403),
                            ({'sec-fetch-site': 'cross-site'}, 403), ({'host': 'rebound.example'}, 403)):
        assert request(url, 'POST', '/gradio_api/run/start', body, {'content-type': 'application/json', **headers})[0] == status
    assert request(url, 'OPTIONS', '/gradio_api/run/start', b'', {'origin': 'http://example.com',
                                                                  'access-control-request-method': 'POST'})[0] in (403, 404)


def test_the_page_and_its_parts_come_with_a_policy_that_allows_nothing_from_elsewhere(url):
    for path, kind in (('/', 'text/html'), ('/page.css', 'text/css'), ('/page.js', 'text/javascript'),
                       ('/icon.svg', 'image/svg+xml')):
        status, body, headers = request(url, 'GET', path)
        assert status == 200 and headers['content-type'].startswith(kind)
        assert headers['content-security-policy'].startswith("default-src 'none'; script-src 'self'")
        assert headers['cache-control'] == 'no-store'
        elsewhere = set(re.findall(rb'(?:https?:)?//[\w.-]+', body)) - {b'http://www.w3.org'}  # the name of SVG's elements
        assert not {each for each in elsewhere if b'.' in each}, elsewhere


def test_uploads_scores_and_the_table(url, folder):
    album = ask(url, 'start', '')['album']
    good, bad, broken = (send(url, album, folder / name) for name in ('a.png', 'more/c.png', 'broken.png'))
    assert (good['width'], good['height'], good['error']) == (128, 96, '') and broken['error']
    scores = [ask(url, 'score', album, each['key'], METRICS[0])['verdict']['score'] for each in (good, bad)]
    assert scores[0] > scores[1]
    assert ask(url, 'score', album, broken['key'], METRICS[0])['verdict'] == {'error': broken['error']}
    status, thumb, headers = request(url, 'GET', f'/pictures/{album}/{good["key"]}/thumb')
    assert status == 200 and headers['content-type'] == 'image/jpeg' and Image.open(io.BytesIO(thumb)).size == (128, 96)
    other = ask(url, 'start', '')['album']
    assert request(url, 'GET', f'/pictures/{other}/{good["key"]}/thumb')[0] == 404
    assert 'error' in ask(url, 'score', other, good['key'], METRICS[0])
    rows = list(csv.DictReader(io.StringIO(request(url, 'GET', f'/scores.csv?album={album}')[1].decode())))
    assert [row['image'] for row in rows] == ['a.png', 'c.png', 'broken.png']
    assert [float(row['score']) for row in rows[:2]] == scores and rows[2]['error'] == broken['error']
    assert request(url, 'GET', f'/scores.csv?album={other}')[1].count(b'\n') == 1


def test_uploads_have_limits(url, folder):
    album = ask(url, 'start', '')['album']
    where = f'/pictures?album={album}&name=x'
    assert request(url, 'POST', where, b'x' * ((1 << 20) + 1))[0] == 413
    with pytest.raises((http.client.HTTPException, OSError)):  # it promises less than it sends
        status, body, _ = request(url, 'POST', where, b'x' * (1 << 22), {'transfer-encoding': 'chunked'})
        raise http.client.HTTPException(f'{status} {body}') if status >= 400 else AssertionError(status)
    assert ask(url, 'start', album)['pictures'] == []
    small = (folder / 'a.png').read_bytes()
    answers = [request(url, 'POST', where, small) for _ in range(31)]
    assert [answer[0] for answer in answers] == [200] * 30 + [413]
    assert 'at most 30 pictures' in json.loads(answers[-1][1])['error']
    assert request(url, 'POST', '/pictures?album=unknown&name=x', small)[0] == 404


def test_many_at_once_get_the_scores_that_they_get_alone(url, folder):
    album = ask(url, 'start', '')['album']
    keys = [send(url, album, folder / name)['key'] for name in ('a.png', 'b <i>&.png', 'more/c.png')]
    alone = {key: ask(url, 'distort', album, key, METRICS[0], '{}', False)['verdict']['score'] for key in keys}
    found: list[tuple[str, float]] = []

    def one(key):
        found.append((key, ask(url, 'score', album, key, METRICS[0])['verdict']['score']))

    threads = [threading.Thread(target=one, args=(key,)) for key in keys * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 9 and all(score == alone[key] for key, score in found)


def test_the_command_listens_on_this_computer_alone_and_ends_with_a_signal(tmp_path):
    hostile = {'GRADIO_SERVER_NAME': '0.0.0.0', 'GRADIO_SHARE': 'True', 'GRADIO_ANALYTICS_ENABLED': 'True'}
    process = subprocess.Popen([sys.executable, '-m', 'pyiqa_rali', 'app', '--port', '0'], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, **hostile})
    line = process.stdout.readline().strip()
    assert re.fullmatch(r'http://127\.0\.0\.1:\d+/', line), line + process.stderr.read()
    port = urlsplit(line).port
    listening = [each.split()[1] for each in Path('/proc/net/tcp').read_text().splitlines()[1:] if each.split()[3] == '0A']
    assert f'0100007F:{port:04X}' in listening and f'00000000:{port:04X}' not in listening
    assert request(line, 'GET', '/')[0] == 200
    process.send_signal(2)
    assert process.wait(60) == 130
    out, err = process.communicate()
    assert out == '' and err.strip() == 'pyiqa-rali app: interrupted'
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_gradio_is_imported_without_writing_stubs():
    code = ('import sys\nfrom pyiqa_rali.app.gradio_import import import_gradio\ngradio = import_gradio()\n'
            'writer = sys.modules["gradio.component_meta"].create_or_modify_pyi\n'
            'assert writer.__module__ == "pyiqa_rali.app.gradio_import", writer\n'
            'assert gradio.Server and sys.modules["gradio.component_meta"].__spec__.loader.get_filename()\n'
            'assert not [each for each in sys.meta_path if type(each).__module__.startswith("pyiqa_rali.app")]')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=300)


def test_a_port_that_is_taken_is_named(url, capsys):
    from pyiqa_rali.__main__ import main
    port = str(urlsplit(url).port)
    assert main(['app', '--port', port, '-m', 'rali-lite-v1']) == 2
    assert f'--host 127.0.0.1 --port {port}: ' in capsys.readouterr().err


# ---- the browser ----

@pytest.fixture(scope='module')
def chromium() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser(), args=['--no-sandbox'])
        yield opened
        opened.close()


class Opened:
    """A page of the app in the browser, and everything that it asked for and complained about."""

    def __init__(self, chromium, url: str, width: int = 1280, dark: bool = False):
        self.context = chromium.new_context(viewport={'width': width, 'height': 900}, color_scheme='dark' if dark else 'light',
                                            accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.asked, self.faults = [], []
        self.page.on('filechooser', lambda chooser: None)  # caught from now on; asking for it later could come too late
        self.page.on('request', lambda each: self.asked.append(each.url))
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.on('console', lambda line: self.faults.append(line.text) if line.type in ('error', 'warning') else None)
        self.page.goto(url)
        self.page.wait_for_selector('#limits:not(:empty)')

    def until(self, expression: str) -> None:
        """Wait until an expression of JavaScript holds; the page's own policy forbids Playwright's way of waiting."""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression + self.page.inner_text('body')
            time.sleep(0.1)

    def add(self, folder: Path, scored: int = 3) -> None:
        """Add a folder and wait for its scores."""
        self.page.set_input_files('#folder', folder)
        self.idle(scored)

    def idle(self, scored: int) -> None:
        """Wait until so many pictures are scored and nothing is left to do."""
        self.until(f"document.querySelectorAll('.card').length === {scored} && document.getElementById('working').hidden")

    def scores(self) -> list[float]:
        """Return the scores in the gallery, in its order."""
        return [float(text) for text in self.page.locator('.card .score').all_inner_texts()]

    def focused(self) -> str:
        """Return the id, or the accessible name, of what has the focus."""
        return self.page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || "
                                  'document.activeElement.tagName')

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, what: str, limit: int = 60) -> None:
        """Press Tab until something has the focus."""
        for _ in range(limit):
            if self.focused() == what:
                return
            self.press('Tab')
        raise AssertionError(f'Tab does not lead to {what}')

    def unnamed(self) -> list:
        """Return the roles of the controls that have no accessible name, from the browser's accessibility tree."""
        session = self.context.new_cdp_session(self.page)
        nodes = session.send('Accessibility.getFullAXTree')['nodes']
        controls = [node for node in nodes if not node.get('ignored') and node['role']['value'] in CONTROLS]
        assert controls
        return [node['role']['value'] for node in controls if not node.get('name', {}).get('value', '').strip()]

    def wide(self) -> list:
        """Return what reaches beyond the right edge."""
        return self.page.evaluate("""[...document.querySelectorAll('body *')]
            .filter(each => each.offsetParent && !each.closest('.layers'))
            .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
            .map(each => each.tagName + each.id)""")

    def overlapping(self) -> list:
        """Return the names in rows of bars that reach into the numbers beside them."""
        return self.page.evaluate("""[...document.querySelectorAll('.bars .number')]
            .filter(each => each.offsetParent && each.parentElement.querySelector('.track'))
            .map(each => [each, [...each.parentElement.children][[...each.parentElement.children].indexOf(each) - 2]])
            .filter(([number, name]) => { const range = document.createRange(); range.selectNodeContents(name);
                const other = range.getBoundingClientRect(), own = number.getBoundingClientRect();
                return other.right > own.left + 1 && other.bottom > own.top + 1 && other.top < own.bottom - 1; })
            .map(([number, name]) => name.textContent)""")

    def close(self) -> None:
        """Check that nothing was asked for elsewhere and nothing went wrong, and close."""
        hosts = {urlsplit(each).hostname for each in self.asked if not each.startswith('data:')}
        assert hosts == {'127.0.0.1'}, hosts
        assert self.faults == []
        self.context.close()


@pytest.mark.browser
@pytest.mark.parametrize(('width', 'dark'), [(1280, False), (1280, True), (390, False), (390, True)])
def test_pictures_are_scored_sorted_and_explained(chromium, url, folder, width, dark):
    opened = Opened(chromium, url, width, dark)
    page = opened.page
    assert page.locator('#choose').is_visible() and not opened.wide() and not opened.unnamed()
    opened.add(folder)
    assert opened.scores() == sorted(opened.scores(), reverse=True)
    assert page.locator('.card .name').all_inner_texts()[0] == 'holiday/a.png'
    assert 'holiday/b <i>&.png' in page.locator('.card .name').all_inner_texts()  # a name is a name, not HTML
    assert page.inner_text('#status') == 'Done: 3 scored, 1 not; 1 other file left out.'
    assert 'holiday/broken.png' in page.inner_text('#failed-list')
    page.select_option('#sort', 'worst')
    assert opened.scores() == sorted(opened.scores())
    assert not opened.wide() and not opened.unnamed()
    colours = page.evaluate('(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))')
    assert (luminance(colours[0]) < luminance(colours[1])) == dark
    page.locator('.card .open').first.click()
    assert page.locator('#detail .big b').inner_text() == f'{opened.scores()[0]:.2f}'
    for heading in ('What it looks like', 'Nearest texts', 'Basis'):
        assert page.locator('#why h3', has_text=heading).count() == 1
    opened.until("document.getElementById('shown').naturalWidth === 128")
    assert not opened.wide() and not opened.unnamed()
    page.click('#close-detail')
    opened.close()


@pytest.mark.browser
def test_sliders_answer_with_a_picture_a_score_and_a_curve(chromium, url, folder):
    opened = Opened(chromium, url)
    page = opened.page
    opened.add(folder)
    page.locator('.card .open').first.click()
    page.click('#tab-distort')
    page.wait_for_selector('#answered:not(:empty)')
    plain = page.locator('#detail .big b').inner_text()
    assert plain == page.locator('.card .score').first.inner_text()  # the sliders change nothing yet
    before = page.get_attribute('#shown', 'src')
    page.focus('#slider-noise')
    for _ in range(33):
        page.keyboard.press('ArrowRight')
    assert page.inner_text('#value-noise') == '33 of 255'
    opened.until("document.querySelectorAll('#curve circle.point').length >= 10")  # nine places and the slider's own
    assert page.get_attribute('#shown', 'src') != before
    assert float(page.locator('#detail .big b').inner_text()) < float(plain)
    assert f'original {plain}' in page.inner_text('#detail-score')
    assert int(page.get_attribute('#answered', 'data-ms')) > 0
    assert 'noise' in page.inner_text('#curve-caption') and 'noise' in page.inner_text('#distort-votes')
    page.click('#original')
    assert page.get_attribute('#shown', 'src').endswith('/view') and page.get_attribute('#original', 'aria-pressed') == 'true'
    page.click('#reset')
    opened.until("document.getElementById('value-noise').textContent === '0 of 255'")
    opened.until(f"document.querySelector('#detail .big b').textContent === '{plain}'")
    opened.close()


@pytest.mark.browser
@pytest.mark.parametrize('width', [1280, 360])
def test_two_pictures_and_two_metrics_side_by_side(chromium, url, folder, width):
    opened = Opened(chromium, url, width)
    page = opened.page
    opened.add(folder)
    for index in (0, 2):
        page.locator('.card .pick input').nth(index).check()
    page.click('#compare')
    opened.until("/left one is better by/.test(document.getElementById('versus-summary').textContent)")
    assert not opened.unnamed() and not opened.wide() and not opened.overlapping()
    page.click('#swap')
    opened.until("/right one is better by/.test(document.getElementById('versus-summary').textContent)")
    page.get_by_label('Metric on the right').select_option(METRICS[1])
    opened.until("/their scales differ/.test(document.getElementById('versus-summary').textContent)")
    shown = page.locator('#versus-sides .big b').all_inner_texts()
    assert len(shown) == 2
    page.click('#close-versus')
    page.select_option('#metric', METRICS[1])
    opened.idle(3)
    opened.until("document.querySelectorAll('.card .score').length === 3")
    assert shown[1] in page.locator('.card .score').all_inner_texts()
    with page.expect_download() as download:
        page.click('#csv')
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == 3 * 2 + 1 and {row['metric'] for row in rows} == {*METRICS, ''}
    opened.close()


@pytest.mark.browser
def test_the_keyboard_alone(chromium, url, folder):
    opened = Opened(chromium, url)
    page = opened.page
    opened.tab_to('choose')
    with page.expect_file_chooser() as chooser:  # the window of the system, which is not the page's
        opened.press('Enter')
    chooser.value.set_files([folder / 'a.png', folder / 'more' / 'c.png'])
    opened.idle(2)
    opened.tab_to('add-folder')
    with page.expect_file_chooser() as chooser:
        opened.press('Space')
    assert chooser.value.element.get_attribute('id') == 'folder'
    opened.tab_to('sort')
    opened.press('ArrowDown')  # worst first
    assert opened.scores() == sorted(opened.scores())
    page.keyboard.press('Tab')
    assert opened.focused() == 'compare'
    opened.press('Tab')
    assert opened.focused().startswith('c.png: score')
    outline = page.evaluate("getComputedStyle(document.activeElement.closest('.card')).outlineStyle")
    assert outline == 'solid'  # one sees where one is
    opened.press('ArrowRight')
    assert opened.focused().startswith('a.png: score')
    opened.press('Home', 'Enter')
    page.wait_for_selector('#detail[open]')
    assert page.inner_text('#detail-name') == 'c.png'
    opened.press('ArrowRight')
    assert page.inner_text('#detail-name') == 'a.png'
    opened.tab_to('tab-why')
    opened.press('ArrowRight')
    assert opened.focused() == 'tab-distort' and page.is_visible('#distort')
    opened.tab_to('slider-jpeg')
    opened.press('Home')
    assert page.inner_text('#value-jpeg') == '5' and page.inner_text('#detail-name') == 'a.png'
    opened.until("document.querySelectorAll('#curve circle.here').length === 1")
    opened.press('Escape')
    page.wait_for_selector('#detail', state='hidden')
    assert opened.focused().startswith('a.png: score')  # back where one was
    opened.press('Tab')
    assert opened.focused() == 'Put a.png side by side'
    opened.press('Space')
    assert page.locator('.card.picked').count() == 1
    opened.press(*['Shift+Tab'] * 4)
    assert opened.focused() == 'compare'
    opened.press('Enter')
    opened.until("/better by/.test(document.getElementById('versus-summary').textContent)")
    for _ in range(12):  # the focus stays in the sheet, or goes to the browser's own controls
        opened.press('Tab')
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('#versus')")
    opened.press('Escape')
    page.wait_for_selector('#versus', state='hidden')
    opened.close()


@pytest.mark.browser
def test_a_folder_is_dropped_on_the_page(chromium, url, folder):
    opened = Opened(chromium, url)
    session = opened.context.new_cdp_session(opened.page)
    data = {'items': [], 'files': [str(folder)], 'dragOperationsMask': 1}
    for kind in ('dragEnter', 'dragOver', 'drop'):
        session.send('Input.dispatchDragEvent', {'type': kind, 'x': 400, 'y': 400, 'data': data})
        assert opened.page.evaluate("document.body.classList.contains('dragging')") == (kind != 'drop')
    opened.idle(3)
    names = sorted(opened.page.locator('.card .name').all_inner_texts())
    assert names == ['holiday/a.png', 'holiday/b <i>&.png', 'holiday/more/c.png']
    opened.close()


@pytest.mark.browser
def test_what_cannot_be_read_of_a_dropped_folder_is_told_and_the_rest_is_taken(chromium, url, folder):
    opened = Opened(chromium, url)
    content = list((folder / 'a.png').read_bytes())
    opened.page.evaluate("""content => {
        const denied = (take, refuse) => refuse(new DOMException('denied by the system', 'NotReadableError'));
        const picture = new File([new Uint8Array(content)], 'a.png');
        const good = {isFile: true, fullPath: '/set/a.png', file: take => take(picture)};
        const bad = {isFile: true, fullPath: '/set/b.png', file: denied};
        const parts = [[good, bad], []];
        const set = {isDirectory: true, createReader: () => ({readEntries: take => take(parts.shift())})};
        const locked = {isDirectory: true, createReader: () => ({readEntries: denied})};
        const event = new Event('drop', {cancelable: true, bubbles: true});
        event.dataTransfer = {types: ['Files'], files: [], items: [set, locked].map(each => ({webkitGetAsEntry: () => each}))};
        document.body.dispatchEvent(event);
    }""", content)
    opened.idle(1)
    assert opened.page.locator('.card .name').all_inner_texts() == ['set/a.png']
    assert '2 of the dropped files and folders cannot be read: denied by the system' in opened.page.inner_text('#problem')
    opened.close()


@pytest.mark.browser
def test_a_reload_keeps_the_pictures_and_removing_forgets_them(chromium, url, folder):
    opened = Opened(chromium, url)
    page = opened.page
    opened.add(folder)
    scores = opened.scores()
    page.reload()
    opened.idle(3)
    assert opened.scores() == scores
    other = Opened(chromium, url)
    assert other.page.locator('.card').count() == 0  # a page of its own
    other.close()
    page.click('#clear')
    opened.until("document.body.classList.contains('empty')")
    page.reload()
    page.wait_for_selector('#limits:not(:empty)')
    assert page.locator('.card').count() == 0
    opened.close()


@pytest.mark.browser
def test_what_is_too_large_is_told(chromium, url, folder, tmp_path):
    opened = Opened(chromium, url)
    large = tmp_path / 'large.png'
    large.write_bytes(b'x' * ((1 << 20) + 1))
    shutil.copy(folder / 'a.png', tmp_path / 'a.png')
    opened.page.set_input_files('#files', [large, tmp_path / 'a.png'])
    opened.idle(1)
    assert 'large.png: it is larger than 1 MB; start with --max-file-mb' in opened.page.inner_text('#failed-list')
    opened.close()
