"""Scoring on a cluster of two nodes on this machine: the table of one process, whatever is killed in the meantime."""

import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.ray_cluster import ENVIRONMENT, ClusterOptions, connected
from pyiqa_rali.scoring.cluster.actors import ClusterSettings, TableSettings
from pyiqa_rali.scoring.cluster.engine import score_on_cluster
from pyiqa_rali.scoring.cluster.part_files import part_files, read_parts
from tests.sleeping_metric import DEADLY, NAME, Sleeping

pytestmark = pytest.mark.slow

LOOPBACK = {'node_ip_address': '127.0.0.1', 'object_store_memory': 100 << 20}
KILLS = 10


@pytest.fixture(scope='module')
def nodes():
    """Ray's own test cluster: two nodes with room for one actor each."""
    os.environ.update(ENVIRONMENT, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER='0')  # which is Ray's name for: loopback only
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster()
    try:
        add_node(cluster, include_dashboard=False)
        add_node(cluster)
        cluster.wait_for_nodes()
        with connected(cluster.address):
            yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster, **options):
    """Add a node with room for one actor; Ray waits for it for 30 s, which may be too short while others use the machine."""
    for attempt in range(5):
        try:
            cluster.add_node(num_cpus=1, **LOOPBACK, **options)
            return
        except Exception as error:
            if 'timed out during startup' not in str(error) or attempt == 4:
                raise


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty pictures of two sizes, a broken one and one that is too small; a shard of them, and a shard cut short."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / 'p').mkdir()
    for index in range(20):
        picture = rng.integers(0, 256, (40, 48 + 8 * (index % 2), 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / 'p' / f'{index:02d}.png')
    (tmp_path / 'p' / 'broken.png').write_bytes(b'no picture')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'p' / 'small.png')
    with tarfile.open('s.tar', 'w') as shard:
        shard.add('p', arcname='.')
    (tmp_path / 'cut.tar').write_bytes(Path('s.tar').read_bytes()[:90000])
    return tmp_path


def rows_of(path):
    from pyarrow import parquet
    return parquet.read_table(path).to_pylist()


def test_the_table_is_that_of_one_process_in_the_order_of_the_input(nodes, folder, capsys):
    words = ['score', 's.tar', 'p', 'gone.png', 'cut.tar', 'p/03.png', '--batch-size', '4', '--metric-opt', 'backend=torch',
             '--device', 'cpu']
    assert main([*words, '--out', 'alone.parquet']) == 1
    capsys.readouterr()
    assert main([*words, '--engine', 'ray', '--out', 'table']) == 1
    told = capsys.readouterr().err
    found, expected = rows_of('table'), rows_of('alone.parquet')
    assert [row['image'] for row in found] == [row['image'] for row in expected] and len(found) > 50
    for one, other in zip(found, expected, strict=True):
        assert one['score'] == (other['score'] and pytest.approx(other['score'], abs=1e-6))
        assert {**one, 'score': 0} == {**other, 'score': 0}
    failed = sum(row['score'] is None for row in expected)
    assert f'{failed} images have NO SCORE: see the column "error" of table' in told
    assert '1 images were named more than once' in told and '1 of these are damaged SHARDS' in told
    assert main([*words, '--engine', 'ray', '--out', 'table']) == 2
    assert 'table already exists. Give --resume' in capsys.readouterr().err
    files = part_files(folder / 'table')
    Image.fromarray(np.full((40, 48, 3), 99, np.uint8)).save('p/broken.png')
    assert main([*words, '--engine', 'ray', '--out', 'table', '--retry-failed']) == 1
    told = capsys.readouterr().err
    assert '1 images scored' in told and f'{len(found) - failed} were already in table' in told
    retried = rows_of('table')
    assert [row['image'] for row in retried] == [row['image'] for row in expected]
    assert [row['image'] for row, before in zip(retried, found, strict=True) if row != before] == ['p/broken.png']
    assert part_files(folder / 'table') == files
    assert main([*words, '--engine', 'ray', '--out', 'table', '--resume', '-m', 'entropy']) == 2


