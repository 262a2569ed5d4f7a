"""Cuts every Python process of the test suite off the network; Python imports a module of this name by itself.

The suite puts this folder into PYTHONPATH, so that child processes are cut off too. Only this machine can be reached.
"""

import socket

LOCAL_NAMES = ('', 'localhost', 'localhost.localdomain', '::1', '::', '0.0.0.0')
_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


class NetworkBlocked(ConnectionError):
    """Something tried to reach another machine."""


def _refuse_others(host):
    name = host.decode() if isinstance(host, bytes) else host
    if name is not None and name not in LOCAL_NAMES and not name.startswith('127.'):
        raise NetworkBlocked(f'the tests run without a network; something tried to reach {name}')


def connect(self, address):
    """Connect, to this machine only."""
    if self.family != socket.AF_UNIX:
        _refuse_others(address[0])
    return _connect(self, address)


def connect_ex(self, address):
    """Connect, to this machine only."""
    if self.family != socket.AF_UNIX:
        _refuse_others(address[0])
    return _connect_ex(self, address)


def getaddrinfo(host, *args, **kwargs):
    """Look up a name of this machine only."""
    if host != socket.gethostname():
        _refuse_others(host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
