"""Every option file of the repository is one that its trainer takes, and names nothing that is not there."""

from pathlib import Path

import pytest

from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.data.tables import complete, mos_scale
from pyiqa_rali.evaluation.options import evaluate_options
from pyiqa_rali.studies.ablation.run import ablation_options, plan
from pyiqa_rali.studies.chain.options import chain_options
from pyiqa_rali.training.rali.options import train_options
from pyiqa_rali.training.vlm.options import grpo_options, sft_options
from pyiqa_rali.training.vlm.ract import ract_options

FOR_PYIQA = ('metric_rali', 'data_papers')  # pyiqa's own format; see test_benchmark_script.py and test_manifests.py
OPTIONS = Path(__file__).parents[2] / 'options'
FILES = sorted(path for path in OPTIONS.rglob('*.yml') if path.stem not in FOR_PYIQA)
READERS = {'RALI': train_options, 'GRPO': grpo_options, 'SFT': sft_options, 'CHAIN': chain_options, 'RACT': ract_options,
           'EVALUATE': evaluate_options, 'ABLATION': ablation_options}


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_it_is_taken(path):
    values = read_yaml(path)
    options = READERS[values['model_type']](values)
    for section, table in getattr(options, 'datasets', {}).items():
        if table.get('type') != 'DegradationTable':
            mos_scale(section, complete(section, table if 'pyiqa_name' in table else {'name': section, **table}))
    if values['model_type'] == 'RACT':
        student = {'name': 'student', 'manual_seed': 0, **values['student'], 'datasets': {'train': {}}}
        assert sft_options(student).network.train == 'vision' and Path(FILES[0].parents[1] / values['teacher']).name
    if values['model_type'] == 'ABLATION':
        options.base = str(Path(__file__).parents[2] / options.base)
        places, cells = plan(options)  # every variant's options are checked
        assert len(options.repeats) >= 3 and len(cells) < len(places)


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_it_says_how_it_is_run(path):
    head = path.read_text().split('\nname:')[0]
    assert all(line.startswith('#') for line in head.splitlines()) and 'pyiqa_rali' in head


def test_there_are_all():
    names = {'rali', 'rali_siglip2', 'rali_lite', 'rali_ract', 'demo', 'chain', 'chain_distortions', 'grpo', 'grpo_rank',
             'grpo_lora', 'grpo_vision', 'ract', 'evaluate', 'evaluate_koniq', 'evaluate_four_sets', 'ablation',
             'ablation_koniq'}
    assert {path.stem for path in FILES} >= names


def test_the_papers_protocol_is_matched_with_its_table():
    from pyiqa_rali.evaluation.paper import paper_values, published_name
    methods, sets = (list(dict.fromkeys(names)) for names in zip(*paper_values(), strict=True))
    koniq, four_sets = (evaluate_options(read_yaml(OPTIONS / f'evaluate_{name}.yml')) for name in ('koniq', 'four_sets'))
    assert [published_name(None, [name], sets, 'x') for name in koniq.datasets] == sets
    assert list(four_sets.datasets) == sets[:4] and four_sets.metrics['RALI_four_sets']['paper_name'] is False
    assert {published_name(None, [label, values.get('name', label)], methods, 'x')
            for label, values in koniq.metrics.items()} == {'RALI', None}
