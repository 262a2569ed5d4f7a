import argparse
import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyiqa_rali
from pyiqa_rali import train
from pyiqa_rali.__main__ import COMMANDS, build_parser, command_module, main
from pyiqa_rali.cli import exit_status
from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError
from pyiqa_rali.model.basis_scorer import BasisScorer
from pyiqa_rali.model.checkpoint import FORMAT_VERSION, save_checkpoint

PACKAGE = Path(pyiqa_rali.__file__).parent


def first_lines():
    shared = ('__init__', 'arguments', 'cluster', 'several')
    files = [path for path in (PACKAGE / 'cli').glob('*.py') if path.stem not in shared]
    return {path.stem: ast.get_docstring(ast.parse(path.read_text())).splitlines()[0] for path in files}


def test_the_table_lists_every_module_with_the_first_line_of_its_docstring():
    assert dict(COMMANDS.values()) == first_lines()
    assert list(COMMANDS) == [module.replace('_', '-') for module, _ in COMMANDS.values()]


def help_of(*arguments):
    """Return what `--help` prints, and which heavy modules this imported."""
    code = f'import sys; from pyiqa_rali.__main__ import main\ntry: main([*{arguments!r}, "--help"])\nfinally: ' \
           'print(*[heavy for heavy in ("torch", "transformers", "pyiqa", "matplotlib") if heavy in sys.modules])'
    result = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(PACKAGE.parent)},
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stdout.splitlines()[-1].split()


@pytest.mark.slow
def test_the_help_lists_the_subcommands_and_imports_nothing_heavy():
    printed, heavy = help_of()
    assert all(f'  {name}' in printed for name in COMMANDS) and heavy == []


@pytest.mark.slow
@pytest.mark.parametrize('name', COMMANDS)
def test_every_subcommand_has_help_that_comes_at_once(name):
    printed, heavy = help_of(name)
    assert f'usage: pyiqa-rali {name} ' in printed and set(heavy) <= {'torch'}

def parsers():
    """Return every parser that prints a help: of each subcommand, of each kind of analysis, of training, and of all."""
    found = {'pyiqa-rali': build_parser('')}
    for name in COMMANDS:
        found |= {parser.prog: parser for parser in leaves(build_parser(name), name)}
    return {**found, 'pyiqa_rali.train': train.build_parser()}


def leaves(parser, name):
    chosen = subparsers_of(parser)[name]
    yield chosen
    for inner in subparsers_of(chosen):
        yield from leaves(chosen, inner)


def subparsers_of(parser):
    return next((action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)), {})


@pytest.mark.parametrize('name', parsers())
def test_every_help_fits_a_screen_and_ends_with_examples(name, monkeypatch):
    monkeypatch.setenv('COLUMNS', '100')
    parser = parsers()[name]
    lines = parser.format_help().splitlines()
    most = 60 if name == 'pyiqa-rali' else 40  # that one has a line for each command
    assert len(lines) <= most and max(map(len, lines)) <= 100, '\n'.join(lines)
    assert lines[0].startswith(f'usage: {parser.prog}') and 'examples:' in lines
    for action in parser._actions:  # an option that few need is named, and --help-all explains it
        if action.option_strings and action.help != argparse.SUPPRESS:
            assert action.option_strings[-1] in parser.format_help()
            assert action.option_strings[-1] in parser.format_help(everything=True)
            told = (action.help or '').split('%')[0]
            assert ' '.join(told.split()) in ' '.join(parser.format_help(everything=True).split())


@pytest.mark.parametrize('line', [line for parser in parsers().values() for line, _ in parser.examples])
def test_every_example_can_be_parsed(line):
    """What stands before the program, such as torchrun or a pipe, is left out."""
    words = shlex.split(line)
    start = next(place for place, word in enumerate(words) if word in ('pyiqa-rali', 'pyiqa_rali', 'pyiqa_rali.train'))
    rest = words[start + 1:]
    if words[start] == 'pyiqa_rali.train':
        assert train.build_parser().parse_args(rest).opt
    elif '--help' not in rest:
        assert build_parser(rest[0]).parse_args(rest).command == rest[0]


def test_help_all_explains_what_help_names(capsys):
    with pytest.raises(SystemExit, match='0'):
        main(['write-texts', '--help-all'])
    assert 'of sampling (default: 1.0)' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='0'):
        main(['write-texts', '--help'])
    printed = capsys.readouterr().out
    assert 'explained by --help-all: --temperature' in printed and 'of sampling' not in printed


def test_no_subcommand_prints_the_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f'  {name}' in printed for name in COMMANDS) and 'python -m pyiqa_rali.train -opt FILE' in printed


def test_a_wrong_subcommand_gets_a_hint(capsys):
    assert main(['scroe']) == 2
    assert 'there is no subcommand "scroe". Did you mean "score"? The subcommands are score' in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match='0'):
        main(['--version'])
    assert capsys.readouterr().out == f'pyiqa-rali {pyiqa_rali.__version__}\n'


def raising(error):
    def work():
        raise error
    return work


@pytest.mark.parametrize('error', [OptionError('seed: no'), DataError('row 3'), CheckpointError('a.pth: cut'),
                                   FileNotFoundError(2, 'No such file', 'a.png'), OSError(28, 'No space left on device')])
def test_what_the_user_can_mend_is_one_line_and_status_2(error, capsys):
    assert exit_status('program', raising(error)) == 2
    assert capsys.readouterr().err == f'program: error: {error}\n'


