"""The site: it builds with warnings as errors, fetches nothing, follows the code, and fits a phone."""

import dataclasses
import doctest
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyiqa_rali.__main__ import COMMANDS
from pyiqa_rali.data.sections import ManifestOptions, TableOptions
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.evaluation.options import EvaluateOptions, StatisticsOptions
from pyiqa_rali.studies.ablation.plan import AblationOptions
from pyiqa_rali.studies.chain.options import ChainOptions
from pyiqa_rali.training.rali.options import AlignOptions, CompressOptions, ScoreOptions, TrainOptions
from pyiqa_rali.training.vlm.options import GrpoOptions, RewardOptions, SftOptions
from pyiqa_rali.training.vlm.ract import RactOptions
from pyiqa_rali.vlm.degradations import DegradationOptions
from tests.docs.pages import PAGES, SITE

pytestmark = pytest.mark.slow
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
ARGUMENTS = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
             '--disable-sync', '--disable-component-update', '--allow-file-access-from-files', '--virtual-time-budget=15000')
# runs inside each page and hands what it sees to the page around it
PROBE = """<script>
const luminance = colour => {  // of any notation: what a canvas paints
  const canvas = document.createElement('canvas').getContext('2d');
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).reduce((sum, each) => sum + each);
};
addEventListener('load', () => setTimeout(() => {
  const wide = [...document.querySelectorAll('.md-content *')].filter(item =>
    !item.closest('pre, table, math, .md-typeset__scrollwrap, .formula') &&
    item.getBoundingClientRect().right > innerWidth + 1);
  const body = getComputedStyle(document.body);
  parent.postMessage({page: location.pathname.split('/').pop(), scroll: document.documentElement.scrollWidth, width: innerWidth,
    wide: wide.map(item => item.tagName + ' ' + item.textContent.slice(0, 40)),
    broken: [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src),
    paper: luminance(body.backgroundColor), ink: luminance(body.color)}, '*');
}, 100));
</script>"""


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp('site')
    build = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-f', str(SITE / 'mkdocs.yml'), '-d', str(folder)]
    result = subprocess.run(build, capture_output=True, text=True, timeout=600,
                            env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'})
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope='module')
def reference():
    """The module that makes the reference pages."""
    spec = importlib.util.spec_from_file_location('reference', SITE / 'reference.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_built_and_fetches_nothing(site):
    built = {path.stem for path in site.glob('*.html')} - {'404'}
    assert built == {page.stem for page in PAGES if page.name != 'README.md'}
    for path in site.glob('*.html'):
        text = path.read_text()
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="?([^" >]+)', text)
        loaded += re.findall(r'<link[^>]*\brel="?(?:stylesheet|icon|preload|preconnect)"?[^>]*\bhref="?([^" >]+)', text)
        loaded += re.findall(r'<link[^>]*\bhref="?([^" >]+)"?[^>]*\brel="?(?:stylesheet|icon|preload|preconnect)', text)
        assert not [each for each in loaded if '//' in each], path.name
        assert 'class="arithmatex"' not in text and '<!-- options:' not in text and '<!-- help:' not in text


def test_formulas_are_mathml(site):
    text = (site / 'method.html').read_text()
    assert text.count('<math ') > 30 and 'display="block"' in text and '\\frac' not in re.sub(r'<math.*?</math>', '', text)


@pytest.mark.parametrize('section', [
    TrainOptions, AlignOptions, CompressOptions, ScoreOptions, GrpoOptions, SftOptions, RewardOptions, RactOptions,
    ChainOptions, TableOptions, ManifestOptions, DegradationOptions, SyntheticOptions, EvaluateOptions, StatisticsOptions,
    AblationOptions])
