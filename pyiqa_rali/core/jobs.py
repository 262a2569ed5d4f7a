"""Several commands at once, each in its own process with a log; all of them end when this process ends."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAUSE = 0.2  # seconds between two looks at the processes


@dataclass
class Job:
    """One command and the file that its output goes to."""

    command: Sequence[str]
    log: Path


def run_jobs(jobs: Sequence[Job], at_once: int, environment: Mapping[str, str], look: Callable[[], None]) -> list[Job]:
    """Run all jobs and return those that failed.

    Args:
        jobs: what to run, in this order.
        at_once: how many at the same time.
        environment: variables of the processes, beside this one's.
        look: called at intervals, to show progress.
    """
    running: dict[subprocess.Popen, Job] = {}
    waiting, failed = list(jobs), []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[_start(job, environment)] = job
            for process in [each for each in running if each.poll() is not None]:
                job = running.pop(process)
                if process.returncode:
                    failed.append(job)
            look()
            time.sleep(PAUSE if running else 0)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def _start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, 'ab') as log:
        return subprocess.Popen(list(job.command), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                                env={**os.environ, **environment})


def last_line(log: Path) -> str:
    """Return the last line of a log, which holds the error."""
    lines = log.read_text(encoding='utf-8', errors='replace').strip().splitlines()
    return lines[-1] if lines else 'no output'


def end_with_parent() -> None:
    """Let this process, started by `run_jobs`, end when its parent does, even when the parent is killed."""
    def wait_for_end() -> None:
        os.read(0, 1)  # from stdin, to which nothing is ever written: reading ends when the other end is closed
        os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
