"""Reports on real runs: everything a run leaves is found, and a real browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.model.checkpoint import load_checkpoint, save_checkpoint
from pyiqa_rali.model.checkpoint_diagnosis import with_diagnosis
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.training.rali.options import train_options
from pyiqa_rali.training.rali.run import train
from tests.tiny import tiny_options
from tests.unit.test_diagnosis import VALUES, random_tensors

pytestmark = pytest.mark.slow

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
ARGUMENTS = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
             '--disable-component-update', '--disable-sync', '--allow-file-access-from-files', '--virtual-time-budget=4000')
# runs inside the page and hands what it sees to the page around it
PROBE = """<script>
const faults = [];
addEventListener('error', event => faults.push(String(event.message)), true);
addEventListener('load', () => {
  const link = document.querySelector('svg a');
  if (link) link.dispatchEvent(new MouseEvent('mouseenter'));
  const shown = document.getElementById('peek');
  const wide = [...document.querySelectorAll('main *')].filter(item => !item.closest('.wide, pre') &&
    item.getBoundingClientRect().right > innerWidth + 1).map(item => item.tagName);
  const colours = getComputedStyle(document.querySelector('main > section'));
  parent.postMessage({faults, wide, width: innerWidth, scroll: document.documentElement.scrollWidth,
    peek: shown.style.display, peekImages: shown.querySelectorAll('img, .missing').length,
    bars: [...document.querySelectorAll('main .aspects .bar')].map(bar => bar.firstChild.offsetWidth / bar.offsetWidth),
    broken: [...document.images].filter(image => image.complete && !image.naturalWidth).length,
    paper: colours.backgroundColor, ink: colours.color,
    text: getComputedStyle(document.querySelector('svg text') || document.body).fill}, '*');
});
</script>"""


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory) -> Path:
    """The folder of a finished tiny run."""
    folder = tmp_path_factory.mktemp('run')
    path = folder / 'options.yml'
    path.write_text(yaml.safe_dump(tiny_options(folder)))
    train(str(path))
    run = folder / 'experiments' / 'tiny'
    export = run / 'models' / 'rali.safetensors'
    save_checkpoint(export, *with_diagnosis(*load_checkpoint(export), random_tensors(width=16), VALUES))
    return run


@pytest.fixture(scope='module')
def page(run_folder, tmp_path_factory) -> Path:
    """The report on that run."""
    path = tmp_path_factory.mktemp('report') / 'report.html'
    assert main(['report', str(run_folder), '--out', str(path), '--title', 'A tiny run']) == 0
    return path


def test_report_of_a_training_run_tells_what_the_run_found(page, run_folder):
    content, markdown = page.read_text(), page.with_suffix('.md').read_text()
    best = json.loads((run_folder / 'results.json').read_text())['best']
    for text in (content, markdown):
        assert f'{best["val/srcc"]:.3f}' in text
        assert 'Where the scores come from' in text and 'The picture is' in text  # a reasoning text beside a basis vector
    assert content.count('<svg') == 4 and content.count('class="case"') == 6
    assert 'cannot be shown' not in content


def test_cards_of_a_training_run_tell_the_aspects_that_its_export_reads(page, run_folder):
    content, net = page.read_text(), RALI(pretrained_model_path=str(run_folder / 'models' / 'rali.safetensors'))
    _, *cards = content.split('class="case"')
    for card in cards:
        name, = re.findall(r'<b>([^<]*)</b>', card)
        found = net.aspects(run_folder.parents[1] / 'data' / name).of(0)
        told = re.findall(r'<dt>(\w+)</dt>.*?<dd>([\d.]+)</dd>', card)
        assert [aspect for aspect, _ in told] == ['focus', 'noise']
        assert {aspect: float(value) for aspect, value in told} == pytest.approx(found, abs=0.011)  # as kept and as read again
    assert 'aspects of quality' in content and re.search(r'<br>focus \d\.\d\d', page.with_suffix('.md').read_text())


def test_the_options_that_a_report_names_start_the_run_again(run_folder):
    train_options(read_yaml(run_folder / 'options.yml'))


def test_moved_images_are_told_and_not_left_out(run_folder, tmp_path):
    scores = run_folder / 'score' / 'val.csv'
    copy = tmp_path / 'moved'
    shutil.copytree(run_folder, copy)
    (copy / 'score' / 'val.csv').write_text(re.sub(r'/[^,\n]*/(\d+\.png)', r'/nowhere/\1', scores.read_text()))
    assert main(['report', str(copy), '--out', str(tmp_path / 'r.html')]) == 0
    assert (tmp_path / 'r.html').read_text().count('cannot be shown') == 6


def test_report_of_an_evaluation(tmp_path):
    folder = evaluation_folder(tmp_path)
    assert main(['report', str(folder), '--out', str(tmp_path / 'r.html')]) == 0
    content = (tmp_path / 'r.html').read_text()
    for text in ('0.912 [0.880, 0.940]', 'koniq: rali', 'koniq: brisque', 'Beside published values', '1 scores are missing'):
        assert text in content, text
    assert content.count('class="case"') == 2 * 6


def evaluation_folder(folder: Path) -> Path:
    """Write what `evaluate` leaves, with made-up scores of eight pictures."""
    out = folder / 'evaluated'
    (out / 'scores').mkdir(parents=True)
    (out / 'options.yml').write_text('model_type: EVALUATE\n')
    rng = np.random.default_rng(0)
    lines = ['image,mos,rali,brisque']
    for index in range(8):
        path = folder / f'{index}.png'
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
        lines.append(f'{path},{1 + index / 2},{1.1 + index / 2},{"" if index == 7 else 90 - 10 * index}')
    (out / 'scores' / 'koniq.csv').write_text('\n'.join(lines) + '\n')
    row = {'dataset': 'koniq', 'metric': 'rali', 'images': 8, 'scored': 8, 'missing': 0, 'fit': 'ok', 'plcc': .912,
           'plcc_low': .88, 'plcc_high': .94, 'srcc': .9, 'krcc': None, 'rmse': None}
    results = {
        'name': 'evaluated', 'confidence': .95,
        'datasets': {'koniq': {'mos_range': [1, 5], 'lower_better': False, 'images': 8}},
        'metrics': {'rali': {'lower_better': False}, 'brisque': {'lower_better': True}},
        'results': [row, {**row, 'metric': 'brisque', 'scored': 7, 'missing': 1}],
        'significance': [{'dataset': 'koniq', 'metric_a': 'rali', 'metric_b': 'brisque', 'srcc_difference': .1,
                          'srcc_p_holm': .01, 'srcc_better': 'rali', 'plcc_difference': None, 'plcc_p_holm': None,
                          'plcc_better': ''}],
        'paper': [{'metric': 'rali', 'dataset': 'koniq', 'measure': 'srcc', 'ours': .9, 'paper': .922, 'difference': -.022,
                   'source': 'arXiv 2510.11369'}]}
    (out / 'results.json').write_text(json.dumps(results))
    return out


def browser() -> str:
    """Return the program of a Chromium browser; the tests that need one fail without."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    assert found, f'these tests need a Chromium browser: one of {", ".join(BROWSERS)} on the PATH'
    return found


