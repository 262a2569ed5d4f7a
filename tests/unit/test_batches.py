import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.data.tables import build_table, seeded
from pyiqa_rali.model.preprocessing import Preprocessing
from pyiqa_rali.training.rali.batches import (
    AlignmentDataset,
    ResumableSampler,
    SharedSampler,
    alignment_dataset,
    collate,
    make_sampler,
    pictures_of_shares,
)
from pyiqa_rali.training.rali.picture_rows import PictureRows
from tests.tiny import tiny_table

NATIVE = Preprocessing(image_size=None, resize_mode='native')


def draws(size=10, batch_size=2, rank=0, world_size=1, start=0, total=12, anew=False):
    return list(ResumableSampler(size, batch_size, rank, world_size, 5, start, total, anew))


def test_an_epoch_visits_every_image_once():
    for epoch in range(2):
        visited = [index for index, _ in draws()[epoch * 10:(epoch + 1) * 10]]
        assert sorted(visited) == list(range(10))


def test_epochs_have_different_orders_and_draws_never_repeat():
    found = draws()
    assert [index for index, _ in found[:10]] != [index for index, _ in found[10:20]]
    assert [draw for _, draw in found] == list(range(24))


@pytest.mark.parametrize('start', [0, 3, 5, 11])
def test_a_resumed_sampler_goes_on_where_it_stopped(start):
    assert draws(start=start) == draws()[start * 2:]


def test_two_ranks_see_the_batches_of_one():
    one = draws(batch_size=4, total=6)
    ranks = [draws(batch_size=2, rank=rank, world_size=2, total=6) for rank in range(2)]
    together = [pair for step in range(6) for rank in ranks for pair in rank[step * 2:step * 2 + 2]]
    assert together == one


@pytest.mark.parametrize('size', [10, 11])
def test_siblings_stay_together_in_an_order_that_changes(size):
    found = list(ResumableSampler(size, 2, 0, 1, 5, 0, 10, siblings=2))
    pairs = [(found[place][0], found[place + 1][0]) for place in range(0, 20, 2)]
    epochs = pairs[:5], pairs[5:]
    if size == 10:
        assert all(sorted(epoch) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)] for epoch in epochs) and epochs[0] != epochs[1]
    else:  # one item has no sibling, and ends where its turn is
        flat = [index for index, _ in found[:10]]
        assert len(set(flat)) == 10 and sum(abs(a - b) == 1 for a, b in itertools.pairwise(flat)) >= 5


def test_fresh_draws_have_indices_of_their_own():
    assert draws(anew=True)[:3] == [(0, 0), (1, 1), (2, 2)]


@pytest.fixture
def dataset(tmp_path):
    paths = tiny_table(tmp_path)
    values = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'], 'meta_info_file': paths['table'],
              'split_index': 'split_photo', 'mos_range': [1, 5], 'lower_better': False, 'augment': {'random_crop': 32},
              'reasoning_texts': paths['texts']}
    return alignment_dataset(build_table('train', values, 3), dataset_section('train', values), None, NATIVE)


def test_an_item_depends_on_its_draw_alone(dataset):
    torch.manual_seed(0)
    first = dataset[2, 17]
    torch.manual_seed(1)
    np.random.seed(4)
    again, other = dataset[2, 17], [dataset[2, draw] for draw in range(20)]
    assert torch.equal(first['img'], again['img']) and first['text'] == again['text']
    assert {item['text'] for item in other} == {text.text for text in dataset.texts[2]}
    assert any(not torch.equal(first['img'], item['img']) for item in other)