def test_several_metrics_in_one_pass_have_the_tables_of_one_process(nodes, folder, capsys):
    words = ['score', 's.tar', 'p', '--batch-size', '4', '--metric-opt', 'rali-lite:backend=torch', '--device', 'cpu',
             '-m', 'rali-lite', '-m', 'entropy', '--aspects', '--interval', '90']
    assert main([*words, '--out', 'alone.parquet']) == 1
    assert main([*words, '--engine', 'ray', '--out', 'table']) == 1
    told = capsys.readouterr().err
    for name, columns in (('rali-lite', ['low', 'high', 'unlike', 'focus']), ('entropy', [])):
        found, expected = rows_of(f'table.{name}'), rows_of(f'alone.{name}.parquet')
        assert [row['image'] for row in found] == [row['image'] for row in expected] and set(columns) <= set(found[0])
        assert list(found[0]) == list(expected[0]) and (columns or list(found[0]) == ['image', 'score', 'error', 'metric'])
        for one, other in zip(found, expected, strict=True):
            for key, value in other.items():
                assert one[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), key
        assert f'{name}: ' in told
    assert told.count('No columns of --aspects for one of the metrics: "entropy"') == 2
    assert main([*words, '--engine', 'ray', '--out', 'table']) == 2
    assert 'table.rali-lite already exists' in capsys.readouterr().err


def settings(folder, seconds, words=('many',), table='table'):
    made = TableSettings(folder / table, NAME, None, {'seconds': seconds})
    return ClusterSettings((made,), Sleeping(words), 'cpu', batch_size=8)


@pytest.fixture
def many(folder):
    """A folder of 2000 small pictures, one over which every process ends, and a shard that cannot be read."""
    (folder / 'many').mkdir()
    for index in range(2000):
        colour = DEADLY if index == 777 else (index % 240 + 8,) * 3
        Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).save(folder / 'many' / f'{index:04d}.png')
    (folder / 'many' / 'x.png').write_bytes(b'')
    return folder


def expected_rows(folder, words):
    """What one process finds, without the picture that would end it."""
    found = []
    for entry in Sleeping(words):
        if entry.error or entry.path.endswith('x.png'):
            found.append((entry.name, None))
        else:
            index = int(Path(entry.name).stem)
            found.append((entry.name, None if index == 777 else (index % 240 + 8) / 255))
    return found


@pytest.mark.cluster
def test_ten_kills_lose_and_double_nothing(nodes, many):
    """Processes that score and a whole node are killed with SIGKILL at random moments, while a picture kills processes too.

    A job that ends before ten kills is followed by another one; the table of each is checked.
    """
    (many / 'unreadable.tar').write_bytes(b'no shard' * 1000)
    words, kills, jobs = ['many', 'unreadable.tar'], [], 0
    wanted = expected_rows(many, words)
    while len(kills) < KILLS:
        jobs += 1
        made = settings(many, 0.02, words, f'table{jobs}')
        with ThreadPoolExecutor(1) as thread:  # nodes can be started in the main thread alone
            job = thread.submit(score_on_cluster, made, ClusterOptions(actors=2), False)
            kill_at_random(nodes, made.tables[0].out, kills, job)
            (totals, _), = job.result()
        found = list(read_parts(made.tables[0].out))
        assert [row.image for row in found] == [name for name, _ in wanted], kills
        for row, (_, score) in zip(found, wanted, strict=True):
            assert row.score == (score and pytest.approx(score, abs=1e-6)) and bool(row.error) == (score is None), kills
        assert (totals.count, totals.failed, totals.damaged) == (1999, 3, 1)
        reason = next(row.error for row in found if row.image.endswith('0777.png'))
        assert reason.startswith('its process ended without an error')
    assert len(kills) == KILLS and kills.count('node') == 2, kills


def kill_at_random(nodes, out, kills, job):
    """Kill processes, and every fourth time a node, each time after the table has grown."""
    rng = random.Random()
    before = 0
    while len(kills) < KILLS and not job.done():
        time.sleep(rng.uniform(0.1, 1))
        there = scoring_processes(nodes)
        if not there or len(part_files(out)) == before:
            continue
        before = len(part_files(out))
        if len(kills) % 4 == 3:
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
            add_node(nodes)
            kills.append('node')
        else:
            os.kill(rng.choice(there), signal.SIGKILL)
            kills.append('process')


