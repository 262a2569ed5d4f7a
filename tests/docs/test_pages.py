"""What the documentation says is so: links lead somewhere, commands parse, code compiles or runs, options are known."""

import ast
import contextlib
import dataclasses
import importlib
import io
import json
import re
import tomllib
import typing
from pathlib import Path

import pytest
import yaml

from pyiqa_rali import train
from pyiqa_rali.__main__ import build_parser
from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.data.reasoning_texts import load_reasoning_texts
from pyiqa_rali.data.sections import dataset_section
from pyiqa_rali.training.rali.options import TrainOptions
from tests.docs.pages import PAGES, ROOT, anchors_of, blocks, commands_in, links_of, own_command, prose_of
from tests.unit.test_option_files import READERS

OF_PAGE = {'argvalues': PAGES, 'ids': [page.stem for page in PAGES]}


def of_block(*languages, marked=None):
    found = [block for block in blocks(*languages) if marked is None or block.mark == marked]
    assert found
    return {'argvalues': found, 'ids': map(str, found)}


@pytest.mark.parametrize('page', **OF_PAGE)
def test_links_lead_somewhere(page):
    for link in links_of(page):
        if link.startswith(('https://', 'mailto:')):
            continue
        assert '://' not in link and not link.startswith('/'), link
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{page.name}: {link}: {target} is not there'
        if anchor.startswith('pyiqa_rali.'):  # an entry of the Python reference
            assert f'::: {anchor}\n' in target.read_text() + '\n' and exists(anchor), link
        elif anchor:
            assert anchor in anchors_of(target), f'{page.name}: {link}: the headings are {sorted(anchors_of(target))}'


def exists(name: str) -> bool:
    module, _, attribute = name.rpartition('.')
    return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize('block', **of_block('bash', 'sh', 'shell', 'console'))
def test_commands_parse(block):
    """Each command of this package is one that its own parser takes, and the option files that it names are there."""
    if block.language == 'console':
        return
    for words in commands_in(block.text):
        command = own_command(words)
        if command is not None:
            parse(*command)


def parse(program: str, arguments: list[str]) -> None:
    arguments = [word for word in arguments if word not in ('...', '>', 'FILE.yml')]
    parser = train.build_parser() if program.endswith('train') else build_parser(arguments[0])
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(messages):
            args = parser.parse_args(arguments)
    except SystemExit as ended:
        assert '--help' in arguments and ended.code == 0, f'{program} {" ".join(arguments)}: {messages.getvalue()}'
        return
    option_file = getattr(args, 'opt', None)
    if option_file and option_file.startswith('options/'):
        assert (ROOT / option_file).is_file(), option_file
        override_keys_exist(ROOT / option_file, getattr(args, 'force_yml', None) or [])


def override_keys_exist(path: Path, overrides: list[str]) -> None:
    from pyiqa_rali.core.options import override
    override(read_yaml(path), overrides)


@pytest.mark.parametrize('block', **of_block('python'))
def test_python_compiles(block):
    tree = ast.parse(block.text, str(block))
    for node in ast.walk(tree):  # and what it takes from this package is there
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('pyiqa_rali'):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)


@pytest.mark.parametrize('block', **of_block('python', marked='run'))
def test_python_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), 'exec'), {'__name__': '__main__'})
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_a_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = [block for block in blocks('python') if block.mark == 'notebook']
    assert {block.page.name for block in cells} == {'python.md'} and len(cells) == 5
    names = {'__name__': '__main__'}
    for cell in cells:
        exec(compile(cell.text, str(cell), 'exec'), names)
        assert capsys.readouterr().out.strip(), cell
    assert names['scores'].errors == {} and names['explained'].error == ''
    assert names['checkpoint'].path == names['results'].export and len(names['found'].agreement) == 2


@pytest.mark.parametrize('block', **of_block('yaml'))
def test_options_are_taken(block, tmp_path):
    """A whole file is one that its reader takes; a piece has keys that its section knows."""
    path = tmp_path / 'options.yml'
    path.write_text(block.text)
    values = read_yaml(path)
    for section, table in values.get('datasets', {}).items():
        assert dataset_section(section, {'name': section, **table}).scale
    if 'model_type' in values:
        READERS[values['model_type']](values)
    else:
        known = {item.name for item in dataclasses.fields(TrainOptions)} | {'rewards', 'grpo', 'sft', 'prompts'}
        assert set(values) <= known, set(values) - known


@pytest.mark.parametrize('block', **of_block('json'))
def test_texts_are_read(block, tmp_path):
    lines = [json.loads(line) for line in block.text.splitlines()]
    path = tmp_path / 'texts.jsonl'
    path.write_text(block.text)
    assert len(load_reasoning_texts(path)) == len(lines)


@pytest.mark.parametrize('page', **OF_PAGE)
def test_files_and_options_in_the_prose_are_there(page):
    """`options/NAME.yml` is a file, and `section: key: value` is a key that the section has."""
    code = re.findall(r'`([^`\n]+)`', prose_of(page))
    for name in (each for each in code if re.fullmatch(r'(options|docs)/[\w./-]+', each)):
        assert (ROOT / name).exists(), name
    sections = {name: hint for name, hint in typing.get_type_hints(TrainOptions).items() if dataclasses.is_dataclass(hint)}
    for section, key in (each for name in code for each in re.findall(r'^(\w+): (\w+)(?=:|$)', name)):
        if section in sections:
            assert key in {item.name for item in dataclasses.fields(sections[section])}, f'{section}: {key}'


def test_readme_is_short_and_has_both_commands():
    text = (ROOT / 'README.md').read_text()
    assert len(text.splitlines()) <= 140
    marks = {block.mark for block in blocks('bash') if block.page.stem == 'README'}
    assert {'main-job', 'test-command'} <= marks


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Takes the site's file; MkDocs has tags of its own."""

    Loader.add_multi_constructor('', lambda loader, suffix, node: None)
    values = yaml.load((ROOT / 'docs' / 'site' / 'mkdocs.yml').read_text(), Loader)
    named = set(re.findall(r"'([\w-]+\.md)'", repr(values['nav'])))
    assert named == {page.name for page in PAGES if page.name != 'README.md'}


def test_design_names_the_rooms_in_the_order_that_is_enforced():
    layers = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts'][0]['layers']
    table = (ROOT / 'docs' / 'design.md').read_text().partition('## Rooms')[2].partition('\nOutside the rooms')[0]
    assert re.findall(r'^\| `(\w+)` \|', table, re.MULTILINE) == layers[::-1]


def test_every_environment_variable_of_the_package_is_explained():
    sources = [ROOT / 'pyiqa_rali_hook.py', *(ROOT / 'pyiqa_rali').rglob('*.py')]
    used = {name for path in sources for name in re.findall(r'PYIQA_RALI_[A-Z]+', path.read_text())}
    assert used and used == set(re.findall(r'PYIQA_RALI_[A-Z]+', (ROOT / 'docs' / 'commands.md').read_text()))
