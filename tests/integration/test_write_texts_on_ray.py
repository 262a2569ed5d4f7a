"""Texts written on a cluster: the file of one process, whatever is killed, and the same passes for vLLM's processor."""

import functools
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.ray_cluster import ClusterOptions
from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
from pyiqa_rali.vlm import cluster_writing
from pyiqa_rali.vlm.cluster_writing import ClusterWriting, VllmWriting, replayed
from pyiqa_rali.vlm.loading import identity, load_vlm, load_without_weights
from pyiqa_rali.vlm.write_texts import WritingOptions, write_texts
from tests.integration.test_score_on_ray import nodes, scoring_processes  # noqa: F401
from tests.tiny import tiny_vlm

OPTIONS = WritingOptions(texts_per_image=3, batch_size=2, max_new_tokens=40)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return str(tiny_vlm(tmp_path_factory.mktemp('vlm') / 'tiny'))


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    for number in range(9):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / 'images' / f'{number}.png')
    return sorted((tmp_path / 'images').iterdir())


def by_seed(reasoner, pictures, prompt, max_new_tokens, seeds, sampling, seconds=0.0):
    """Completions by the seed alone, some unparsable and many alike, since random weights write nothing that parses."""
    time.sleep(seconds)
    texts = [f'<think>It is {seed % 7}.</think><answer>{{"rating": 3}}</answer>' if seed % 5 else 'nothing' for seed in seeds]
    return [reasoner.processor.tokenizer.encode(text, add_special_tokens=False) for text in texts]


def load(model, seconds=0.0):
    return load_without_weights(model), functools.partial(by_seed, seconds=seconds)


@pytest.mark.slow
def test_a_cluster_writes_the_file_of_one_process_although_its_processes_are_killed(nodes, model, images, tmp_path):  # noqa: F811
    reasoner = load_without_weights(model)
    first = write_texts(reasoner, images, tmp_path / 'alone.jsonl', OPTIONS, completer=by_seed)
    killed = []

    def kill():
        while len(killed) < 2:
            time.sleep(1)
            there = scoring_processes(nodes)
            done = (tmp_path / 'texts.jsonl.part').exists() and (tmp_path / 'texts.jsonl.part').read_bytes().count(b'\n')
            if there and done and done > len(killed):
                os.kill(there[0], signal.SIGKILL)
                killed.append(done)
    threading.Thread(target=kill, daemon=True).start()
    shared = ClusterWriting(functools.partial(load, model, 0.3), identity(reasoner.folder), OPTIONS, ClusterOptions(actors=2))
    report = write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS, shared=shared)
    assert killed and (tmp_path / 'texts.jsonl').read_bytes() == (tmp_path / 'alone.jsonl').read_bytes()
    assert vars(report) == vars(first) and report.unparsed and report.repeated


def load_as_the_command_does(settings, with_rating):
    reasoner = settings.load_without_weights()
    reasoner.asked.with_rating = with_rating
    return reasoner, by_seed


@pytest.mark.slow
def test_the_command_continues_on_a_cluster_what_one_process_began(nodes, model, images, tmp_path, capsys,  # noqa: F811
                                                                   monkeypatch):
    monkeypatch.setattr('pyiqa_rali.vlm.write_texts.complete', by_seed)
    monkeypatch.setattr(cluster_writing, 'load_for_texts', load_as_the_command_does)
    words = ['write-texts', str(tmp_path / 'images'), '--model', model, '--texts-per-image', '2', '--max-new-tokens', '40',
             '--batch-size', '3', '--device', 'cpu']
    assert main([*words, '--out', str(tmp_path / 'alone.jsonl')]) == 0
    wanted = (tmp_path / 'alone.jsonl').read_bytes()
    (tmp_path / 'texts.jsonl.part').write_bytes(b''.join(wanted.splitlines(keepends=True)[:4]))
    (tmp_path / 'texts.jsonl.json').write_bytes((tmp_path / 'alone.jsonl.json').read_bytes())
    assert main([*words, '--out', str(tmp_path / 'texts.jsonl'), '--engine', 'ray', '--actors', '1']) == 0
    assert (tmp_path / 'texts.jsonl').read_bytes() == wanted and 'texts on 9 images' in capsys.readouterr().err
    (tmp_path / 'images' / '5.png').write_bytes(b'no picture')
    assert main([*words, '--out', str(tmp_path / 'other.jsonl'), '--engine', 'ray', '--actors', '1']) == 2
    told = capsys.readouterr().err
    assert '5.png' in told and 'Traceback' not in told


