"""The server of the page: what it answers, and how Gradio is started."""

import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np

from pyiqa_rali.app.albums import MEGABYTE, VIEW, WORKING, Albums, TooMuch, as_jpeg, smaller
from pyiqa_rali.app.gradio_import import import_gradio
from pyiqa_rali.app.guard import Guard, hosts_of, is_loopback
from pyiqa_rali.app.metrics import PageMetrics
from pyiqa_rali.app.sliders import SLIDERS, distorted
from pyiqa_rali.app.table import scores_csv
from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.data.image_formats import image_extensions

PORT = 7860
MAP_EDGE = 512  # longest edge of a map in pixels
# what Gradio reads when it is imported or launched; none of it may change what this command promises
SETTINGS = {'GRADIO_ANALYTICS_ENABLED': 'False', 'HF_HUB_DISABLE_TELEMETRY': '1', 'GRADIO_WATCH_DIRS': '',
            'GRADIO_ALLOWED_PATHS': '', 'GRADIO_MCP_SERVER': 'False'}


@dataclass(frozen=True)
class Address:
    """Where the page is.

    Attributes:
        host: name or number that the server binds to.
        port: its port; 0 takes a free one.
    """

    host: str = '127.0.0.1'
    port: int = PORT

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f'--port: {self.port} must be from 0 (any that is free) to 65535.')


def launch(metrics: PageMetrics, albums: Albums, address: Address) -> tuple[Any, str]:
    """Start the page's server in a thread of its own.

    Args:
        metrics: what it scores with.
        albums: where it keeps pictures.
        address: where it listens.

    Returns:
        Gradio's server, whose `close` ends it, and the page's address.

    Raises:
        OptionError: Gradio is missing, or nothing can listen at this address; the message says why.
    """
    _settle_environment(address.host)
    try:
        gradio = import_gradio()
    except ImportError as error:
        raise OptionError("the page needs Gradio: pip install 'pyiqa-rali[app]'") from error
    port = _free_port(address)
    host = f'[{address.host}]' if ':' in address.host.strip('[]') else address.host
    server = _guarded(gradio.Server, hosts_of(address.host), albums.limits.file_mb * MEGABYTE)
    _add_pages(server, albums)
    for function in Answers(metrics, albums, is_loopback(address.host)).functions():
        server.api(function, name=function.__name__, queue=False, api_visibility='undocumented')
    _, url, _ = server.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, run_history=False, root_path='', allowed_paths=[], num_workers=0,
        _frontend=False)
    return server, url


def _guarded(server_class: Any, hosts: set[str], largest_upload: int) -> Any:
    """Return a server whose guard stands outside of everything that Gradio will add to it."""
    class GuardedServer(server_class):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await Guard(super().__call__, hosts, largest_upload)(scope, receive, send)

    return GuardedServer(title='pyiqa-rali', docs_url=None, redoc_url=None, openapi_url=None)


class Answers:
    """What the page asks: functions that take and return plain values. An answer with `error` says why there is no other.

    Args:
        metrics: what it scores with.
        albums: where pictures are.
        private: whether only this computer reaches the server.
    """

    def __init__(self, metrics: PageMetrics, albums: Albums, private: bool):
        self.metrics, self.albums, self.private = metrics, albums, private

    def functions(self) -> list[Callable[..., Any]]:
        """Return the functions as Gradio takes them: annotated, one value for each argument, no method."""
        def start(album: str) -> dict:
            """What the page is made of, and the pictures that it had before it was reloaded."""
            return _or_error(lambda: self.start(album))

        def score(album: str, picture: str, metric: str) -> dict:
            """What a metric says about a picture."""
            return _or_error(lambda: self.score(album, picture, metric))

        def distort(album: str, picture: str, metric: str, values: str, draw: bool) -> dict:
            """What a metric says about a picture as the sliders make it."""
            return _or_error(lambda: self.distort(album, picture, metric, values, draw))

        def where(album: str, picture: str, metric: str) -> dict:
            """How good a picture is where."""
            return _or_error(lambda: self.where(album, picture, metric))

        def remove(album: str, pictures: str) -> dict:
            """Forget pictures."""
            return _or_error(lambda: self.remove(album, pictures))

        return [start, score, distort, where, remove]

    def start(self, album: str) -> dict[str, Any]:
        """Return the album (a new one unless it exists), its pictures, and what the page is made of."""
        name = self.albums.open(album)
        return {'album': name, 'pictures': [picture.facts() for picture in self.albums.pictures(name)],
                'metrics': self.metrics.labels, 'sliders': [asdict(slider) for slider in SLIDERS], 'private': self.private,
                'limits': asdict(self.albums.limits), 'working': WORKING, 'extensions': sorted(image_extensions())}

    def score(self, album: str, picture: str, metric: str) -> dict[str, Any]:
        """Return a metric's verdict on a picture, and what the page needs to draw it."""
        found, facts = self.albums.picture(album, picture), self.metrics.load(metric).facts()  # nothing is kept of others
        if metric not in found.verdicts:
            verdict = {'error': found.error} if found.error else self.metrics.verdict(metric, self.albums.pixels(found))
            found.verdicts[metric] = verdict
        return {'verdict': found.verdicts[metric], 'facts': facts}

    def distort(self, album: str, picture: str, metric: str, values: str, draw: bool) -> dict[str, Any]:
        """Return the verdict on a picture of at most `WORKING` pixels as the sliders make it.

        Args:
            album: its album.
            picture: its key.
            metric: label of the metric.
            values: of the sliders, as a JSON object.
            draw: whether the picture is wanted too, as `picture`.
        """
        found = self.albums.picture(album, picture)
        changed = distorted(self.albums.pixels(found, WORKING), _read(values, dict))
        drawn = {'picture': _data_uri(as_jpeg(changed, 95), 'jpeg')} if draw else {}
        return {'verdict': self.metrics.verdict(metric, changed), **drawn}

    def where(self, album: str, picture: str, metric: str) -> dict[str, Any]:
        """Return a metric's map of a picture: `map`, a transparent PNG of the picture's shape, and what its colours mean."""
        from pyiqa_rali.app.maps import drawn_map
        found = self.albums.picture(album, picture)
        pixels = self.albums.pixels(found)
        asked = self.metrics.load(metric)
        values, region = asked.where(pixels)
        png, low, high = drawn_map(values, _within(pixels, MAP_EDGE), asked.lower_better, region)
        return {'map': _data_uri(png, 'png'), 'low': low, 'high': high}

    def remove(self, album: str, pictures: str) -> dict[str, Any]:
        """Forget the pictures of a JSON list of keys."""
        self.albums.remove(album, [str(key) for key in _read(pictures, list)])
        return {}


