"""The simulated cluster: its bottlenecks are where they were put; and what can be measured without a cluster."""

import itertools

import pytest

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.studies.scale import measure, simulation
from pyiqa_rali.studies.scale.simulation import Rates, simulate, table, task_sizes

FAST = {'listing': 1e12, 'sending': 1e9, 'reading': 1e18, 'writing': 1e9, 'start': 1e-9}


@pytest.mark.parametrize('images', [1, 63, 64, 65, 100_000, 2_000_000])
def test_tasks_hold_all_images(images):
    assert sum(task_sizes(images)) == images


def test_a_cluster_without_a_bottleneck_is_as_fast_as_its_cores(monkeypatch):
    monkeypatch.setattr(simulation, 'SPREAD', 0.0)
    one = simulate(100_000, 1, Rates(50.0, **FAST))
    assert one.seconds == pytest.approx(2000) and one.bottleneck == 'scoring' and one.used['scoring'] == pytest.approx(1)
    many = simulate(1_000_000, 16, Rates(50.0, **FAST))
    assert many.seconds == pytest.approx(1250, rel=0.02) and many.core_hours == pytest.approx(1e6 / 50 / 3600, rel=0.02)


@pytest.mark.parametrize(('stage', 'change', 'seconds'), [
    ('listing', {'listing': 1000.0}, 1000), ('sending', {'sending': 2.0}, 768), ('writing', {'writing': 2.0}, 768),
    ('reading', {'reading': 1e8, 'image': 1e5}, 1000)])
def test_a_slow_part_is_told_and_bounds_the_time(stage, change, seconds):
    outcome = simulate(1_000_000, 64, Rates(1000.0, **{**FAST, **change}))
    tasks = sum(1 for _ in task_sizes(1_000_000))
    assert outcome.bottleneck == stage and outcome.used[stage] == pytest.approx(1, abs=0.02)
    assert outcome.seconds == pytest.approx(tasks / 2 if stage in ('sending', 'writing') else seconds, rel=0.02)


def test_more_cores_are_never_slower_and_a_seed_gives_the_same_job():
    seconds = [simulate(200_000, cores, Rates(20.0)).seconds for cores in (1, 4, 16, 64)]
    assert all(later < earlier for earlier, later in itertools.pairwise(seconds))
    assert simulate(200_000, 16, Rates(20.0), seed=1) == simulate(200_000, 16, Rates(20.0), seed=1)
    assert simulate(200_000, 16, Rates(20.0), seed=1) != simulate(200_000, 16, Rates(20.0), seed=2)


def test_a_table_names_machines_whose_cores_fit():
    rows = table([simulate(10_000, cores, Rates(20.0)) for cores in (8, 64, 1024)])
    assert [row['machines'] for row in rows] == ['', '1 x c7a.16xlarge', '16 x c7a.16xlarge']


@pytest.mark.parametrize(('change', 'message'), [({'scoring': 0.0}, 'scoring: 0.0 must be above 0'),
                                                 ({'scoring': 1.0, 'start': -1.0}, 'start: -1.0 must be above 0')])
def test_rates_that_cannot_be_say_so(change, message):
    with pytest.raises(OptionError, match=message):
        Rates(**change)


def test_the_command_prints_a_table_or_what_it_needs(capsys, tmp_path):
    assert main(['plan-scale', '--rate', '20', '--images', '1e5', '--cores', '16', '--listing', '100']) == 0
    told = capsys.readouterr().out
    assert 'listing: 100' in told and '| 16 | 1 x c7a.4xlarge |' in told and told.rstrip().endswith('| listing |')
    assert main(['plan-scale']) == 2
    assert '--rate: give the images per second of one core, or --measure scoring' in capsys.readouterr().err
    assert main(['plan-scale', '--measure', 'scoring']) == 2
    assert '--pictures: scoring and overhead need a folder' in capsys.readouterr().err
    assert main(['plan-scale', '--measure', 'overhead', '--pictures', str(tmp_path)]) == 2
    assert '--pictures: no image below' in capsys.readouterr().err


def test_listing_and_writing_are_measured():
    found = measure.measure_listing(2000)
    assert found.names == 2000 and found.list_per_s > 1000 and found.folder_per_s > 1000 and found.peak_mb > 10
    assert measure.measure_writing(3, 100) > 1