@pytest.mark.parametrize(('completions', 'texts', 'wanted', 'counts'), [
    ({}, [], [(0, 0), (1, 0)], (0, 0)),
    ({(0, 0): 'a', (1, 0): 'b'}, ['a', 'b'], [], (0, 0)),
    ({(0, 0): 'a', (1, 0): 'a'}, ['a'], [(1, 1)], (0, 1)),
    ({(0, 0): None, (1, 0): 'b'}, ['b'], [(0, 1)], (1, 0)),
    ({(0, 0): None, (1, 0): 'b', (0, 1): 'b'}, ['b'], [(1, 1)], (1, 1)),  # one process would have given the first number its b
    ({(0, 0): None, (0, 1): None, (1, 0): 'b'}, ['b'], [], (2, 0)),  # and used up the attempts
])
def test_a_pass_asks_for_what_one_process_would_have_asked_for_next(completions, texts, wanted, counts):
    found = replayed(completions, WritingOptions(texts_per_image=2, attempts=2))
    assert ([text for text, _ in found[0]], found[1], found[2]) == (texts, wanted, counts)


class Rows(list):
    """Stands for a Ray Dataset."""

    def iter_rows(self):
        return iter(self)


def test_passes_for_vllm_write_the_file_of_one_process(model, images, tmp_path, monkeypatch):
    """With the part of Ray that runs vLLM replaced: requests and answers have the columns that it takes and gives."""
    reasoner, passes = load_vlm(model), []

    class VllmCompleter:
        def __call__(self, *given):
            return by_seed(*given)

    def build(config, preprocess, postprocess):
        assert config.model_source == str(reasoner.folder) and config.concurrency == 3 and not config.detokenize_stage

        def process(rows):
            passes.append(len(rows))
            answers = Rows()
            for row in rows:
                request = preprocess(row)
                assert request['prompt'].count('<image>') or request['prompt']
                assert request['multimodal_data']['image'].size == (32, 32)
                sampling = request['sampling_params']
                assert sampling['max_tokens'] == 40 and sampling['temperature'] == 1.0 and sampling['logit_bias']
                tokens, = by_seed(reasoner, [None], None, 40, [sampling['seed']], None)
                answers.append(postprocess({**request, 'generated_tokens': np.array(tokens), 'num_input_tokens': 5}))
            return answers
        return process
    monkeypatch.setattr(cluster_writing, '_processor_builder', lambda: (build, SimpleNamespace))
    monkeypatch.setattr(cluster_writing, '_cluster', lambda options: __import__('contextlib').nullcontext())
    monkeypatch.setattr(cluster_writing, 'derived_seed', lambda *given: derived(*given) % 2 ** 32)
    monkeypatch.setattr('pyiqa_rali.vlm.write_texts.derived_seed', lambda *given: derived(*given) % 2 ** 32)
    monkeypatch.setattr(cluster_writing, 'dataset_of', lambda columns: Rows(
        dict(zip(block, row, strict=True)) for block in columns() for row in zip(*block.values(), strict=True)))
    first = write_texts(reasoner, images, tmp_path / 'alone.jsonl', OPTIONS, completer=VllmCompleter())
    shared = VllmWriting(reasoner, functools.partial(load_without_weights, model), identity(reasoner.folder), OPTIONS,
                         ClusterOptions(actors=3))
    report = write_texts(reasoner, images, tmp_path / 'texts.jsonl', OPTIONS, shared=shared)
    assert (tmp_path / 'texts.jsonl').read_bytes() == (tmp_path / 'alone.jsonl').read_bytes()
    assert vars(report) == vars(first) and len(passes) > 2 and passes[0] == 27 > passes[1]
    assert all(len(texts) == 3 for texts in load_reasoning_texts(tmp_path / 'texts.jsonl').values())


def derived(*given):
    from pyiqa_rali.core.seeds import derived_seed
    return derived_seed(*given)


def test_without_vllm_the_option_says_what_to_install(model):
    with pytest.raises(OptionError, match=r'--backend: vllm cannot be imported .* pip install "ray\[llm\]"'):
        VllmWriting(load_without_weights(model), None, 'm', OPTIONS, ClusterOptions())
