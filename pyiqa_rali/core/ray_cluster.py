"""Ray, where it is installed: a cluster of this machine or one that is running, without telemetry and dashboard."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError

OBJECT_STORE = 200 << 20  # bytes of shared memory: names and counts pass through it, pictures do not
LOCAL = 'local'
QUIET = {'RAY_USAGE_STATS_ENABLED': '0', 'RAY_TQDM': '0'}  # before Ray is imported


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
    for name, value in QUIET.items():
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
        ray.init(address, **options)
    except (ConnectionError, ValueError) as error:
        raise OptionError(f'--ray-address: no cluster of Ray can be reached at {address} ({str(error).splitlines()[0]}). Start '
                          'one with "ray start --head", or leave the option out to use this machine.') from error
    try:
        yield
    finally:
        ray.shutdown()


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
            if type(each) in (OptionError, DataError, CheckpointError, FileNotFoundError):  # Ray's own are subclasses of both
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


def _quiet_data() -> None:
    """Switch off Ray Data's progress bars and its notes on each execution; they are for notebooks."""
    import logging

    from ray.data import DataContext
    context: Any = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger('ray.data').setLevel(logging.WARNING)
