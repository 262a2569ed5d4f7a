"""What the engine of a cluster does without one: tasks, their files, attempts, and rows in order."""

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.data.image_files import READING
from pyiqa_rali.scoring.cluster import actors, tasks
from pyiqa_rali.scoring.cluster.actors import (
    LISTED,
    ClusterSettings,
    RowsInOrder,
    TableSettings,
    TaskResult,
    TaskScorer,
)
from pyiqa_rali.scoring.cluster.attempts import Attempts
from pyiqa_rali.scoring.cluster.engine import _gathered
from pyiqa_rali.scoring.cluster.part_files import claim_table, part_files, part_path, read_facts, read_parts, tidy
from pyiqa_rali.scoring.cluster.tasks import (
    ListingEnd,
    NothingSeen,
    ScoreTask,
    SeenOnDisk,
    seen_names,
    size_of_task,
    tasks_of,
)
from pyiqa_rali.scoring.engine import score_files
from pyiqa_rali.scoring.entries import ImageEntry
from pyiqa_rali.scoring.progress import Totals
from pyiqa_rali.scoring.score_table import ImageScore
from pyiqa_rali.scoring.sources import ImageSources, NamedImages


class Brightness:
    """A metric in the form of pyiqa's, which refuses small pictures."""

    device, lower_better, score_range = 'cpu', False, '0, 1'

    def __init__(self):
        self.pictures = 0

    def __call__(self, images):
        self.pictures += len(images)
        if min(images.shape[-2:]) < 16:
            raise RuntimeError('too small')
        return images.mean((1, 2, 3))[:, None]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten pictures of which two have no score, a shard of them, and a broken shard."""
    monkeypatch.chdir(tmp_path)
    for index in range(10):
        size = (8, 8) if index == 3 else (20, 24)
        (tmp_path / 'p').mkdir(exist_ok=True)
        Image.fromarray(np.full((*size, 3), 20 * index + 10, np.uint8)).save(tmp_path / 'p' / f'{index}.png')
    (tmp_path / 'p' / '5.png').write_bytes(b'no picture')
    with tarfile.open('s.tar', 'w') as shard:
        shard.add('p', arcname='.')
        shard.addfile(tarfile.TarInfo('notes.json'))
    (tmp_path / 'broken.tar').write_bytes(Path('s.tar').read_bytes()[:9000])
    return tmp_path


@pytest.fixture
def metric(monkeypatch):
    made = Brightness()
    monkeypatch.setattr('pyiqa_rali.scoring.metrics.make_metric', lambda *given: made)
    return made


def settings(folder, words, run='first', **more):
    (folder / 'out').mkdir(exist_ok=True)
    table = TableSettings(folder / 'out', 'brightness', label='brightness', further=more.pop('further', ()))
    return ClusterSettings((table,), ImageSources(words), 'cpu', 4, run=run, **more)


def run(made):
    """Do all tasks as a cluster would, in one process, and return the results by number."""
    scorer = TaskScorer(made)
    return {result.number: result for result in map(scorer, tasks_of(pickle.loads(pickle.dumps(made.sources))))}


def counts(result, place=0):
    totals = result.totals[place]
    return totals.count, totals.failed, totals.finished


def table(folder):
    return [(row.image, row.score, row.error) for row in read_parts(folder / 'out')]


def alone(words, metric):
    return [(row.image, row.score, row.error) for window in score_files(ImageSources(words), metric, 4, 0) for row in window]


@pytest.mark.parametrize('words', [
    ['p'], ['s.tar'], ['p', 's.tar', 'broken.tar', 'gone.png'], ['broken.tar'], ['gone.tar', 'p']])
def test_the_files_of_all_tasks_are_the_table_of_one_process(folder, metric, monkeypatch, words):
    monkeypatch.setattr(tasks, 'SMALLEST', 3)
    monkeypatch.setattr(tasks, 'TASKS_OF_A_SIZE', 2)
    results = run(settings(folder, words))
    assert table(folder) == alone(words, metric)
    listing = results.pop(LISTED).listing
    assert listing.tasks == len(results) == len(part_files(folder / 'out'))
    assert sum(result.totals[0].failed for result in results.values()) == sum(bool(error) for *_, error in table(folder))


def test_tasks_grow_so_that_large_jobs_have_few_files():
    assert [size_of_task(256 * step) for step in range(8)] == [64, 128, 256, 512, 1024, 2048, 4096, 4096]


def test_a_shard_is_one_task_and_a_giant_one_is_shared(folder, monkeypatch):
    first, shard, last, end = tasks_of(ImageSources(['p/0.png', 's.tar', 'p/1.png']))
    assert shard.file.path == 's.tar' and not shard.images and len(first.images) == len(last.images) == 1
    assert end == ListingEnd(3)
    monkeypatch.setattr(tasks, 'LARGEST_FILE', 100)
    monkeypatch.setattr(tasks, 'SMALLEST', 4)
    *shared, end = tasks_of(ImageSources(['s.tar']))
    assert [len(task.images) for task in shared] == [4, 4, 2] and end.others == {'.json': 1}


def test_names_of_a_data_set_make_tasks(folder):
    task, end = tasks_of(NamedImages(['p/0.png', 'p/1.png', 'p/0.png']))
    assert [image.name for image in task.images] == ['p/0.png', 'p/1.png'] and end.tasks == 1


def test_bytes_that_travel_with_a_task_are_bounded(monkeypatch):
    monkeypatch.setattr(tasks, 'LARGEST_CONTENT', 25)

    class Fetched(NamedImages):
        def images_of(self, file):
            yield ImageEntry(file.path, file.path, (file.number, 0), content=bytes(10))
    *found, _ = tasks_of(Fetched(map(str, range(7))))
    assert [len(task.images) for task in found] == [3, 3, 1]


def test_a_folder_needs_no_memory_of_names_and_everything_else_has_it_on_disk(folder):
    assert isinstance(seen_names(['p']), NothingSeen)
    for words in (['p', 'p'], ['@list'], ['p/*.png']):
        assert isinstance(seen_names(words), SeenOnDisk)
    sources = pickle.loads(pickle.dumps(ImageSources(['p', 'p/1.png', 'p'], seen=SeenOnDisk())))
    assert len(list(sources)) == 10 and sources.repeated == 11
    assert len(list(ImageSources(['p'], seen=NothingSeen()))) == 10
    name = os.fsdecode(b'\xff.png')
    seen = SeenOnDisk()
    assert name not in seen
    seen.add(name)
    assert name in seen and 'other' not in seen


def test_a_task_that_runs_again_in_the_same_run_counts_as_its_first_time(folder, metric):
    made = settings(folder, ['p'])
    first, again = run(made)[0].totals[0], run(made)[0].totals[0]
    assert vars(first) == vars(again) and (first.count, first.failed, first.finished) == (8, 2, 0)
    assert metric.pictures == 9  # one cannot be read; and none was scored twice


def test_a_later_run_takes_what_is_there_and_retries_only_what_failed(folder, metric):
    run(settings(folder, ['p', 's.tar']))
    before = table(folder)
    later = run(settings(folder, ['p', 's.tar'], 'second'))
    assert [counts(later[n]) for n in (0, 1)] == [(0, 2, 10)] * 2
    assert table(folder) == before
    Image.fromarray(np.full((20, 24, 3), 51, np.uint8)).save(folder / 'p' / '5.png')
    metric.pictures = 0
    retried = run(settings(folder, ['p', 's.tar'], 'third', retry=True))
    assert counts(retried[0]) == (1, 1, 8)
    assert counts(retried[1])[:2] == (0, 2)
    assert [row for row in table(folder) if row not in before] == [('p/5.png', pytest.approx(0.2), '')]
    assert [image for image, *_ in table(folder)] == [image for image, *_ in before]
    assert metric.pictures == 8 + 7  # of the batches with an image that had no score; the others are not read


def test_other_images_under_the_same_sources_keep_the_scores_that_are_there(folder, metric):
    run(settings(folder, ['p']))
    Image.fromarray(np.full((20, 24, 3), 51, np.uint8)).save(folder / 'p' / '55.png')
    (folder / 'p' / '0.png').unlink()
    metric.pictures = 0
    result = run(settings(folder, ['p'], 'second'))[0]
    assert result.replaced and metric.pictures == 3  # the batch of the new one
    assert table(folder) == alone(['p'], metric)
    assert counts(result) == (1, 2, 9)


def test_a_shard_that_has_changed_is_read_again(folder, metric):
    run(settings(folder, ['s.tar']))
    with tarfile.open('s.tar', 'w') as shard:
        shard.add('p/7.png', arcname='7.png')
    result = run(settings(folder, ['s.tar'], 'second'))[0]
    assert result.replaced and [image for image, *_ in table(folder)] == ['s.tar::7.png']


def test_a_damaged_file_of_a_table_is_written_again(folder, metric):
    run(settings(folder, ['p']))
    path, = part_files(folder / 'out')
    path.write_bytes(path.read_bytes()[:-10])
    assert read_facts(path) is None
    run(settings(folder, ['p'], 'second'))
    assert table(folder) == alone(['p'], metric)


def test_files_of_tasks_that_are_no_more_and_leftovers_are_removed(folder, metric):
    run(settings(folder, ['p', 's.tar']))
    out = folder / 'out'
    (out / '000000' / '.part-000000000.parquet.77.part').write_bytes(b'')
    (out / '_attempts' / '000000001.jsonl').write_text('')
    assert tidy(out, [0]) == 10
    assert part_files(out) == [part_path(out, 0)] and sorted(os.listdir(out)) == ['000000']


def test_a_shard_without_an_image_is_told(folder, metric):
    with tarfile.open('none.tar', 'w') as shard:
        shard.addfile(tarfile.TarInfo('notes.json'))
    for name in ('first', 'second'):  # also when a later run only looks at the file
        result = run(settings(folder, ['none.tar', 'p'], name))[0]
        assert result.totals[0].empty == ['none.tar'] and result.totals[0].others == {'.json': 1}


def test_the_folder_is_neither_overwritten_nor_continued_with_another_metric(tmp_path):
    claim_table(tmp_path / 'out', {'metric': 'a'}, resume=False)
    with pytest.raises(OptionError, match=r'--out: .*out already exists. Give --resume to continue it'):
        claim_table(tmp_path / 'out', {'metric': 'a'}, resume=False)
    claim_table(tmp_path / 'out', {'metric': 'a'}, resume=True)
    with pytest.raises(OptionError, match="was begun with another metric: 'a', now 'b'. Give another --out"):
        claim_table(tmp_path / 'out', {'metric': 'b'}, resume=True)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.txt').write_text('')
    for resume in (False, True):
        with pytest.raises(OptionError, match='full is not empty and holds no table of scores'):
            claim_table(tmp_path / 'full', {'metric': 'a'}, resume)


def test_an_image_over_which_processes_died_gets_a_reason(folder, metric, monkeypatch):
    made = settings(folder, ['p'])

    class Died(BaseException):
        """Stands for a process that ends at once."""

    def deadly(entry, options):
        if entry.name == 'p/6.png' and not entry.error:
            raise Died
        return read(entry, options)
    from pyiqa_rali.scoring import engine
    read = engine.read_entry
    monkeypatch.setattr(engine, 'read_entry', deadly)
    for _ in range(4):  # two with all images together, two that take them one by one
        with pytest.raises(Died):
            run(made)
    assert (folder / 'out' / '_attempts' / '000000000.jsonl').exists() and not part_files(folder / 'out')
    result = run(made)[0]
    assert counts(result)[:2] == (7, 3)
    assert [error for image, _, error in table(folder) if image == 'p/6.png'] == [
        'its process ended without an error, 2 times, while this image was read or scored']
    others = [row for row in table(folder) if row[0] != 'p/6.png']
    monkeypatch.setattr(engine, 'read_entry', read)
    assert others == [row for row in alone(['p'], metric) if row[0] != 'p/6.png']
    assert not list((folder / 'out' / '_attempts').iterdir())


def test_an_attempt_that_was_cut_short_in_a_line_counts(tmp_path):
    attempts = Attempts(tmp_path, 3)
    attempts.path.parent.mkdir()
    attempts.path.write_bytes(b'{"process": 1}\n{"process": 2}\n{"image": "a"}\n{"ima')
    with attempts:
        assert attempts.careful and attempts.reason('a') == ''


@pytest.mark.parametrize('done', [set(), {'b'}, {'a', 'b', 'c', 'd'}, {'a'}, {'d'}])
def test_rows_of_an_earlier_run_stand_where_their_images_are(done):
    kept = {name: ImageScore(name, 1.0) for name in done}
    order, found = RowsInOrder(kept), []
    for name in 'abcd':
        order.expect(name)
    for window in ('ab', 'cd'):  # of another table, which has no earlier rows
        found += order.add([ImageScore(name, 2.0) for name in window])
    found += order.rest()
    assert [(row.image, row.score) for row in found] == [(name, 1.0 if name in done else 2.0) for name in 'abcd']


def results(*numbers, tasks=None):
    return iter([*(TaskResult(number, [Totals()]) for number in numbers),
                 *([] if tasks is None else [TaskResult(LISTED, [], listing=ListingEnd(tasks))])])


@pytest.mark.parametrize('found', [results(0, 1, tasks=3), results(0, 1, 1, tasks=2), results(0, 1), results(0, 1, 1, tasks=3)])
def test_a_task_that_the_engine_loses_or_doubles_is_an_error(found):
    with pytest.raises(DataError, match='--engine ray: . results came for .* tasks. Continue with --resume'):
        _gathered(found, lambda images, failed: None)


def test_results_in_any_order_are_added_up():
    assert _gathered(results(2, 0, 1, tasks=3), lambda images, failed: None)[1] == [2, 0, 1]


def test_a_machine_without_the_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r'the machine .* of the cluster has no folder .*gone, where the command was started'):
        actors.go_to(str(tmp_path / 'gone'))


def test_an_identity_follows_names_and_shards(tmp_path):
    def task(*names):
        return ScoreTask(0, tuple(ImageEntry(name, name) for name in names)).identity()
    assert task('a', 'bc') != task('ab', 'c') and task('a') == task('a') != task('b')


def rows_scored(values, **more):
    from pyiqa_rali.scoring.cluster.datasets import RowScorer
    scorer = RowScorer('image', 'brightness', None, 'cpu', 4, READING, {})
    column = np.empty(len(values), object)
    column[:] = values
    return scorer({'image': column, **more})


def test_pictures_of_a_dataset_are_paths_bytes_arrays_or_mappings(folder, metric):
    paths = [f'p/{index}.png' for index in range(10)]
    contents = [Path(path).read_bytes() for path in paths]
    readable = [path for path in paths if path != 'p/5.png']
    expected = {path: score for path, score, _ in alone(paths, metric)}
    for values in (paths, contents, [{'bytes': content, 'path': None} for content in contents],
                   [{'bytes': None, 'path': path} for path in paths]):
        found = rows_scored(values, number=np.arange(10))
        assert found['score'].to_pylist() == [expected[path] for path in paths] and list(found['number']) == list(range(10))
        assert [bool(error) for error in found['error']] == [expected[path] is None for path in paths]
    arrays = [np.array(Image.open(path)) for path in readable]
    assert rows_scored(arrays)['score'].to_pylist() == [expected[path] for path in readable]


def test_what_is_no_picture_in_a_dataset_has_a_reason(metric):
    found = rows_scored([None, 3, np.zeros((20, 20), np.uint8), {'path': None}])
    assert found['score'].to_pylist() == [None] * 4
    assert [error.split('not ')[-1] for error in found['error']] == ['null', 'int', 'an array uint8 (20, 20)', 'null']


def test_columns_of_a_dataset_that_are_not_there_or_taken_say_so(folder, metric):
    with pytest.raises(DataError, match='ds: already has the column score. Drop or rename it'):
        rows_scored(['p/0.png'], score=np.zeros(1))
    from pyiqa_rali.scoring.cluster.datasets import RowScorer
    with pytest.raises(DataError, match='column: "image" is not in the data set, which has picture'):
        RowScorer('image', 'brightness', None, 'cpu', 4, READING, {})({'picture': np.zeros(1)})


class Doubled:
    """A column beside the score."""

    columns, label = ('twice',), 'doubled'

    def __call__(self, net, features, scores, images):
        return scores * 2


def test_columns_beside_the_score_are_written_and_kept(folder, monkeypatch):
    from tests.integration.test_bulk_scoring import ENCODERS, tiny_metric
    made = tiny_metric(ENCODERS['fixed'])
    monkeypatch.setattr('pyiqa_rali.scoring.metrics.make_metric', lambda *given: made)
    for name in ('first', 'second'):
        run(settings(folder, ['p'], name, further=(Doubled(),), retry=True))
    rows = list(read_parts(folder / 'out', ['twice']))
    assert all(row.further == {'twice': pytest.approx(2 * row.score)} for row in rows if not row.error)
    assert sum(not row.error for row in rows) == 8


def test_columns_that_follow_the_metric_are_told_with_it(folder, monkeypatch):
    from pyiqa_rali.scoring.cluster.engine import describe_metrics
    from tests.integration.test_bulk_scoring import ENCODERS, tiny_metric
    made = tiny_metric(ENCODERS['fixed'])
    monkeypatch.setattr('pyiqa_rali.scoring.metrics.make_metric', lambda *given: made)
    monkeypatch.setattr('pyiqa_rali.scoring.metrics.with_fastest_backend', lambda metric, options, may_export: options)
    (plain,), _ = describe_metrics(settings(folder, ['p']))
    assert plain.further == () and 'aspects' not in plain.label
    with pytest.raises(CheckpointError, match='has no'):
        describe_metrics(settings(folder, ['p'], aspects=True))
    made.net.diagnosis = type('Diagnosis', (), {'aspects': ('sharpness', 'noise')})()
    (with_aspects,), _ = describe_metrics(settings(folder, ['p'], aspects=True))
    assert with_aspects.further[0].columns == ('sharpness', 'noise') and with_aspects.label.endswith(' aspects')


@pytest.mark.parametrize('begin', ['', 'ray://'])
def test_a_cluster_that_nobody_answers_for_is_told_at_once(begin):
    import socket

    from pyiqa_rali.core.ray_cluster import connected
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))  # and nobody listens
        address = f'{begin}127.0.0.1:{taken.getsockname()[1]}'
        message = f'--ray-address: no cluster of Ray can be reached at {address} '
        with pytest.raises(OptionError, match=message), connected(address):
            raise AssertionError('connected to nothing')


class Darkness(Brightness):
    """Another metric, which takes pictures of any size."""

    def __call__(self, images):
        self.pictures += len(images)
        return 1 - images.mean((1, 2, 3))[:, None]


@pytest.fixture
def two_metrics(monkeypatch):
    made = {'brightness': Brightness(), 'darkness': Darkness()}
    monkeypatch.setattr('pyiqa_rali.scoring.metrics.make_metric', lambda name, *given: made[name])
    return made


def test_two_metrics_share_the_pictures_and_each_has_a_whole_table(folder, two_metrics, monkeypatch):
    from pyiqa_rali.scoring import engine
    opened = []
    read = engine.read_entry
    monkeypatch.setattr(engine, 'read_entry', lambda entry, options: opened.append(entry.name) or read(entry, options))
    tables = tuple(TableSettings(folder / name, name, label=name) for name in two_metrics)
    for each in tables:
        each.out.mkdir()
    made = ClusterSettings(tables, ImageSources(['p', 's.tar', 'broken.tar']), 'cpu', 4, run='first')
    results = run(made)
    assert len(opened) == len(set(opened))
    assert counts(results[0]) == (8, 2, 0) and counts(results[0], 1) == (9, 1, 0)
    names = {}
    for name, metric in two_metrics.items():
        rows = [(row.image, row.score, row.error) for row in read_parts(folder / name)]
        names[name] = [image for image, *_ in rows]
        assert rows == alone(['p', 's.tar', 'broken.tar'], metric)
    assert names['brightness'] == names['darkness']
    before = {name: list(read_parts(folder / name)) for name in two_metrics}
    part_path(folder / 'darkness', 0).unlink()  # as if the process had been killed between the two
    Image.fromarray(np.full((20, 24, 3), 51, np.uint8)).save(folder / 'p' / '5.png')
    for metric in two_metrics.values():
        metric.pictures = 0
    again = run(ClusterSettings(tables, made.sources, 'cpu', 4, run='second'))
    assert (two_metrics['brightness'].pictures, two_metrics['darkness'].pictures) == (0, 10)
    assert counts(again[0]) == (0, 2, 10) and counts(again[0], 1) == (10, 0, 0)
    assert list(read_parts(folder / 'brightness')) == before['brightness']
    assert [row for row in read_parts(folder / 'darkness') if row not in before['darkness']] == [
        ImageScore('p/5.png', pytest.approx(0.8))]
    run(ClusterSettings(tables, made.sources, 'cpu', 4, run='third', retry=True))
    for name, metric in two_metrics.items():
        assert [(row.image, row.score, row.error) for row in read_parts(folder / name)] == alone(
            ['p', 's.tar', 'broken.tar'], metric)


def test_of_several_metrics_those_that_have_a_column_get_it(folder, two_metrics, monkeypatch):
    from pyiqa_rali.scoring.cluster.engine import describe_metrics
    from tests.integration.test_bulk_scoring import ENCODERS, tiny_metric
    monkeypatch.setattr('pyiqa_rali.scoring.metrics.with_fastest_backend', lambda metric, options, may_export: options)
    tables = tuple(TableSettings(folder / name, name) for name in two_metrics)
    made = ClusterSettings(tables, ImageSources(['p']), 'cpu', aspects=True)
    with pytest.raises(OptionError, match='--aspects: no metric has these columns. "brightness" has no aspects.*"darkness"'):
        describe_metrics(made)
    two_metrics['darkness'] = tiny_metric(ENCODERS['fixed'])
    two_metrics['darkness'].net.diagnosis = type('Diagnosis', (), {'aspects': ('sharpness', 'noise')})()
    (first, second), told = describe_metrics(made)
    assert first.further == () and second.further[0].columns == ('sharpness', 'noise')
    assert told == ['No columns of --aspects for one of the metrics: "brightness" has no aspects; those of RALI '
                    'that have a diagnosis have.']