def test_ctrl_c_is_status_130(capsys):
    assert exit_status('program', raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == 'program: interrupted\n'


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status('program', raising(ZeroDivisionError()))


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_no_error():
    code = 'import sys; from pyiqa_rali.cli import exit_status\n' \
           'sys.exit(exit_status("program", lambda: [print("x" * 9999) for _ in range(99)] and 0))'
    command = f'{sys.executable} -c \'{code}\' | head -c 1; echo ":${{PIPESTATUS[0]}}"'
    result = subprocess.run(['bash', '-c', command], env={**os.environ, 'PYTHONPATH': str(PACKAGE.parent)},
                            capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ('x:0\n', '')


@pytest.mark.parametrize(('kind', 'module', 'function', 'expected'), [
    (None, 'training.rali.run', 'train', [True, 'pytorch', ['a:b=1', 'c=2', 'd=3']]),
    ('RALI', 'training.rali.run', 'train', [True, 'pytorch', ['a:b=1', 'c=2', 'd=3']]),
    ('GRPO', 'training.vlm.grpo', 'train_grpo', [True, ['a:b=1', 'c=2', 'd=3']]),
    ('SFT', 'training.vlm.sft', 'train_sft', [True, ['a:b=1', 'c=2', 'd=3']]),
    ('RACT', 'training.vlm.ract', 'run_ract', [True, ['a:b=1', 'c=2', 'd=3']]),
    ('CHAIN', 'studies.chain.run', 'run_chain', [True, ['a:b=1', 'c=2', 'd=3']])])
def test_training_hands_its_arguments_over(monkeypatch, tmp_path, kind, module, function, expected):
    received = []
    stand_in = SimpleNamespace(**{function: lambda *args: received.append(args)})
    monkeypatch.setitem(sys.modules, f'pyiqa_rali.{module}', stand_in)
    option_file = tmp_path / 'a.yml'
    option_file.write_text('a: {b: 0}\nc: 0\nd: 0\n' + (f'model_type: {kind}\n' if kind else ''))
    assert train.main(['-opt', str(option_file), '--auto_resume', '--launcher', 'pytorch', '--force_yml', 'a:b=1', 'c=2',
                       '--force_yml', 'd=3']) == 0
    assert received == [(str(option_file), *expected)]


def test_a_kind_of_training_that_is_not_known(tmp_path, capsys):
    (tmp_path / 'a.yml').write_text('model_type: GRPOO\n')
    assert train.main(['-opt', str(tmp_path / 'a.yml')]) == 2
    assert 'model_type: "GRPOO" is not one of RALI, GRPO, SFT, RACT, CHAIN. Did you mean "GRPO"?' in capsys.readouterr().err


def test_training_without_an_option_file_that_exists_says_what_to_give(capsys):
    assert train.main(['-opt', 'nowhere.yml']) == 2
    assert capsys.readouterr().err.startswith('pyiqa_rali.train: error: -opt: nowhere.yml is not a file. Give the path of')


@pytest.fixture
def checkpoint(tmp_path):
    scorer = BasisScorer(6, 4, 3)
    tensors = {f'scorer.{name}': tensor for name, tensor in scorer.state_dict().items()}
    metadata = {'format_version': FORMAT_VERSION, 'image_encoder': {'library': 'timm', 'name': 'some_net'},
                'mos_range': [1, 5], 'lower_better': False, 'training': {'seed': 3}}
    save_checkpoint(tmp_path / 'rali.safetensors', {**tensors, 'image_encoder.weight': torch.ones(7)}, metadata)
    return tmp_path, metadata


def test_info_shows_what_a_checkpoint_says(checkpoint, capsys):
    assert main(['info', str(checkpoint[0])]) == 0
    printed = capsys.readouterr().out
    for line in ('mos_range: 1, 5', '  name: some_net', '  seed: 3', '  basis vectors (K): 3', '  features (C): 6'):
        assert f'{line}\n' in printed
    assert '0.00 million of them in the image encoder' in printed


def test_info_prints_json_that_can_be_read_back(checkpoint, capsys):
    assert main(['info', str(checkpoint[0] / 'rali.safetensors'), '--json']) == 0
    assert json.loads(capsys.readouterr().out) == checkpoint[1]


def test_info_on_a_file_that_is_not_ours_says_so(tmp_path, capsys):
    (tmp_path / 'a.safetensors').write_bytes(b'no tensors')
    assert main(['info', str(tmp_path / 'a.safetensors')]) == 2
    assert 'pyiqa-rali info: error: ' in capsys.readouterr().err


@pytest.mark.parametrize('name', COMMANDS)
def test_every_module_has_the_two_functions(name):
    module = command_module(name)
    assert callable(module.add_arguments) and callable(module.run)


@pytest.mark.slow
def test_a_name_that_is_not_utf8_is_printed(tmp_path):
    import numpy
    from PIL import Image
    path = os.fsencode(tmp_path) + b'/a\xff.png'
    Image.fromarray(numpy.zeros((32, 32, 3), numpy.uint8)).save(os.fsdecode(path), 'PNG')
    result = subprocess.run([sys.executable, '-m', 'pyiqa_rali', 'score', path, '--device', 'cpu'], capture_output=True,
                            env={**os.environ, 'PYTHONIOENCODING': 'utf-8:strict'}, check=False)
    assert result.returncode == 0 and b'a\\udcff.png\t' in result.stdout, result.stderr.decode()


def all_parsers(parser):
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        for child in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from all_parsers(child)


@pytest.mark.parametrize('name', COMMANDS)
def test_arguments_are_not_abbreviated(name):
    assert not [parser.prog for parser in all_parsers(build_parser(name)) if parser.allow_abbrev]


def test_an_abbreviated_argument_is_not_taken_for_a_longer_one(capsys):
    with pytest.raises(SystemExit):
        main(['describe', 'a.png', '--mod', 'x'])
    assert 'required: --model' in capsys.readouterr().err
