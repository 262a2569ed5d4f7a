"""Every option file of the repository is one that its trainer takes, and names nothing that is not there."""

from pathlib import Path

import pytest

from pyiqa_rali.chain import chain_options
from pyiqa_rali.data.tables import complete, mos_scale
from pyiqa_rali.options import read_yaml, train_options
from pyiqa_rali.ract import ract_options
from pyiqa_rali.reasoning.options import grpo_options, sft_options

FILES = sorted((Path(__file__).parents[2] / 'options').rglob('*.yml'))
READERS = {'RALI': train_options, 'GRPO': grpo_options, 'SFT': sft_options, 'CHAIN': chain_options, 'RACT': ract_options}


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_it_is_taken(path):
    values = read_yaml(path)
    options = READERS[values['model_type']](values)
    for section, table in getattr(options, 'datasets', {}).items():
        if table.get('type') != 'DegradationTable':
            mos_scale(section, complete(section, table))
    if values['model_type'] == 'RACT':
        student = {'name': 'student', 'manual_seed': 0, **values['student'], 'datasets': {'train': {}}}
        assert sft_options(student).network.train == 'vision' and Path(FILES[0].parents[1] / values['teacher']).name


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_it_says_how_it_is_run(path):
    head = path.read_text().split('\nname:')[0]
    assert all(line.startswith('#') for line in head.splitlines()) and 'pyiqa_rali' in head


def test_there_are_all():
    names = {'rali', 'rali_siglip2', 'rali_lite', 'rali_ract', 'demo', 'chain', 'chain_distortions', 'grpo', 'grpo_rank',
             'grpo_lora', 'grpo_vision', 'ract'}
    assert {path.stem for path in FILES} >= names
