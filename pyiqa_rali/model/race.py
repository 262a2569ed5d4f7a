"""Which of several ways to compute the same thing is fastest on this machine: tried once, and remembered in a file.

What is fast on one processor is slow on another (oneDNN's products on one, MKL's on the next), and no list of processors helps.
The file makes all processes of a machine choose the same way, so that their scores are bit-identical.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyiqa_rali.core.files import write_json
from pyiqa_rali.core.processor import described_processor

CLEARLY = 0.95  # a way that takes more than this share of the first one's time does not replace it
ROUNDS, ROUNDS_BY_CLOCK = 3, 6
LOCK_SECONDS = 20.0
SETTINGS = ('ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA', 'MKL_ENABLE_INSTRUCTIONS', 'MKL_CBWR')

logger = logging.getLogger(__name__)
_answers: dict[tuple[int, str], dict[str, float]] = {}  # by the number of threads, and the question
_lock = threading.RLock()


def fastest(question: str, ways: Mapping[str, Callable[[], Any]]) -> str:
    """Return the name of the chosen way: the first one, unless another is clearly faster.

    Args:
        question: what the ways compute; the answer is remembered under it and the machine.
        ways: all compute the same.
    """
    seconds = times(question, ways)
    first = next(iter(ways))
    best = min(ways, key=seconds.__getitem__)
    return best if seconds[best] < CLEARLY * seconds[first] else first


def times(question: str, ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the seconds that each way takes, measured at the first call of a machine and remembered."""
    import torch
    key = (torch.get_num_threads(), question)
    with _lock:
        if key not in _answers:
            _answers[key] = _remembered(question, ways)
        return _answers[key]


def races_file() -> Path:
    """Return the file of measurements; `XDG_CACHE_HOME` moves it."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'pyiqa-rali' / 'races.json'


def _remembered(question: str, ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return what the file says; otherwise measure, while other processes wait, and store the result where possible."""
    machine = machine_key()
    with _alone():
        known = _read().get(machine, {}).get(question, {})
        if set(known) == set(ways):
            return known
        found = measured(ways)
        logger.debug('%s: %s', question, ', '.join(f'{name} {1e3 * each:.2f} ms' for name, each in found.items()))
        races = _read()
        races.setdefault(machine, {})[question] = found
        with contextlib.suppress(OSError):  # the home folder cannot be written: only this process remembers
            write_json(races_file(), races)
    return found


def machine_key() -> str:
    """Return what a measurement is valid for: processor, version of PyTorch, threads, and the environment's restrictions."""
    import torch
    settings = [f'{name}={os.environ[name]}' for name in SETTINGS if name in os.environ]
    return ', '.join([described_processor(), f'torch {torch.__version__}', f'{torch.get_num_threads()} threads', *settings])


def measured(ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return each way's fastest call in seconds, after one that is not counted; the ways take turns.

    With one thread its processor time counts, which other programs hardly affect; with several threads it is the clock, and
    more calls are made.
    """
    import torch
    alone = torch.get_num_threads() == 1 and hasattr(time, 'thread_time')
    clock, rounds = (time.thread_time, ROUNDS) if alone else (time.perf_counter, ROUNDS_BY_CLOCK)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return {name: min(each[1:]) for name, each in seconds.items()}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes from measuring at the same time, where files can be locked."""
    from filelock import FileLock, Timeout
    lock = None
    with contextlib.suppress(OSError, NotImplementedError, Timeout):
        races_file().parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(races_file().with_suffix('.lock'), timeout=LOCK_SECONDS)
        lock.acquire()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _read() -> dict[str, dict[str, dict[str, float]]]:
    """Return the file's content; nothing if it is missing or has another format."""
    try:
        races = json.loads(races_file().read_text(encoding='utf-8'))
        return {machine: {question: {str(name): float(each) for name, each in found.items()}
                          for question, found in questions.items()} for machine, questions in races.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def forget() -> None:
    """Forget what this process remembers; the file stays."""
    with _lock:
        _answers.clear()