def test_reading_an_item_leaves_the_generators_alone(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    dataset[1, 5]
    assert torch.equal(before, torch.get_rng_state())
    with seeded(1, 2):
        one = torch.rand(1)
    with seeded(1, 2):
        assert torch.rand(1) == one


def test_labels_are_normalised_higher_better(dataset):
    labels = [float(dataset[index, 0]['mos_label']) for index in range(len(dataset))]
    assert min(labels) >= 0 and max(labels) <= 1 and labels[0] > labels[-1]


def test_one_text_an_image_switches_seed_augmentation_off(dataset):
    dataset.texts_per_image = 1
    assert {dataset[2, draw]['text'] for draw in range(10)} == {dataset.texts[2][0].text}


def test_missing_texts_are_refused(tmp_path):
    paths = tiny_table(tmp_path)
    values = {'name': 'tiny', 'type': 'GeneralNRDataset', 'dataroot_target': paths['images'], 'meta_info_file': paths['table'],
              'split_index': 'split_photo', 'mos_range': [1, 5], 'lower_better': False}
    with pytest.raises(OptionError, match='reasoning_texts: must name the JSON-lines file'):
        alignment_dataset(build_table('train', values, 3), dataset_section('train', values), None, NATIVE)


def test_pictures_of_different_sizes_do_not_share_a_batch():
    items = [item_of(width) for width in (20, 30)]
    with pytest.raises(DataError, match=r'different sizes \(\[\(20, 20\), \(20, 30\)\]'):
        collate(items)


def item_of(width, part=0, agreement=None):
    return {'img': torch.full((3, 20, width), float(part)), 'mos_label': torch.zeros(1), 'text': 'a', 'set': part,
            'agreement': agreement}


def test_data_sets_may_have_pictures_of_different_sizes_and_judges_of_their_own():
    judged = torch.tensor([0.2, 0.4])
    batch = collate([item_of(20), item_of(20), item_of(30, 1, judged)])
    assert [tuple(group.shape) for group in batch['img']] == [(2, 3, 20, 20), (1, 3, 20, 30)]
    assert batch['labels'].sets.tolist() == [0, 0, 1] and batch['labels'].mos_label.shape == (3,)
    assert batch['labels'].agreement[:2].isnan().all() and batch['labels'].agreement[2].tolist() == judged.tolist()


def shared(world_size, rank, start=0, total=6, sizes=(7, 50)):
    counts = pictures_of_shares([1, 3], 8 // world_size)
    parts = [ResumableSampler(size, count, rank, world_size, 5 + number, start, total, anew)
             for number, (size, count, anew) in enumerate(zip(sizes, counts, (False, True), strict=True))]
    return list(SharedSampler(parts))


def test_each_step_holds_a_share_of_every_set():
    draws = shared(1, 0)
    steps = [draws[start:start + 8] for start in range(0, 48, 8)]
    assert all([part for part, _, _ in step] == [0, 0, 1, 1, 1, 1, 1, 1] for step in steps)
    epoch = [index for step in steps[:3] for part, index, _ in step if part == 0]
    assert len(set(epoch)) == 6 and set(epoch) <= set(range(7))
    assert [index for step in steps for part, index, _ in step if part == 1] == list(range(36))


def test_shares_resume_anywhere_and_several_processes_see_what_one_would_see():
    draws = shared(1, 0)
    assert shared(1, 0, start=4) == draws[32:]
    together = [key for step in range(6) for rank in range(2) for key in shared(2, rank)[4 * step:4 * step + 4]]
    assert sorted(together) == sorted(draws)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(100, 2000))
def test_shares_add_up_to_the_batch(shares, batch_size):
    try:
        counts = pictures_of_shares(shares, batch_size)
    except OptionError:
        assert min(shares) / sum(shares) * batch_size < 1
        return
    assert sum(counts) == batch_size
    assert all(abs(count - share / sum(shares) * batch_size) < 1 for count, share in zip(counts, shares, strict=True))


def test_a_share_without_a_picture_is_refused():
    with pytest.raises(OptionError, match='training set .: share: .*, leaves it without a picture in a batch of 4'):
        pictures_of_shares([100, 1], 4)


def test_kept_rows_of_siblings_share_a_batch():
    options = {'name': 'synthetic', 'type': 'SyntheticNRDataset', 'phase': 'train', 'crop_size': [96, 96],
               'siblings': 2, 'samples_per_epoch': 8, 'mos_range': [1, 5], 'lower_better': False}
    table = build_table('train', options, seed=0)
    items = table.__getitems__(list(range(8)))
    part = AlignmentDataset(PictureRows(table, items, torch.zeros(8, 3)), None, None, NATIVE)
    drawn = list(make_sampler(part, None, 4, 5, 0, 6))
    for start in range(0, 24, 4):
        groups = [items[index]['group'] for index, _ in drawn[start:start + 4]]
        assert groups[0] == groups[1] != groups[2] == groups[3]
