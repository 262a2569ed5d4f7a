"""How long a person waits: from the command to the first score, and from a slider to its answer, on one core."""

import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote, urlsplit

import numpy as np

from pyiqa_rali.core.errors import DataError

FIRST_SCORE, SLIDER = 5.0, 0.3  # seconds that are promised
SIZE = (768, 1024)  # height and width of the picture: rali-lite scales larger ones down to this
ANSWERS = 40  # of sliders
LONGEST = 300.0  # seconds to wait for the first line


@dataclass(frozen=True)
class Waits:
    """What was measured, in seconds.

    Attributes:
        page: from the command to its address on the terminal.
        first_score: from the command to the score of a picture that is uploaded at once.
        cpu: of them, what the process computed; the rest it waited for files or other programs.
        answers: from a slider to score and picture, each.
        answer_cpu: what the process computed for one of them, on average.
    """

    page: float
    first_score: float
    cpu: float
    answers: tuple[float, ...]
    answer_cpu: float

    @property
    def in_time(self) -> bool:
        """Whether both promises hold: of the sliders, for 95 of 100 answers."""
        return self.first_score <= FIRST_SCORE and self.slow_answer <= SLIDER

    @property
    def slow_answer(self) -> float:
        """What 95 of 100 answers do not exceed."""
        return float(np.quantile(self.answers, 0.95))


def measure(metrics: Sequence[str], weights: str | None, device: str | None) -> Waits:
    """Start the command on one core, upload a picture and move sliders.

    Args:
        metrics: of the page; the first one scores.
        weights: file or folder of an export, for the first one.
        device: torch's name of the device.

    Raises:
        DataError: the command ends, or answers with an error.
    """
    command = [sys.executable, '-m', 'pyiqa_rali', 'app', '--port', '0', *(word for name in metrics for word in ('-m', name)),
               *(['--weights', weights] if weights else []), *(['--device', device] if device else [])]
    content = _picture()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_one_core,
                               env={**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'})
    try:
        line = cast(IO[str], process.stdout).readline().strip()  # it is a pipe
        if not line.startswith('http'):
            raise DataError(f'the command ended before the page was there: {line or "see above"}')
        page = time.perf_counter() - started
        asker = _Asker(line)
        album = asker.ask('start', '')
        picture = asker.upload(album['album'], content)
        score = asker.ask('score', album['album'], picture, album['metrics'][0])
        if 'score' not in score['verdict']:
            raise DataError(f'the picture has no score: {score["verdict"].get("error")}')
        first = time.perf_counter() - started
        cpu = _cpu_seconds(process.pid)
        answers = tuple(_answer(asker, album, picture, place) for place in range(ANSWERS))
        answer_cpu = (_cpu_seconds(process.pid) - cpu) / ANSWERS
    finally:
        process.send_signal(signal.SIGTERM)  # Ctrl-C would be told on the terminal
        process.wait()
    return Waits(page, first, cpu, answers, answer_cpu)


def as_text(found: Waits) -> str:
    """Return what was measured, for a terminal."""
    answers = found.answers
    return (f'page {found.page:.2f} s, first score {found.first_score:.2f} s after the command (promised: {FIRST_SCORE:g} s); '
            f'computed {found.cpu:.2f} s of them\n'
            f'slider, {len(answers)} answers: median {1000 * statistics.median(answers):.0f} ms, 95 of 100 within '
            f'{1000 * found.slow_answer:.0f} ms, longest {1000 * max(answers):.0f} ms (promised: {1000 * SLIDER:.0f} ms); '
            f'computed {1000 * found.answer_cpu:.0f} ms of each')


class _Asker:
    """One connection to the page's server, as a browser keeps it."""

    def __init__(self, url: str):
        address = urlsplit(url)
        self.connection = http.client.HTTPConnection(address.hostname or '', address.port, timeout=LONGEST)

    def ask(self, name: str, *values: object) -> dict:
        """Return what a function of the page answers."""
        body = json.dumps({'data': list(values)}).encode()
        answer = self._post(f'/gradio_api/run/{name}', body, 'application/json')['data'][0]
        if answer.get('error'):
            raise DataError(f'{name}: {answer["error"]}')
        return answer

    def upload(self, album: str, content: bytes) -> str:
        """Return the key of an uploaded picture."""
        return self._post(f'/pictures?album={quote(album)}&name=picture.jpg', content, 'application/octet-stream')['key']

    def _post(self, path: str, body: bytes, kind: str) -> dict:
        self.connection.request('POST', path, body, {'Content-Type': kind})
        response = self.connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            raise DataError(f'{path}: status {response.status}: {text[:200]}')
        return json.loads(text)


def _answer(asker: _Asker, album: dict, picture: str, place: int) -> float:
    slider = album['sliders'][place % len(album['sliders'])]
    share = (1 + place) / (2 + ANSWERS)
    value = round((slider['low'] + share * (slider['high'] - slider['low'])) / slider['step']) * slider['step']
    value = min(max(value, slider['low']), slider['high'])
    started = time.perf_counter()
    asker.ask('distort', album['album'], picture, album['metrics'][0], json.dumps({slider['name']: value}), True)
    return time.perf_counter() - started


def _picture() -> bytes:
    """Return a JPEG with edges, gradients and texture, the same each time."""
    from PIL import Image
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIZE[0], 0:SIZE[1]]
    waves = 128 + 70 * np.sin(x / 9) * np.cos(y / 13) + 40 * (np.hypot(x - 500, y - 380) < 180)
    pixels = np.clip(waves[..., None] + rng.normal(0, 12, (*SIZE, 3)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'JPEG', quality=92)
    return stream.getvalue()


def _one_core() -> None:
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _cpu_seconds(pid: int) -> float:
    """Return what a process has computed so far; NaN where the system does not tell."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text(encoding='ascii').rpartition(')')[2].split()
    except OSError:
        return float('nan')
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