def _or_error(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except (ValueError, OSError) as error:  # ours, all of which are ValueErrors
        return {'error': first_line(error)}


def _read(text: str, kind: type) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f'not JSON: {first_line(error)}') from error
    if not isinstance(found, kind):
        raise DataError(f'{text[:40]!r} is no {"object" if kind is dict else "list"} of JSON')
    return found


def _within(pixels: np.ndarray, longest: int) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    factor = min(1, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _add_pages(server: Any, albums: Albums) -> None:
    """Add what is fetched by its address: the page, pictures, the table, and the place where files go."""
    from fastapi import Request
    from fastapi.responses import JSONResponse, Response
    from starlette.concurrency import run_in_threadpool

    def answer(content: bytes, kind: str, headers: dict[str, str] | None = None) -> Any:
        return Response(content, 200, headers, kind)

    @server.get('/')
    def page() -> Any:
        return answer(asset('page.html'), 'text/html; charset=utf-8')

    @server.get('/page.css')
    def style() -> Any:
        return answer(asset('palette.css', 'figures') + asset('page.css'), 'text/css; charset=utf-8')

    @server.get('/page.js')
    def script() -> Any:
        return answer(asset('page.js'), 'text/javascript; charset=utf-8')

    @server.get('/icon.svg')
    def icon() -> Any:
        return answer(asset('icon.svg'), 'image/svg+xml')

    @server.get('/pictures/{album}/{key}/{size}')
    def picture(album: str, key: str, size: str) -> Any:
        try:
            found = albums.picture(album, key)
            content = found.thumb if size == 'thumb' else as_jpeg(smaller(albums.pixels(found), VIEW))
        except DataError as error:
            return JSONResponse({'error': str(error)}, 404)
        return answer(content, 'image/jpeg')

    @server.get('/scores.csv')
    def table(album: str = '') -> Any:
        return answer(scores_csv(albums.pictures(album)), 'text/csv; charset=utf-8',
                      {'content-disposition': 'attachment; filename="scores.csv"'})

    @server.post('/pictures')
    async def upload(request: Request, album: str, name: str) -> Any:
        try:
            content = await _body(request.stream(), albums)
            added = await run_in_threadpool(albums.add, album, name, content)
        except TooMuch as error:
            return JSONResponse({'error': str(error)}, 413)
        except DataError as error:
            return JSONResponse({'error': str(error)}, 404)
        return JSONResponse(added.facts())


async def _body(stream: AsyncIterator[bytes], albums: Albums) -> bytes:
    """Return the body of a request; reading ends as soon as it is too large."""
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        albums.check_size(size)
        parts.append(part)
    return b''.join(parts)


def asset(name: str, room: str = 'app') -> bytes:
    """Return a file of the page as it is in the package."""
    return (resources.files('pyiqa_rali') / room / name).read_bytes()


def _data_uri(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _settle_environment(host: str) -> None:
    os.environ.update(SETTINGS)
    # Gradio asks its own server whether it is there; a proxy must not come between
    for name in ('NO_PROXY', 'no_proxy'):
        os.environ[name] = ','.join(filter(None, [os.environ.get(name, ''), *sorted(hosts_of(host))]))


def _free_port(address: Address) -> int:
    """Return the port, or a free one for 0.

    Raises:
        OptionError: nothing can listen there.
    """
    host = address.host.strip('[]')
    try:
        family, *_, place = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise OptionError(f'--host {address.host} --port {address.port}: {error.strerror or error}. Give another --port; 0 '
                          'takes one that is free.') from error

