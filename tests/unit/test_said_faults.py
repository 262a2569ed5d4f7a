import json

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.cli.evaluate_aspects import lines_of
from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.reasoning_texts import ReasoningText
from pyiqa_rali.model.rali import RALI
from pyiqa_rali.studies.said_faults import areas_of, evaluate_said_faults
from tests.unit.test_explanation import save_with_bank
from tests.unit.test_rali import random_rali


def rows(count=40):
    """Return pictures of which every other one is out of focus, and every fourth one underexposed."""
    return [{'image': str(number), 'said': ['out of focus'] * (number % 2) + ['underexposure'] * (number % 4 == 0),
             'shares': {'lens_blur': 0.4 + 0.2 * (number % 2), 'misfocus': 0.1, 'darken': 0.5},
             'faults': {'out of focus': 0.9 - 0.8 * (number % 2), 'underexposure': number / count},
             'measures': {'out of focus': None if number == 3 else number % 2 + 0.0, 'underexposure': 0.5}}
            for number in range(count)]


def test_areas_of_votes_faults_and_measures():
    found = areas_of(rows())
    assert set(found) == {'all', 'out of focus', 'underexposure'} and found['all'] == 40
    assert found['out of focus']['pictures'] == 20 and found['underexposure']['pictures'] == 10
    assert found['out of focus']['votes'] == [1, 1, 1] and found['out of focus']['aspects'] == [0, 0, 0]
    assert found['underexposure']['votes'][0] == found['underexposure']['measures'][0] == 0.5  # ties count half
    area, low, high = found['underexposure']['aspects']
    assert low < area < high and 0.3 < area < 0.7
    assert 0.9 < found['out of focus']['measures'][0] < 1  # the picture without a measure counts as the median


def test_a_fault_that_too_few_pictures_have_is_left_out():
    assert 'underexposure' not in areas_of(rows(36))


def test_the_table_has_a_column_for_each_way_that_there_is():
    table = lines_of({'all': 9, 'out of focus': {'pictures': 3, 'votes': [0.5, 0.25, 0.75]}})
    assert table[0].startswith('9 pictures') and table[1].split() == ['people', 'said', 'pictures', 'votes']
    assert table[2].split() == ['out', 'of', 'focus', '3', '0.500', '[0.250,', '0.750]']


def said(names, none=()):
    return {name: [ReasoningText('A picture.', 0, 'people', None if name in none else [('out of focus', 2.0)] * (place % 2))]
            for place, name in enumerate(names)}


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / 'images' / f'{number}.png' for number in range(24)]
    files[0].parent.mkdir()
    for file in files:
        Image.fromarray(rng.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(file)
    return files


def test_pictures_are_asked_about_once(tmp_path, photographs, monkeypatch):
    save_with_bank(tmp_path / 'rali.safetensors', random_rali())
    net = RALI(pretrained_model_path=str(tmp_path))
    texts = said([file.name for file in photographs])
    made = evaluate_said_faults(net, photographs, texts, tmp_path / 'out', measures=True)
    assert [row['image'] for row in made.pictures] == [file.name for file in photographs]
    assert made.pictures[1]['said'] == ['out of focus'] and set(made.pictures[0]['shares']) == {'blur', 'noise', 'pristine'}
    assert json.loads((tmp_path / 'out' / 'results.json').read_text()) == made.results
    assert made.results['out of focus']['pictures'] == 12 and len(made.results['out of focus']['measures']) == 3
    monkeypatch.setattr(net, 'explain', None)  # a second run reads what is there
    again = evaluate_said_faults(net, photographs, texts, tmp_path / 'out', measures=True)
    assert again.results == made.results and again.pictures == made.pictures
    with pytest.raises(OptionError, match='--out'):
        evaluate_said_faults(net, photographs, texts, tmp_path / 'out', measures=False)


def test_what_cannot_be_compared_is_refused(tmp_path, photographs):
    save_with_bank(tmp_path / 'rali.safetensors', random_rali())
    net, names = RALI(pretrained_model_path=str(tmp_path)), [file.name for file in photographs]
    with pytest.raises(CheckpointError, match='no text bank'):
        evaluate_said_faults(random_rali(), photographs, said(names), tmp_path / 'out')
    net.bank.classes.clear()
    with pytest.raises(CheckpointError, match='the checkpoint names no faults: it has no diagnosis'):
        evaluate_said_faults(net, photographs, said(names), tmp_path / 'out')
    net = RALI(pretrained_model_path=str(tmp_path))
    with pytest.raises(DataError, match='what people saw is not known'):
        evaluate_said_faults(net, photographs, said(names, none=names[:1]), tmp_path / 'out')
    with pytest.raises(OptionError, match='sample: 25 is more than the 24 images'):
        evaluate_said_faults(net, photographs, said(names), tmp_path / 'out', sample=25)
    (photographs[2]).write_bytes(b'no picture')
    with pytest.raises(DataError, match='2.png'):
        evaluate_said_faults(net, photographs, said(names), tmp_path / 'out', sample=None)
