import socket
import subprocess
import sys

import pytest

REACH_OUT = 'import socket; socket.create_connection(("192.0.2.1", 80), timeout=5)'


@pytest.mark.parametrize('address', [('192.0.2.1', 80), ('example.org', 443)])
def test_other_machines_cannot_be_reached(address):
    with pytest.raises(ConnectionError, match=f'tests run without a network; something tried to reach {address[0]}'):
        socket.create_connection(address, timeout=5)


@pytest.mark.slow
def test_child_processes_are_cut_off_too():
    child = subprocess.run([sys.executable, '-c', REACH_OUT], capture_output=True, text=True)
    assert child.returncode == 1 and 'NetworkBlocked: the tests run without a network' in child.stderr


def test_this_machine_can_be_reached():
    with socket.create_server(('127.0.0.1', 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
