import os

import pytest
import torch

from pyiqa_rali.evaluation.score_cache import ScoreCache, digest, image_key
from pyiqa_rali.model.digest import weights_digest

METRIC = {'name': 'rali-lite', 'options': {}, 'weights_sha256': 'a'}


def test_scores_come_back_exactly_in_another_process(tmp_path):
    cache = ScoreCache(tmp_path, METRIC)
    assert cache.get('key') is None and cache.get(None) is None
    cache.add('key', 0.1 + 0.2, 'folder/a, "b".png')
    cache.add('other', -1e-9, 'caf\udce9.png')
    again = ScoreCache(tmp_path, dict(METRIC))  # before the first is closed: every line is on disk
    assert (again.get('key'), again.get('other'), len(again)) == (0.1 + 0.2, -1e-9, 2)


@pytest.mark.parametrize('change', [{'name': 'rali'}, {'options': {'mode': 'mean'}}, {'weights_sha256': 'b'}])
def test_another_metric_option_or_weight_has_scores_of_its_own(change, tmp_path):
    cache = ScoreCache(tmp_path, METRIC)
    cache.add('key', 1.0, 'a.png')
    assert ScoreCache(tmp_path, {**METRIC, **change}).get('key') is None


def test_a_line_cut_short_is_ignored_and_the_rest_is_kept(tmp_path):
    cache = ScoreCache(tmp_path, METRIC)
    cache.add('first', 1.5, 'a.png')
    cache.add('second', 2.25, 'b.png')
    path = next(cache.folder.glob('*.csv'))
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        found = ScoreCache(tmp_path, METRIC)
        assert found.get('first') in (None, 1.5) and found.get('second') is None
    assert found.get('first') == 1.5


def test_processes_side_by_side_do_not_meet(tmp_path):
    first, second = ScoreCache(tmp_path, METRIC), ScoreCache(tmp_path, METRIC)
    first.add('a', 1.0, 'a.png')
    second.add('b', 2.0, 'b.png')
    first.add('c', 3.0, 'c.png')
    found = ScoreCache(tmp_path, METRIC)
    assert [found.get(key) for key in 'abc'] == [1.0, 2.0, 3.0]


def test_the_key_of_an_image_follows_path_size_time_and_pixels(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'one')
    os.utime(path, ns=(1, 1))
    keys = [image_key([str(path)], {'augment': None}), image_key([str(path)], {'augment': {'resize': 448}}),
            image_key([str(path), str(path)], {'augment': None})]
    assert image_key([os.path.relpath(path)], {'augment': None}) == keys[0]
    os.utime(path, ns=(2, 2))
    keys.append(image_key([str(path)], {'augment': None}))
    path.write_bytes(b'longer')
    os.utime(path, ns=(1, 1))
    keys.append(image_key([str(path)], {'augment': None}))
    assert len(set(keys)) == 5 and image_key([str(tmp_path / 'nowhere.png')], {}) is None


def test_digests():
    assert digest({'a': 1, 'b': [2]}) == digest({'b': [2], 'a': 1}) != digest({'a': 1, 'b': [3]})
    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert weights_digest(first) != weights_digest(second)
    second.load_state_dict(first.state_dict())
    assert weights_digest(first) == weights_digest(second) != weights_digest(second.to(torch.bfloat16))