def test_every_option_is_in_the_reference_with_its_meaning(site, reference, section):
    keys = {item.name for item in dataclasses.fields(section)} - {'model_type'}
    texts = reference.attribute_texts(section)
    assert not [key for key in keys if not texts.get(key)]
    page = (site / 'options.html').read_text()
    rows = re.findall(r'<tr>\s*<td><code>(\w+)</code></td>\s*<td>.*?</td>\s*<td>(.*?)</td>', page, re.DOTALL)
    shown = {(key, plain_text(meaning)) for key, meaning in rows}
    assert not {(key, plain_text(texts[key].replace('`', ''))) for key in keys} - shown


def plain_text(text: str) -> str:
    """Return text without tags, entities and differences in white space."""
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', '', text)).split())


def test_every_command_is_in_the_reference(site):
    text = html.unescape(re.sub(r'<[^>]+>', '', (site / 'commands.html').read_text()))
    for name in COMMANDS:
        assert f'usage: pyiqa-rali {name} ' in text
    assert 'usage: python -m pyiqa_rali.train' in text and '--auto_resume' in text


def seen(site: Path, width: int, dark: bool, folder: Path) -> list[dict]:
    """Show every page in a frame of a width, and return what the probes saw."""
    probed = folder / 'site'
    shutil.copytree(site, probed)
    pages = sorted(page for page in probed.glob('*.html') if page.stem != '404')  # which has absolute paths
    for page in pages:
        page.write_text(page.read_text().replace('</head>', PROBE + '</head>', 1))
    frames = ''.join(f'<iframe src="{page.name}" style="width: {width}px; height: 900px; border: 0"></iframe>'
                     for page in pages)
    (probed / 'frames.html').write_text(
        '<body><script>const all = []; addEventListener("message", event => { if (event.data.page) { all.push(event.data); '
        f'document.body.dataset.seen = JSON.stringify(all); }} }});</script>{frames}</body>')
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    assert browser, f'these tests need a Chromium browser: one of {", ".join(BROWSERS)} on the PATH'
    result = subprocess.run([browser, *ARGUMENTS, f'--blink-settings=preferredColorScheme={0 if dark else 1}',
                             f'--user-data-dir={folder / "profile"}', '--window-size=1400,1000', '--dump-dom',
                             (probed / 'frames.html').as_uri()], capture_output=True, text=True, timeout=300)
    found = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert found, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.browser
@pytest.mark.parametrize(('width', 'dark'), [(390, False), (390, True), (1280, False)])
def test_browser_shows_every_page(site, tmp_path, width, dark):
    found = seen(site, width, dark, tmp_path)
    assert {each['page'] for each in found} == {f'{page.stem}.html' for page in PAGES if page.name != 'README.md'}
    for each in found:
        assert each['width'] == width and each['scroll'] <= width, each
        assert not each['wide'] and not each['broken'], each
        assert (each['paper'] < each['ink']) == dark, each


@pytest.mark.browser
def test_browser_searches_pages_that_are_opened_from_the_disk(site, tmp_path):
    browser = next(path for path in map(shutil.which, BROWSERS) if path)
    arguments = [each for each in ARGUMENTS if each != '--allow-file-access-from-files']
    shown = subprocess.run([browser, *arguments, f'--user-data-dir={tmp_path / "profile"}', '--dump-dom',
                            (site / 'index.html').as_uri() + '?q=temperature'], capture_output=True, text=True, timeout=120)
    results = shown.stdout.partition('md-search-result__list')[2]
    assert 'matching documents' in shown.stdout and 'options.html' in results, shown.stderr[-2000:]


def test_examples_of_the_reference(reference):
    from tests.docs import pages
    for module in (reference, pages):
        found = doctest.testmod(module)
        assert found.attempted >= 2 and not found.failed


def test_keys_beyond_those_of_a_base(reference):
    text = reference.option_tables('pyiqa_rali.data.sections:ManifestOptions beyond pyiqa_rali.data.sections:TableOptions')
    assert re.findall(r'^\| `(\w+)`', text, re.MULTILINE) == ['format', 'mos_column']
