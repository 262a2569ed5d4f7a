"""The parts of a report: which pictures are chosen, how figures, pages and Markdown are written."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.figures.scored import curves, histogram, score_scatter
from pyiqa_rali.figures.style import INK, MOST_VECTOR_POINTS, svg_and_png
from pyiqa_rali.model.diagnosis import Aspects
from pyiqa_rali.model.digest import weights_digest
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.report.aspects import MetricAspects, shown_aspects
from pyiqa_rali.report.blocks import (
    NOT_DEFINED,
    Aspect,
    Case,
    Cases,
    Commands,
    Figure,
    Report,
    Section,
    Table,
    Text,
    number,
)
from pyiqa_rali.report.build import section_of, write_report
from pyiqa_rali.report.files_run import MOST_ROWS, ROWS_OF_LONG_TABLES
from pyiqa_rali.report.markdown import write_markdown
from pyiqa_rali.report.page import page
from pyiqa_rali.report.reasoning_run import chain_section
from pyiqa_rali.report.scored import ScoredSet, case, choose_cases, errors_of, scored_section
from tests.unit.test_diagnosis import VALUES, with_random_diagnosis


def read(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def no_picture(anchor: str, kind: str, position: int, lines: list[str]) -> Case:
    return Case(anchor, kind, str(position), lines, problem='not here')


@pytest.mark.parametrize('count', [1, 2, 3, 5, 12, 40])
def test_chosen_cases_are_distinct_and_the_worst_are_the_worst(count):
    rng = np.random.default_rng(count)
    errors, mos = rng.uniform(size=count), rng.uniform(1, 5, count)
    chosen = choose_cases(errors, mos)
    positions = [position for kind in chosen.values() for position in kind]
    assert len(set(positions)) == len(positions) <= count
    assert chosen['worst'] == list(np.argsort(-errors)[:len(chosen['worst'])])
    assert int(errors.argmax()) in chosen['worst']


def test_best_cases_come_from_the_whole_mos_range():
    mos = np.arange(40.0)
    chosen = choose_cases(np.where(mos < 10, 0.0, 0.1), mos)
    assert max(mos[chosen['best']]) >= 30  # the ten smallest errors are all among the lowest MOS


def test_errors_are_in_mos_units_on_one_scale_and_in_ranks_otherwise():
    mos = np.array([1.0, 2, 3, 4])
    assert errors_of(mos + 0.5, mos, same_scale=True).tolist() == [0.5] * 4
    assert errors_of(mos * 100, mos, same_scale=False).tolist() == [0] * 4
    assert errors_of(-mos, mos, same_scale=False, lower_better=True).tolist() == [0] * 4
    assert errors_of(-mos, mos, same_scale=False).max() == 1


@pytest.mark.parametrize(('value', 'text'), [(0.12345, '0.123'), (2, '2.000'), (float('nan'), NOT_DEFINED),
                                             (None, NOT_DEFINED)])
def test_number(value, text):
    assert number(value) == text


def test_scatter_leads_to_its_pictures_and_follows_the_colours_of_the_page():
    mos = np.linspace(1, 5, 20)
    chosen = {'best': [(3, 'a-best-0')], 'typical': [], 'worst': [(7, 'a-worst-0')]}
    svg, png = svg_and_png(score_scatter(mos + 0.1, mos, (1, 5), chosen=chosen))
    links = {value for element in read(svg).iter() for name, value in element.attrib.items() if name.endswith('href')}
    assert {'#a-best-0', '#a-worst-0'} <= links
    assert INK not in svg and 'currentColor' in svg and 'var(--series-1)' in svg
    assert png.startswith(b'\x89PNG')


def test_many_points_are_pixels():
    mos = np.random.default_rng(0).uniform(1, 5, 10_000)
    few, many = (svg_and_png(score_scatter(mos[:count], mos[:count], (1, 5)))[0] for count in (MOST_VECTOR_POINTS, 10_000))
    assert 'data:image/png' in many and 'data:image/png' not in few
    assert len(many) < 250_000


def test_curves_skip_what_is_not_there():
    assert curves({'train': [], 'val': [{'step': 1}]}) is None
    svg, _ = svg_and_png(curves({'train': [{'step': step, 'loss': 1 / (step + 1)} for step in range(2000)]}))
    assert 'train: loss' in svg and len(svg) < 100_000


def test_histogram_of_one_value():
    assert 'basis score' in svg_and_png(histogram(np.array([3.0]), 'basis score', 'count'))[0]


@pytest.mark.parametrize(('count', 'says'), [(0, 'need 3 images'), (1, 'need 3 images'), (2, 'need 3 images'), (3, 'SRCC'),
                                             (10_000, 'SRCC')])
def test_scored_section_is_sensible_with_few_and_many_images(count, says):
    mos = np.random.default_rng(0).uniform(1, 5, count)
    found = ScoredSet('val', 'r1-val', [str(each) for each in range(count)], mos, mos + 0.25, same_scale=True, missing=2)
    section = scored_section(found, no_picture)
    table = section.blocks[0]
    assert any(says in cell for row in table.rows for cell in row)
    assert dict(table.rows)['images'] == str(count + 2) and dict(table.rows)['without a score'] == '2'
    if count:
        assert dict(table.rows)['RMSE'] == '0.250'


def test_correlations_of_constants_do_not_exist():
    found = ScoredSet('val', 'a', list('abc'), np.full(3, 2.0), np.arange(3.0), same_scale=True)
    assert ('correlations', 'do not exist: every image has the same MOS') in scored_section(found, no_picture).blocks[0].rows


def test_a_metric_of_opposite_direction_agrees():
    mos = np.arange(5.0)
    found = ScoredSet('val', 'a', list('abcde'), mos, -mos, same_scale=False, opposite=True)
    assert dict(scored_section(found, no_picture).blocks[0].rows)['SRCC'] == '1.000'


def test_a_picture_that_is_gone_says_so(tmp_path):
    found = case('a', 'best', tmp_path / 'gone.png', ['score 1'])
    assert not found.jpeg and 'cannot be shown' in found.problem


# ---------------------------------- aspects ----------------------------------

def test_a_wrong_aspect_is_told_with_its_clearest_fault():
    clear = torch.tensor([[0.2, 0.8, 0.6], [0.1, 0.2, 0.3]])
    found = Aspects(('focus', 'noise'), 1 - torch.stack([clear[:, :2].amax(dim=1), clear[:, 2]], dim=1),
                    tuple(VALUES['faults']), clear)
    bad, noisy, *others = [each for row in (0, 1) for each in shown_aspects(found, VALUES['faults'], row)]
    assert (bad.remark, noisy.fault, noisy.remark) == ('motion blur', 'noise', '')  # an aspect's own name adds nothing
    assert [each.fault for each in others] == ['', '']
    assert (bad.name, bad.value) == ('focus', pytest.approx(0.2))
    item = Case('a', '', 'x.png', problem='-', aspects=[bad, Aspect('noise', 0.9)])
    content = page(Report('T', [Section('S', [Cases('', [item])])]))
    assert '<div class=wrong><dt>focus</dt>' in content and '<i style="width: 90%">' in content
    assert content.count('<dd class="fault">') == 1 and '<dd class="fault">motion blur</dd>' in content


@pytest.fixture
def evaluated(tmp_path):
    """The weights of a metric with a diagnosis, what an evaluation says of it, and a picture."""
    with_random_diagnosis(tmp_path)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / 'p.png')
    options = {'mine': {'name': 'rali', 'pretrained_model_path': str(tmp_path / 'rali.safetensors')}}
    net = RALI(pretrained_model_path=str(tmp_path / 'rali.safetensors'))
    return options, {'weights_sha256': weights_digest(net), 'lower_better': False}, net, tmp_path


def test_aspects_in_an_evaluation_are_those_of_the_metric(evaluated):
    options, described, net, folder = evaluated
    images = [str(folder / 'p.png'), str(folder / 'gone.png')]
    made = MetricAspects('mine', options, described)
    read = made.of(images)
    assert {each.name: each.value for each in read(0)} == pytest.approx(net.aspects(images[0]).of(0), abs=1e-6)
    assert read(1) == [] and made.remark == ''


def test_aspects_of_other_weights_are_not_shown(evaluated):
    options, described, _, folder = evaluated
    changed = MetricAspects('mine', options, {**described, 'weights_sha256': 'other'})
    assert changed.of(['x']) is None and 'weights of mine have changed since' in changed.remark
    (folder / 'rali.safetensors').unlink()
    gone = MetricAspects('mine', options, described)
    assert gone.of(['x']) is None and 'Aspects are not shown: metrics: mine' in gone.remark
    without = MetricAspects('mine', {'mine': {**options['mine'], 'pretrained_model_path': str(folder / 'plain.safetensors')}},
                            {'weights_sha256': weights_digest(RALI(pretrained_model_path=str(folder / 'plain.safetensors')))})
    assert without.of(['x']) is None and without.remark == ''
    others = MetricAspects('brisque', {'brisque': {}}, described)
    assert others.of(['x']) is None and others.remark == ''


class References(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self):
        super().__init__()
        self.found, self.anchors = [], set()

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ('src', 'href', 'xlink:href'):
                self.found.append(value)
            if name == 'id':
                self.anchors.add(value)


@pytest.fixture
def report(tmp_path) -> Report:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / 'a_b.png')
    mos = np.linspace(1, 5, 6)
    svg, png = svg_and_png(score_scatter(mos, mos, (1, 5), chosen={'best': [(0, 'r1-x')]}))
    blocks = [Text('Less < more & "quoted"'), Table('Numbers | pipes', ('name', 'value'), [('a|b', '0.5'), ('c', NOT_DEFINED)]),
              Figure('A figure', svg, png, 'make it again'), Commands(['python -m x']),
              Cases('Pictures', [case('r1-x', 'best', tmp_path / 'a_b.png', ['score 1']),
                                 Case('r1-y', 'worst', '<b>', problem='gone')])]
    return Report('A <title>', [Section('One', blocks, [Section('Part', [Text('inside')])])], ['fact'])


def test_page_needs_nothing_beside_itself(report):
    content = page(report)
    references = References()
    references.feed(content)
    outside = [each for each in references.found if not each.startswith(('data:', '#'))]
    assert not outside
    assert {each[1:] for each in references.found if each.startswith('#') and len(each) > 1} <= references.anchors
    assert 'url(http' not in content and '@import' not in content
    assert not re.search(r'https?://(?!www\.w3\.org/)', content)


def test_page_escapes_what_it_shows(report):
    content = page(report)
    assert 'Less &lt; more &amp;' in content and '<b></b>' not in content and '&lt;b&gt;' in content
    assert '<td class="number">0.5</td>' in content


def test_markdown_has_its_pictures_beside_it(report, tmp_path):
    path = tmp_path / 'out' / 'my report.md'
    write_markdown(report, path)
    content = path.read_text()
    pictures = re.findall(r'\]\(([^)]+)\)', content)
    assert len(pictures) == 2
    assert all((path.parent / name.replace('%20', ' ')).is_file() for name in pictures)
    assert r'| a\|b | 0.5 |' in content and '```bash\nmake it again\n```' in content


def test_folder_of_tables_and_pictures(tmp_path):
    folder = tmp_path / 'any'
    folder.mkdir()
    (folder / 't.csv').write_text('name,value\n' + ''.join(f'row {each},{each / 7}\n' for each in range(MOST_ROWS + 5)))
    Image.new('RGB', (8, 8)).save(folder / 'p.png')
    section = section_of(folder, 'r1')
    assert [type(block).__name__ for block in section.blocks] == ['Table', 'Text', 'Figure']
    assert len(section.blocks[0].rows) == ROWS_OF_LONG_TABLES and '57 further rows' in section.blocks[1].text
    write_report([folder], tmp_path / 'r.html', 'T')
    assert 'row 3' in (tmp_path / 'r.html').read_text() and 'row 3' in (tmp_path / 'r.md').read_text()


def test_folders_without_runs_are_named_and_left_out(tmp_path, capsys):
    good, cache = tmp_path / 'good', tmp_path / 'cache'
    for folder in (good, cache / 'abc'):
        folder.mkdir(parents=True)
    (good / 't.csv').write_text('name,value\na,1\n')
    (cache / 'abc' / 'metric.json').write_text('{}')
    (cache / 'abc' / 'scores.csv').write_text('image,score\na,1\n')
    out = tmp_path / 'r.html'
    assert main(['report', str(good), str(cache), str(tmp_path / 'results.json'), '--out', str(out)]) == 0
    told = capsys.readouterr().err
    assert 'keeps scores of single images' in told and 'results.json is not a folder' in told and ': 1 runs' in told
    assert 'keeps scores of single images' in out.read_text()
    assert main(['report', str(cache), '--out', str(tmp_path / 'other.html')]) == 2


def test_ablations_show_their_table_and_analyses_what_they_were_asked(tmp_path):
    folders = [tmp_path / 'ablation', tmp_path / 'analysis']
    for folder in folders:
        (folder / 'figures').mkdir(parents=True)
    (folders[0] / 'options.yml').write_text('model_type: ABLATION\n')
    for name in ('table.csv', 'cells.csv'):
        (folders[0] / name).write_text(f'variant,plcc\n{name},0.5\n')
    (folders[1] / 'options.json').write_text('{"kind": "attention", "limit": 3, "model": "m"}')
    (folders[1] / 'layers.csv').write_text('layer,visual\n0,0.25\n')
    ablation, analysis = (section_of(folder, 'r1') for folder in folders)
    assert ablation.title == 'Ablation: ablation' and [block.rows for block in ablation.blocks if isinstance(block, Table)] == [
        [('table.csv', '0.5')]]
    asked, layers = analysis.blocks
    assert asked.rows == [('limit', '3'), ('model', 'm')] and layers.rows == [('0', '0.25')]


@pytest.mark.parametrize(('files', 'message'), [
    (None, 'is not a folder'), ({}, 'holds no table'), ({'options.yml': 'a: [1'}, 'is not valid YAML'),
    ({'options.yml': 'name: x'}, 'cannot be read as the options of a run'),
    ({'options.yml': 'model_type: CHAIN'}, 'has finished no step'),
    ({'options.yml': 'model_type: EVALUATE'}, 'did not finish')])
def test_folders_that_cannot_be_shown(tmp_path, files, message):
    folder = tmp_path / 'run'
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        section_of(folder, 'r1')


def test_a_median_tells_how_many_seeds_it_is_over(tmp_path):
    (tmp_path / 'seed_0' / 'figures').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(tmp_path / 'seed_0' / 'figures' / 'texts_and_scores.png')
    (tmp_path / 'results.json').write_text(json.dumps({
        'medians': {'srcc': 0.5, 'plcc': 0.25}, 'seeds_without_value': {'srcc': [1]},
        'seeds': {'0': {'srcc': 0.5, 'plcc': 0.5}, '1': {'srcc': None, 'plcc': 0.0}}}))
    table = chain_section(tmp_path, 'a').blocks[1]
    rows = {row[0]: row[1] for row in table.rows}
    assert rows['srcc'].endswith(' (of 1 of 2 seeds)') and 'seeds' not in rows['plcc']
