"""Rank, world and exchange: in one process, before processes have joined, and in two that have."""

import subprocess
import sys

import pytest
import torch

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import OptionError
from tests.tiny import free_port

TWO = """
import torch
from pyiqa_rali.core import processes
before = processes.rank(), processes.world_size(), processes.is_main()
with processes.process_group('pytorch'):
    with processes.joined():  # has joined already
        assert before == (processes.rank(), processes.world_size(), processes.is_main())
        assert processes.gather({'rank': processes.rank()}) == [{'rank': 0}, {'rank': 1}]
    own = torch.full((2, 3), float(processes.rank() + 1), requires_grad=True)
    features = processes.gather_features(own)
    assert features[:, 0].tolist() == [1, 1, 2, 2]
    features.sum().backward()
    assert own.grad.unique().tolist() == [1]
    weights = torch.nn.Linear(1, 1)
    if processes.is_main():
        weights.weight.grad = torch.full((1, 1), 2.0)
    processes.sum_gradients(weights.parameters())
    assert weights.weight.grad.item() == 2 and weights.bias.grad.item() == 0
    processes.barrier()
try:
    with processes.process_group('none'):
        raise SystemExit('not refused')
except ValueError as error:
    assert '--launcher: none is for one process, and there are 2' in str(error), error
"""


def test_a_single_process_exchanges_nothing():
    features = torch.ones(2, 3)
    with processes.process_group('none'), processes.joined():
        assert (processes.rank(), processes.world_size(), processes.local_rank(), processes.is_main()) == (0, 1, 0, True)
        assert processes.gather('a') == ['a'] and processes.gather_features(features) is features
        processes.barrier()


def test_processes_know_who_they_are_before_they_have_joined(monkeypatch):
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (1, 2, False)
    with pytest.raises(ValueError, match='Default process group has not been initialized'):
        processes.gather('a')  # and not only its own


def test_a_launcher_that_did_not_start_the_process_is_refused():
    with pytest.raises(OptionError, match='--launcher: "slurm" is not one of none, pytorch'), processes.process_group('slurm'):
        pass
    with pytest.raises(OptionError, match='--launcher: pytorch needs torchrun'), processes.process_group('pytorch'):
        pass


@pytest.mark.slow
def test_two_processes_exchange_and_agree(tmp_path):
    (tmp_path / 'two.py').write_text(TWO)
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', free_port(),
                           str(tmp_path / 'two.py')], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