def seen(page: Path, width: int, dark: bool, folder: Path) -> dict:
    """Show a page in a frame of a width and return what its probe saw."""
    probed = folder / 'probed.html'
    probed.write_text(page.read_text().replace('<head>', '<head>' + PROBE))
    frame = folder / 'frame.html'
    frame.write_text('<body><script>addEventListener("message", event => { document.body.dataset.seen = '
                     'JSON.stringify(event.data); });</script>'
                     f'<iframe src="probed.html" style="width: {width}px; height: 900px; border: 0"></iframe></body>')
    scheme = f'--blink-settings=preferredColorScheme={0 if dark else 1}'
    result = subprocess.run([browser(), *ARGUMENTS, scheme, f'--user-data-dir={folder / "profile"}', '--window-size=1400,1000',
                             '--dump-dom', frame.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert found, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(found[1].replace('&quot;', '"').replace('&amp;', '&').replace('&lt;', '<').replace('&gt;', '>'))


def luminance(colour: str) -> float:
    """Return the mean of a CSS colour's channels, 0 to 255."""
    return float(np.mean([int(value) for value in re.findall(r'\d+', colour)[:3]]))


@pytest.mark.browser
@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [1280, 390])
def test_browser_shows_the_report(page, tmp_path, width, dark):
    found = seen(page, width, dark, tmp_path)
    assert found['width'] == width
    assert not found['faults'] and not found['wide'] and not found['broken']
    assert found['scroll'] <= width
    assert found['peek'] == 'block' and found['peekImages'] == 1  # the picture behind a point of the scatter plot
    assert (luminance(found['paper']) < luminance(found['ink'])) == dark
    assert len(found['bars']) == 2 * 6 and max(found['bars']) <= 1 and len(set(found['bars'])) > 4  # of the aspects
    assert found['text'] == found['ink']  # figures follow the page's colours
