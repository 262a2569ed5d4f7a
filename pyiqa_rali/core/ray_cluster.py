"""Ray, where it is installed: a cluster of this machine or one that is running, without telemetry and dashboard."""

import contextlib
import importlib.util
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError

if TYPE_CHECKING:
    from ray.data import Dataset

OBJECT_STORE = 200 << 20  # bytes of shared memory: names and counts pass through it, pictures do not
LOCAL = 'local'
REACHED = 10.0  # seconds within which the machine of a cluster answers
ITEM = 'item'  # the one column of a stream
OWN = (OptionError, DataError, CheckpointError, FileNotFoundError)  # what users are told of as it is
IN_FLIGHT = 2  # items that an actor has been given: one to work on, one to go on with
NO_CPU = 0  # for the process that yields items, which mostly waits for the others
ENVIRONMENT = {  # of Ray, before it is imported
    'RAY_USAGE_STATS_ENABLED': '0',  # no telemetry
    'RAY_worker_niceness': '0',  # scoring is the job, not something behind it
    'RAY_TQDM': '0',
}


@dataclass(frozen=True)
class ClusterOptions:
    """How a cluster is used.

    Attributes:
        address: of a running cluster; None takes RAY_ADDRESS, or this machine.
        actors: processes that work; None takes as many as fit.
        gpus_per_actor: GPUs of each; a fraction lets several share one.
        dashboard: start Ray's dashboard with a cluster on this machine.
    """

    address: str | None = None
    actors: int | None = None
    gpus_per_actor: float = 0.0
    dashboard: bool = False


def require_ray(option: str) -> None:
    """Raise OptionError where Ray is not installed.

    Args:
        option: the option or argument that asked for it.
    """
    if importlib.util.find_spec('ray') is None:
        raise OptionError(f'{option}: needs Ray. Install it: pip install "pyiqa-rali[ray]".')


