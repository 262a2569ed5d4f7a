"""Every file of the package is written through `core`: whole or not at all, or by whole rows."""

import ast
from pathlib import Path

import pyiqa_rali

ROOT = Path(pyiqa_rali.__file__).parent
DIRECT = {'write_text', 'write_bytes', 'to_csv', 'to_json', 'savez', 'tofile'}  # methods that write to the path itself
ALLOWED = {('studies/benchmark/measure.py', 'write_text'),  # /proc, which is no file
           ('studies/benchmark/release.py', 'write_bytes'),  # into the temporary folder of `atomic_folder`
           ('scoring/selected_files.py', 'write_bytes'),  # the same
           ('scoring/selected_files.py', 'open'),  # the same, a tar shard
           ('scoring/cluster/attempts.py', 'open'),  # a record of deaths: lines are added, and a cut one is not read
           ('data/fetching/__init__.py', 'open'),  # a copy in a temporary folder, for a reader that needs a file
           ('studies/scale/measure.py', 'open')}  # lists of names in a temporary folder


def direct_writes(path):
    """Yield (file, what) of every call that opens a file for writing, or writes to a path, in its place."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', None)
        modes = [argument.value for argument in [*node.args[:2], *(keyword.value for keyword in node.keywords)]
                 if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]
        if name == 'open' and any(set(mode) & set('wax+') and set(mode) <= set('rwaxbt+') for mode in modes):
            yield path.relative_to(ROOT).as_posix(), 'open'
        if isinstance(node.func, ast.Attribute) and name in DIRECT:
            yield path.relative_to(ROOT).as_posix(), name


def test_nothing_outside_core_writes_in_place():
    found = {each for path in ROOT.rglob('*.py') if ROOT / 'core' not in path.parents for each in direct_writes(path)}
    assert found == ALLOWED


def test_the_search_finds_what_it_looks_for(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'ROOT', tmp_path)
    (tmp_path / 'a.py').write_text("open(p, 'a')\nopen(p, mode='wb')\np.open('w')\nopen(p)\nopen(p, 'rb')\nopen('a.txt')\n"
                                   "p.write_text('x')\nwrite_text(p, 'x')\n")
    assert list(direct_writes(tmp_path / 'a.py')) == [('a.py', 'open')] * 3 + [('a.py', 'write_text')]
