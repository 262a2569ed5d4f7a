"""What stands before the server: only the page's own addresses, only from the page itself, only bodies of a permitted size.

Gradio serves more than the page needs: files of a cache, a proxy, its own documentation. None of it can be reached. A page of
another site that the user has open cannot ask this server either: a browser tells where a request comes from (Origin), and the
server does not answer to a name that somebody points at this computer (Host; DNS rebinding).
"""

import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

NAME = r'[A-Za-z0-9_-]{1,64}'
GET = re.compile(rf'/|/page\.(css|js)|/icon\.svg|/scores\.csv|/pictures/{NAME}/{NAME}/(thumb|view)|/gradio_api/startup-events')
CALL = re.compile(r'/gradio_api/run/(start|score|distort|where|remove)')
UPLOAD = '/pictures'
LARGEST_CALL = 1 << 18  # bytes; a call holds names and numbers
LOOPBACK = ('localhost', '127.0.0.1', '::1')
HEADERS = {
    'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'cross-origin-resource-policy': 'same-origin', 'cross-origin-opener-policy': 'same-origin',
    'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer', 'cache-control': 'no-store',
}


class Guard:
    """ASGI middleware; see the head of this module.

    Args:
        app: what it guards.
        hosts: names that the server answers to, beside addresses in numbers.
        largest_upload: bytes of a file.
    """

    def __init__(self, app: App, hosts: Collection[str], largest_upload: int):
        self.app, self.hosts, self.largest_upload = app, frozenset(hosts), largest_upload

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application answer it."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
            return
        if scope['type'] != 'http':
            return  # no web sockets
        status, reason = self._refusal(scope)
        if status:
            await _answer(send, status, reason)
            return
        largest = self.largest_upload if scope['path'] == UPLOAD else LARGEST_CALL
        await self.app(scope, _counted(receive, largest), _with_headers(send))

    def _refusal(self, scope: Message) -> tuple[int, str]:
        headers = {name.decode('latin-1').lower(): value.decode('latin-1') for name, value in scope['headers']}
        if not self._is_host(headers.get('host', '')):
            return 403, 'the server does not answer to this name; start it with --host'
        if not _is_allowed(scope['method'], scope['path'], scope.get('raw_path', b'')):
            return 404, 'not found'
        if not _is_own_origin(headers):
            return 403, 'only the page itself may ask'
        length = headers.get('content-length', '0')
        largest = self.largest_upload if scope['path'] == UPLOAD else LARGEST_CALL
        if not length.isdecimal() or int(length) > largest:
            return 413, f'it is larger than {self.largest_upload >> 20} MB; start with --max-file-mb to allow more'
        return 0, ''

    def _is_host(self, host: str) -> bool:
        """Whether a Host header is one of ours; addresses in numbers cannot be pointed at this computer by somebody else."""
        name = urlsplit(f'//{host}').hostname or ''
        return name.lower() in self.hosts or _is_address(name)


def hosts_of(host: str) -> set[str]:
    """Return the names that a server bound to a host answers to."""
    names = {*LOOPBACK, host.strip('[]').lower()}
    return names if host.strip('[]') in LOOPBACK else names | {socket.gethostname().lower(), socket.getfqdn().lower()}


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches a server bound to a host."""
    name = host.strip('[]').lower()
    return name in LOOPBACK or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_allowed(method: str, path: str, raw_path: bytes) -> bool:
    if b'%' in (raw_path or b'').partition(b'?')[0]:  # none of our addresses has anything to escape
        return False
    if method in ('GET', 'HEAD'):
        return bool(GET.fullmatch(path))
    return method == 'POST' and (path == UPLOAD or bool(CALL.fullmatch(path)))


def _is_own_origin(headers: dict[str, str]) -> bool:
    if headers.get('sec-fetch-site', 'none') not in ('same-origin', 'none'):
        return False
    origin = headers.get('origin')
    return origin is None or urlsplit(origin).netloc.lower() == headers.get('host', '').lower()


def _counted(receive: Receive, largest: int) -> Receive:
    """Return what receives a body, and ends the connection when it is larger than it said or may be."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get('body', b''))
        return message if received <= largest else {'type': 'http.disconnect'}
    return counted


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message['type'] == 'http.response.start':
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, 'headers': [*(pair for pair in message.get('headers', ())
                                                if pair[0].decode('latin-1').lower() not in HEADERS), *own]}
        await send(message)
    return with_headers


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({'error': reason}).encode()
    start = {'type': 'http.response.start', 'status': status,
             'headers': [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode())]}
    await _with_headers(send)(start)
    await send({'type': 'http.response.body', 'body': body})