@contextlib.contextmanager
def connected(address: str | None = None, dashboard: bool = False) -> Iterator[None]:
    """Connect to a cluster while the block runs, unless the program is connected already.

    Args:
        address: of a running cluster, such as 'auto' or 'HOST:6379'; None takes RAY_ADDRESS, or starts one on this machine,
            which listens on the loopback interface alone and ends with the block.
        dashboard: start Ray's dashboard with a cluster on this machine.

    Raises:
        OptionError: Ray is not installed, or there is no such cluster.
    """
    require_ray('--engine: ray')
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    _quiet_data()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get('RAY_ADDRESS') or LOCAL
    options: dict[str, Any] = {'logging_level': 'WARNING', 'log_to_driver': False, 'configure_logging': False}
    if address == LOCAL:
        options |= {'include_dashboard': dashboard, 'num_cpus': cores(), 'object_store_memory': OBJECT_STORE,
                    '_node_ip_address': '127.0.0.1'}
    try:
        _knock(address)
        ray.init(address, **options)
    except (OSError, ValueError) as error:
        raise OptionError(f'--ray-address: no cluster of Ray can be reached at {address} ({str(error).splitlines()[0]}). Start '
                          'one with "ray start --head", or leave the option out to use this machine.') from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray would go on trying for many minutes without a word."""
    host, _, port = address.rpartition('://')[2].rpartition(':')
    if host and port.isdigit():
        socket.create_connection((host.strip('[]'), int(port)), timeout=REACHED).close()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def own_error(error: BaseException) -> BaseException:
    """Return the error of this package that a worker raised and Ray wrapped; the error itself where there is none."""
    found: Any = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        cause: Any = getattr(found, 'cause', None)
        for each in (found, cause):
            if type(each) in OWN:  # Ray's own are subclasses of both
                return each
        found = cause if isinstance(cause, BaseException) else found.__cause__ or found.__context__
    return error


def number_of_actors(actors: int | None, gpus_per_actor: float, cpus_per_actor: float = 1) -> int:
    """Return how many actors a cluster is to run: those given, or as many as fit.

    Raises:
        OptionError: not one of them fits into the cluster as it is.
    """
    import ray
    there = ray.cluster_resources()
    fitting = int(there.get('CPU', 0) // cpus_per_actor)
    if gpus_per_actor:
        fitting = min(fitting, int(there.get('GPU', 0) / gpus_per_actor))
    if fitting < 1:
        raise OptionError(f'--gpus-per-actor: an actor needs {gpus_per_actor:g} GPUs and {cpus_per_actor:g} CPUs; this '
                          f'cluster has {there.get("GPU", 0):g} GPUs and {there.get("CPU", 0):g} CPUs in all.')
    return actors or fitting


def streamed(items: Callable[[], Iterator[Any]], worker: Callable[..., Any], arguments: tuple[Any, ...],
             cluster: ClusterOptions) -> Iterator[Any]:
    """Give each item to one of the processes of a cluster, and yield what they return, in the order in which they end.

    Items are taken as processes have room for them, so neither they nor the results gather anywhere. An item whose process
    dies is given to another one.

    Args:
        items: returns them, the same ones each time; called in a process on this machine.
        worker: called with `arguments` once in each process; what it returns is called with each item.
        arguments: of `worker`.
        cluster: how many processes there are; the program must be connected.

    Raises:
        OptionError, DataError, CheckpointError, FileNotFoundError: as a process raised it for an item.
    """
    from ray.data import ActorPoolStrategy, DataContext
    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 1  # bytes: each item is a block of its own, on its way as soon as it is there
    try:
        stream = dataset_of(lambda: ({ITEM: [pickle.dumps(item)]} for item in items()))
        actors = number_of_actors(cluster.actors, cluster.gpus_per_actor)
        pool = ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=IN_FLIGHT)
        done = stream.map_batches(_Worker, fn_constructor_args=(worker, arguments), batch_size=1, batch_format='numpy',
                                  compute=pool, num_cpus=1, num_gpus=cluster.gpus_per_actor or None)
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            for result in map(pickle.loads, batch[ITEM]):
                if isinstance(result, _Failed):
                    raise result.kind(result.message)
                yield result
    finally:
        context.target_max_block_size = before


@dataclass(frozen=True)
class _Failed:
    """An error of ours instead of a result: Ray would wrap it, and lose it on the way as the cause of another."""

    kind: type[Exception]
    message: str


class _Worker:
    """What Ray Data calls in each process: items in, results out, both as bytes."""

    def __init__(self, worker: Callable[..., Any], arguments: tuple[Any, ...]):
        self.work = worker(*arguments)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        return {ITEM: [pickle.dumps(self._result(pickle.loads(row))) for row in rows[ITEM]]}

    def _result(self, item: Any) -> Any:
        try:
            return self.work(item)
        except OWN as error:
            return _Failed(next(kind for kind in OWN if isinstance(error, kind)), str(error))


def dataset_of(columns: Callable[[], Iterator[dict[str, list[Any]]]]) -> 'Dataset':
    """Return a Ray Dataset of rows that one process on this machine yields, as others have room for them.

    Args:
        columns: returns some rows at a time, by column; the same ones each time.
    """
    import pyarrow as pa
    import ray
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def blocks() -> Iterator[Any]:
        return map(pa.table, columns())

    class Stream(Datasource):
        """One stream of rows."""

        def estimate_inmemory_data_size(self) -> int | None:
            """Return that the size is not known before the rows are."""
            return None

        def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None,
                           data_context: Any = None) -> list[Any]:
            """Return the one process that yields them."""
            return [ReadTask(blocks, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]
    here = {'ray.io/node-id': ray.get_runtime_context().get_node_id()}  # it dies with us, and knows our files
    return ray.data.read_datasource(Stream(), override_num_blocks=1, num_cpus=NO_CPU, label_selector=here)


def _quiet_data() -> None:
    """Switch off Ray Data's progress bars and its notes on each execution; they are for notebooks."""
    import logging

    from ray.data import DataContext
    context: Any = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger('ray.data').setLevel(logging.ERROR)  # its advice is for those who call it