def scoring_processes(cluster):
    """The processes of this cluster's actors that score: children of its nodes."""
    raylets = {each.process.pid for node in cluster.list_all_nodes() for each in node.all_processes['raylet']}
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            parent = int((folder / 'stat').read_text().rpartition(')')[2].split()[1])
            if parent in raylets and b'MapWorker(' in (folder / 'cmdline').read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


REPOSITORY = Path(__file__).parents[2]
JOB = """
import os, sys
from pathlib import Path
from pyiqa_rali.core.ray_cluster import ClusterOptions
from pyiqa_rali.scoring.cluster.engine import score_on_cluster
from tests.integration.test_score_on_ray import settings
repository = os.getcwd()  # whose tests the processes of the cluster import
os.chdir(sys.argv[1])
made = settings(Path(sys.argv[1]), 0.01)
os.chdir(repository)
score_on_cluster(made, ClusterOptions(sys.argv[2], actors=2), resume=True)
"""


@pytest.mark.cluster
def test_a_job_whose_own_process_is_killed_goes_on(nodes, many):
    (many / 'many' / '0777.png').unlink()
    process = subprocess.Popen([sys.executable, '-c', JOB, str(many), nodes.address], cwd=REPOSITORY, stderr=subprocess.PIPE)
    try:
        while len(part_files(many / 'table')) < 3:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
    before = {path: path.stat().st_mtime_ns for path in part_files(many / 'table')}
    (totals, _), = score_on_cluster(settings(many, 0.01), ClusterOptions(actors=2), resume=True)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert totals.finished >= 3 * 64 and totals.count + totals.finished + totals.failed == 2000
    assert [(row.image, row.score) for row in read_parts(many / 'table')] == [
        (name, score and pytest.approx(score, abs=1e-6)) for name, score in expected_rows(many, ['many'])]


def test_rows_of_a_dataset_get_scores_and_keep_their_columns_and_places(nodes, folder):
    import pyarrow as pa
    import ray

    import pyiqa_rali
    paths = sorted(str(path) for path in (folder / 'p').iterdir())
    table = pa.table({'image': paths, 'number': list(range(len(paths)))})
    found = pyiqa_rali.score_dataset(ray.data.from_arrow(table), metric='entropy', actors=1, rows=5).take_all()
    assert [(row['number'], row['image']) for row in found] == list(enumerate(paths))
    assert {row['metric'] for row in found} == {'entropy'} and [row['score'] for row in found].count(None) == 1
    expected = {each.image: each for each in pyiqa_rali.score(paths, 'entropy', device='cpu')}
    for row in found:
        score = expected[row['image']].score
        assert row['error'] == expected[row['image']].error
        assert row['score'] == (score and pytest.approx(score, abs=1e-6))


@pytest.mark.parametrize(('more', 'message'), [({'rows': 0}, 'rows: 0 must be'), ({'actors': 0}, 'actors: 0 must be')])
def test_numbers_that_a_dataset_cannot_be_scored_with_say_so(more, message):
    import pyiqa_rali
    with pytest.raises(OptionError, match=message):
        pyiqa_rali.score_dataset(None, **more)


def test_errors_of_processes_of_the_cluster_are_one_line(nodes, folder, capsys):
    assert main(['score', 'p', '--engine', 'ray', '--out', 'a', '--weights', 'none.safetensors']) == 2
    told = capsys.readouterr().err
    assert 'none.safetensors' in told and 'Traceback' not in told and 'ray' not in told.replace('--engine ray', '')
    assert not (folder / 'a').exists()
    assert main(['score', 'p', '--engine', 'ray', '--out', 'a', '--gpus-per-actor', '1']) == 2
    assert '--gpus-per-actor: an actor needs 1 GPUs and 1 CPUs; this cluster has 0 GPUs' in capsys.readouterr().err
