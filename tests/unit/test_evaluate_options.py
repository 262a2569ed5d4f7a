import pytest

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.evaluation.metrics import metric_section
from pyiqa_rali.evaluation.options import evaluate_options
from pyiqa_rali.evaluation.paper import beside_paper, paper_values, published_name

VALUES = {'name': 'test', 'manual_seed': 0, 'model_type': 'EVALUATE', 'metrics': {'rali-lite': None},
          'datasets': {'demo': {'type': 'GeneralNRDataset'}}}
METHODS, SETS = (list(dict.fromkeys(names)) for names in zip(*paper_values(), strict=True))


def test_an_empty_section_is_a_metric_with_its_defaults():
    assert evaluate_options(dict(VALUES, metrics={'rali-lite': None})).metrics == {'rali-lite': {}}
    section = metric_section('mine', {'name': 'rali', 'pretrained_model_path': 'x', 'paper_name': 'RALI'})
    assert (section.name, section.options, section.paper_name) == ('rali', {'pretrained_model_path': 'x'}, 'RALI')


@pytest.mark.parametrize(('change', 'message'), [
    ({'metrics': {}}, 'metrics: must hold at least one'), ({'datasets': {}}, 'datasets: must hold at least one'),
    ({'metrics': {'a': 3}}, 'metrics: a: 3 must be a section'), ({'metrics': {'a/b': {}}}, 'metrics: "a/b" names files'),
    ({'datasets': {'a': {}, 'a_b': {}}, 'metrics': {'b_c': {}, 'c': {}}}, 'a_b_c would name two pictures'),
    ({'metrics': {'.a': {}}}, 'names files'), ({'metrics': {'mos': {}}}, 'metrics: "mos" is the name of a column'),
    ({'model_type': 'RALI', 'path': {'strict_load': True}}, '"RALI" is not EVALUATE: this is not an option file of evaluate'),
    ({'statistics': {'missing': 'drop'}}, 'statistics: missing: "drop" is not one of fail, count'),
    ({'statistics': {'confidence': 95}}, 'confidence: 95.0 must be between 0 and 1'),
    ({'statistics': {'alpha': 0}}, 'alpha: 0.0 must be between'),
    ({'statistics': {'bootstrapp': 3}}, 'Did you mean "bootstrap"'), ({'metric': {}}, 'unknown key'),
    ({'statistics': {'bootstrap': 50}}, '50 resamples are too few for 1 metrics.*Give at least 100'),
    ({'statistics': {'bootstrap': 300}, 'metrics': {name: {} for name in 'abcdef'}},
     'too few for 6 metrics.*Give at least 600'),
    ({'datasets': {'a': {'type': 'SyntheticNRDataset'}}}, 'draws pictures that are in no file')])
def test_options_that_cannot_be_used(change, message):
    with pytest.raises(OptionError, match=message):
        evaluate_options({**VALUES, **change})


@pytest.mark.parametrize(('label', 'values', 'message'), [
    ('rali-light', {}, 'metrics: rali-light: name: "rali-light" is not known to pyiqa.*Did you mean "rali-lite"'),
    ('mine', {'name': 'fid'}, 'metrics: mine: "fid" compares sets')])
def test_metrics_that_cannot_be_used(label, values, message):
    with pytest.raises(OptionError, match=message):
        metric_section(label, values)


def test_the_papers_table_is_whole():
    values = paper_values()
    assert len(values) == 43 and METHODS == ['RALI', 'Q-Insight', 'DeQA-Score', 'CLIP-IQA+', 'VisualQuality-R1', 'RACT student']
    assert len(SETS) == 8 and SETS[-1] == 'TID2013'  # which the student alone was tested on
    assert all(0 < float(row[measure]) < 1 and '2510.11369' in row['source'] for row in values.values()
               for measure in ('plcc', 'srcc'))
    average = sum(float(values['RALI', name]['plcc']) for name in SETS[:7]) / 7
    assert average == pytest.approx(0.798, abs=0.001)  # the paper's own average


@pytest.mark.parametrize(('names', 'known', 'expected'), [
    (['mine', 'rali'], METHODS, 'RALI'), (['rali-lite', 'rali-lite'], METHODS, None), (['qinsight'], METHODS, 'Q-Insight'),
    (['clipiqa+'], METHODS, 'CLIP-IQA+'), (['clipiqa'], METHODS, None), (['deqa'], METHODS, 'DeQA-Score'),
    (['test', 'KonIQ10k'], SETS, 'KonIQ'), (['koniq10k++'], SETS, None), (['livec'], SETS, 'LIVE-W'), (['csiq'], SETS, 'CSIQ'),
    (['AGIQA-3K'], SETS, 'AGIQA-3K'), (['kadid10k'], SETS, 'KADID'), (['tid2013'], SETS, 'TID2013'),
    (['tid2008'], SETS, None), (['visualquality-r1'], METHODS, 'VisualQuality-R1')])
def test_names_are_matched(names, known, expected):
    assert published_name(None, names, known, 'x') == expected
    assert published_name(known[0], names, known, 'x') == known[0] and published_name(False, names, known, 'x') is None


def test_an_unknown_paper_name_is_refused():
    with pytest.raises(OptionError, match='metrics: a: paper_name: "RALLI" is not one of RALI.*Did you mean "RALI"'):
        published_name('RALLI', ['a'], METHODS, 'metrics: a')


@pytest.mark.parametrize(('method', 'expected'), [
    ('RALI', [('plcc', 0.939, 0.01, 'none'), ('srcc', 0.922, -0.01, '')]),  # the paper fitted nothing
    ('DeQA-Score', [('plcc_fitted', 0.953, -0.003, 'logistic4'), ('srcc', 0.941, -0.029, '')]),  # it did
    ('RACT student', [('plcc', 0.928, 0.021, 'unknown'), ('plcc_fitted', 0.928, 0.022, 'unknown'),
                      ('srcc', 0.907, 0.005, '')])])
def test_differences_are_ours_less_the_papers_with_the_same_fit(method, expected):
    row = {'dataset': 'koniq10k', 'metric': 'mine', 'plcc': 0.949, 'plcc_fitted': 0.95, 'srcc': 0.912}
    found = beside_paper([row, {**row, 'dataset': 'tid'}], {'mine': method}, {'koniq10k': 'KonIQ', 'tid': None})
    assert [(each['measure'], each['paper'], round(each['difference'], 4), each['fit']) for each in found] == expected


