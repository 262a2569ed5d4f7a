import json
import os
import threading
import time
import types

import pyiqa
import pytest
import torch

from pyiqa_rali.core import processor
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.model import products, race
from pyiqa_rali.model.whole_float32 import whole_float32


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    race.forget()
    products.product_library.cache_clear()
    products.bf16_speed.cache_clear()
    yield
    race.forget()
    products.product_library.cache_clear()
    products.bf16_speed.cache_clear()


def spin(seconds):
    """Return a way that takes so long of the processor's time."""
    def way():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
    return way


def test_the_fastest_way_is_taken_and_remembered_by_this_process_and_the_next():
    ways = {'slow': spin(0.01), 'fast': spin(0.002)}
    assert race.fastest('spin', ways) == 'fast'
    stopped = dict.fromkeys(ways, lambda: pytest.fail('measured twice'))
    assert race.fastest('spin', stopped) == 'fast'
    race.forget()  # another process
    assert race.fastest('spin', stopped) == 'fast'
    (machine, questions), = json.loads(race.races_file().read_text()).items()
    assert processor.processor_name() in machine and f'torch {torch.__version__}' in machine
    assert set(questions['spin']) == {'slow', 'fast'} and questions['spin']['fast'] == pytest.approx(0.002, rel=0.5)


def test_the_first_way_stays_unless_another_is_clearly_faster(monkeypatch):
    for seconds, expected in (({'first': 1.0, 'second': 0.97}, 'first'), ({'first': 1.0, 'second': 0.9}, 'second')):
        monkeypatch.setattr(race, 'times', lambda question, ways, seconds=seconds: seconds)
        assert race.fastest('x', dict.fromkeys(seconds)) == expected


def test_another_machine_and_other_ways_are_measured_anew(monkeypatch):
    race.fastest('spin', {'slow': spin(0.01), 'fast': spin(0.002)})
    race.forget()
    assert race.fastest('spin', {'slow': spin(0.002), 'other': spin(0.01)}) == 'slow'
    race.forget()
    monkeypatch.setattr(race, 'machine_key', lambda: 'another machine')
    assert race.fastest('spin', {'slow': spin(0.01), 'fast': spin(0.002)}) == 'fast'
    assert len(json.loads(race.races_file().read_text())) == 2


@pytest.mark.parametrize('content', ['', '{', '[1]', '{"machine": 3}', '{"machine": {"spin": {"fast": "x"}}}'])
def test_a_damaged_file_is_measured_over(content):
    race.races_file().parent.mkdir(parents=True)
    race.races_file().write_text(content)
    assert race.fastest('spin', {'slow': spin(0.01), 'fast': spin(0.002)}) == 'fast'
    assert json.loads(race.races_file().read_text())


def test_a_home_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    ways = {'slow': spin(0.01), 'fast': spin(0.002)}
    assert race.fastest('spin', ways) == 'fast'
    assert race.fastest('spin', dict.fromkeys(ways, lambda: pytest.fail('measured twice'))) == 'fast'


def test_threads_wait_for_one_race():
    count, found = [0], []

    def way():
        count[0] += 1
        time.sleep(0.01)
    threads = [threading.Thread(target=lambda: found.append(race.fastest('x', {'a': way, 'b': way}))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and count[0] == 2 * (1 + race.ROUNDS)


def test_the_library_of_products_can_be_named(monkeypatch):
    values, weight, bias = torch.randn(2, 5, 48), torch.randn(80, 48), torch.randn(80)
    monkeypatch.setattr(race, 'measured', lambda ways: pytest.fail('raced'))
    for name in ('torch', 'onednn'):
        monkeypatch.setenv('PYIQA_RALI_PRODUCTS', name)
        products.product_library.cache_clear()
        assert products.product_library() == name
        expected = torch.nn.functional.linear(values, weight, bias)
        assert torch.allclose(products.linear(values, weight, bias), expected, atol=1e-4)
    monkeypatch.setenv('PYIQA_RALI_PRODUCTS', 'mkl')
    products.product_library.cache_clear()
    with pytest.raises(OptionError, match='PYIQA_RALI_PRODUCTS: "mkl" must be torch, or onednn'):
        products.product_library()


@pytest.mark.parametrize('winner', ['torch', 'onednn'])
def test_the_faster_library_multiplies(winner, monkeypatch):
    monkeypatch.delenv('PYIQA_RALI_PRODUCTS', raising=False)
    monkeypatch.setattr(race, 'measured', lambda ways: {name: 1.0 if name == winner else 2.0 for name in ways})
    calls = []
    monkeypatch.setattr(products, 'onednn_linear', lambda *operands: calls.append(1) or torch.zeros(3))
    monkeypatch.setattr(products, 'onednn_multiplies', lambda: True)
    products.linear(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3))
    assert products.product_library() == winner and calls == [1] * (winner == 'onednn')
    weight = torch.zeros(3, 4, requires_grad=True)
    products.linear(torch.zeros(2, 4), weight, torch.zeros(3)).sum().backward()
    assert weight.grad is not None


def test_bf16_is_raced_against_the_library_that_is_taken():
    speed = products.bf16_speed()
    questions, = json.loads(race.races_file().read_text()).values()
    assert set(questions) == {'linear', 'linear in bf16'} and speed > 0
    assert set(questions['linear in bf16']) == {'bf16', products.product_library()}


def test_a_program_that_allows_bf16_products_in_float32_does_not_change_ours(monkeypatch):
    values, weight, bias = torch.randn(1, 577, 256), torch.randn(256, 256), torch.randn(256)
    expected = torch.nn.functional.linear(values.double(), weight.double(), bias.double())
    torch.set_float32_matmul_precision('medium')
    try:
        found = products.linear(values, weight, bias)
        left = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision('highest')
    assert (found - expected).abs().max() < 2e-4  # bfloat16 is a hundred times farther away
    assert left == 'medium'  # for the rest of the program


def test_scores_are_float32_in_a_program_that_allows_bf16():
    net = pyiqa.create_metric('rali-lite', device='cpu').net
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(images)
        torch.set_float32_matmul_precision('medium')
        try:
            found = net(images)
        finally:
            torch.set_float32_matmul_precision('highest')
    assert (found - expected).abs().max() < 1e-5


def test_whole_float32_ends_with_the_last_computation_that_wants_it(monkeypatch):
    settings = types.SimpleNamespace(matmul=types.SimpleNamespace(fp32_precision='bf16'),
                                     conv=types.SimpleNamespace(fp32_precision='ieee'))
    monkeypatch.setattr(torch.backends, 'mkldnn', settings)
    with whole_float32():
        with whole_float32():
            assert settings.matmul.fp32_precision == 'ieee'
        assert settings.matmul.fp32_precision == 'ieee'
    assert settings.matmul.fp32_precision == 'bf16' and settings.conv.fp32_precision == 'ieee'
    monkeypatch.setattr(torch.backends, 'mkldnn', types.SimpleNamespace())  # PyTorch before 2.9
    with whole_float32():
        pass


def test_the_processor_says_what_it_is(monkeypatch):
    assert processor.processor_name() and processor.described_processor().startswith(processor.processor_name())
    text = 'processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_bf16 sse\nmodel name : Other\n'
    monkeypatch.setattr(processor.Path, 'read_text', lambda *args, **kwargs: text)
    processor.processor_name.cache_clear()
    processor.instruction_sets.cache_clear()
    try:
        if os.name == 'posix' and processor.sys.platform == 'linux':
            assert processor.described_processor() == 'Some CPU avx2 avx512f amx_bf16'
    finally:
        processor.processor_name.cache_clear()
        processor.instruction_sets.cache_clear()
