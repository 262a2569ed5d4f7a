"""The reader of options: dataclasses by their annotations, from plain values, YAML and overrides."""

import copy
import dataclasses
import math
import pathlib
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import yaml
from annotated_types import Interval, Le, Len, Lt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import NUMBER_WITH_EXPONENT, yaml_text
from pyiqa_rali.core.options import (
    Count,
    Positive,
    Share,
    Whole,
    checked,
    from_known_keys,
    override,
    plain,
    read_yaml,
)
from pyiqa_rali.data.sections import DatasetOptions, ManifestOptions, TableOptions
from pyiqa_rali.data.synthetic.options import SyntheticOptions
from pyiqa_rali.data.synthetic.settings import DatasetSettings
from pyiqa_rali.evaluation.options import EvaluatePaths, StatisticsOptions
from pyiqa_rali.studies.ablation.plan import AblationOptions, SweepOptions
from pyiqa_rali.studies.chain.options import ColdStartOptions, TinyVlmOptions
from pyiqa_rali.training.rali import options as rali
from pyiqa_rali.training.rali.towers import EncoderOptions
from pyiqa_rali.training.vlm import options as vlm
from pyiqa_rali.vlm.write_texts import WritingOptions

DATACLASSES = [rali.TextEncoderOptions, rali.ZeroShotPrompts, rali.AlignOptions, rali.CompressOptions, rali.ScoreOptions,
               rali.ValOptions, rali.LoggerOptions, rali.ExportOptions, rali.BankOptions, rali.PathOptions, rali.TrainOptions,
               vlm.NetworkOptions, vlm.RewardOptions, vlm.ReasoningValOptions, vlm.ReasoningExportOptions, EncoderOptions,
               StatisticsOptions, EvaluatePaths, TinyVlmOptions, ColdStartOptions, WritingOptions, SyntheticOptions,
               DatasetSettings, TableOptions, ManifestOptions, SweepOptions, AblationOptions]


@dataclass
class Inner:
    """A section.

    Attributes:
        count: one at least.
    """

    count: Count = 1


@dataclass
class Outer:
    """Every kind of annotation that options have."""

    lr: Positive
    betas: tuple[float, float] = (0.9, 0.98)
    shares: list[Share] = field(default_factory=list)
    amp: Literal[None, 'bfloat16', 'float16'] = None
    gpus: Literal['auto'] | Whole = 'auto'
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    many: dict[str, Inner] = field(default_factory=dict)
    words: dict[str, list[str]] = field(default_factory=dict)
    stages: list[Literal['a', 'b']] = field(default_factory=list)
    path: str | None = None
    chunk: Count | None = None
    either: int | float = 1
    size: int | list[int] = 1
    half: Annotated[float, Interval(gt=-1, le=0.5)] = 0.0
    below: Annotated[int, Lt(3)] | Annotated[str, Len(1, 4)] = 0
    most: Annotated[int, Le(3)] = 0
    flag: bool = False
    anything: Any = None


@pytest.mark.parametrize(('values', 'message'), [
    ({'betas': ['x', True]}, "betas: element 1: 'x' must be of type float."),
    ({'betas': [0.9, True]}, 'betas: element 2: True must be of type float.'),
    ({'betas': [0.9]}, r'betas: \[0.9\] must have 2 elements.'), ({'betas': 3}, 'betas: 3 must be of type list.'),
    ({'betas': {'a': 1}}, "betas: {'a': 1} must be of type list."), ({'stages': 'ab'}, "stages: 'ab' must be of type list."),
    ({'shares': [0.5, 2]}, r'shares: element 2: 2.0 must be in \[0, 1\].'),
    ({'stages': ['a', 'B']}, 'stages: element 2: "B" is not one of a, b.'),
    ({'lr': math.nan}, 'lr: nan must be a finite number.'),
    ({'lr': math.inf}, 'lr: inf must be a finite number.'), ({'lr': 10 ** 400}, 'lr: inf must be a finite number.'),
    ({'lr': None}, 'lr: None must be of type float.'), ({'lr': True}, 'lr: True must be of type float.'),
    ({'lr': 0}, 'lr: 0.0 must be above 0.'), ({'lr': '1e-4x'}, "lr: '1e-4x' must be of type float."),
    ({'amp': 'bfloat61'}, 'amp: "bfloat61" is not one of ~, bfloat16, float16. Did you mean "bfloat16"?'),
    ({'gpus': 'atuo'}, 'gpus: "atuo" is not one of auto, or of type int. Did you mean "auto"?'),
    ({'gpus': -1}, 'gpus: -1 must be at least 0, or auto.'),
    ({'gpus': True}, 'gpus: "True" is not one of auto, or of type int.'),
    ({'inner': 3}, 'inner: 3 must be a section with keys.'),
    ({'inner': {'cuont': 1}}, 'inner: unknown key "cuont"; known are count. Did you mean "count"?'),
    ({'inner': {'count': 0}}, 'inner: count: 0 must be at least 1.'),
    ({'inner': {'count': 1.0}}, 'inner: count: 1.0 must be of type int.'),
    ({'maybe': {'count': 0}}, 'maybe: count: 0 must be at least 1.'),
    ({'maybe': []}, r'maybe: \[\] must be a section with keys.'),
    ({'many': {'k': {'count': None}}}, 'many: k: count: None must be of type int.'),
    ({'many': {True: {}}}, 'many: the key True must be of type str. Put it into quotes.'),
    ({'words': {'a': ['b', 1]}}, 'words: a: element 2: 1 must be of type str.'),
    ({'words': {'a': 'b'}}, "words: a: 'b' must be of type list."), ({'path': 3}, 'path: 3 must be of type str, or ~.'),
    ({'chunk': 0}, 'chunk: 0 must be at least 1, or ~.'), ({'size': 'x'}, "size: 'x' must be of type int, or of type list."),
    ({'half': -1}, r'half: -1.0 must be in \(-1, 0.5\].'), ({'below': 3}, 'below: 3 must be below 3, or of type str.'),
    ({'below': ''}, 'below: must hold at least one, or of type int.'), ({'most': 4}, 'most: 4 must be at most 3.'),
    ({'below': 'abcde'}, 'below: must hold at most 4, or of type int.'),
    ({'flag': 1}, 'flag: 1 must be of type bool.'), ({'flag': 'yes'}, "flag: 'yes' must be of type bool."),
    ({'anything': {'a': [1, {'b': math.inf}]}}, 'anything: a: element 2: b: inf must be a finite number.'),
    ({'leer': 1}, 'options: unknown key "leer"; known are .*Did you mean "lr"?'),
    ([], r'options: \[\] must be a section with keys.')])
def test_what_the_annotations_refuse(values, message):
    values = {'lr': 1.0, **values} if isinstance(values, dict) else values
    with pytest.raises(OptionError, match=f'^{message}'.replace('?', r'\?')):
        from_known_keys(Outer, values)


def test_values_take_the_type_of_their_annotation():
    read = from_known_keys(Outer, {'lr': 1, 'betas': [0, 1], 'inner': None, 'many': {'k': None}, 'words': None, 'either': 2,
                                   'size': (3, 4), 'gpus': 2})
    assert read == Outer(1.0, (0.0, 1.0), many={'k': Inner()}, either=2, size=[3, 4], gpus=2)
    assert type(read.lr) is float and type(read.either) is int and type(read.betas[0]) is float


def test_a_section_of_a_section_is_named_by_its_path():
    with pytest.raises(OptionError, match='^network: image_encoder: pooling: "maen_std" is not one of head, mean_std.'):
        from_known_keys(EncoderOptions, {'library': 'timm', 'name': 'x', 'pooling': 'maen_std'}, 'network: image_encoder')
    with pytest.raises(OptionError, match='^network: image_encoder: library, name must be given'):
        from_known_keys(EncoderOptions, {}, 'network: image_encoder')


def test_options_made_in_python_are_checked_and_copied():
    made = Outer(np.float32(0.5), path=pathlib.Path('a') / 'b', chunk=np.int64(3), maybe=Inner(2), anything={'a': [1]})
    read = checked(made)
    assert read == Outer(0.5, path='a/b', chunk=3, maybe=Inner(2), anything={'a': [1]})
    assert {type(read.lr), type(read.chunk), type(read.path)} == {float, int, str}
    assert read.anything is not made.anything and read.maybe is not made.maybe
    with pytest.raises(OptionError, match='^maybe: count: 0 must be at least 1'):
        checked(Outer(1.0, maybe=Inner(0)))


def test_what_a_dataclass_checks_itself_is_told_with_the_section():
    @dataclass
    class Bounds:
        low: int
        high: int

        def __post_init__(self):
            if self.low > self.high:
                raise OptionError(f'low, high: {self.low} is more than {self.high}.')

    with pytest.raises(OptionError, match='^bounds: low, high: 2 is more than 1'):
        from_known_keys(Bounds, {'low': 2, 'high': 1}, 'bounds')
    with pytest.raises(OptionError, match='^low, high: 2 is more than 1'):
        from_known_keys(Bounds, {'low': 2, 'high': 1})


# a case that fails is shown as it was drawn: to make it smaller takes minutes
QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.shrink})
NUMBERS = {int: st.integers(), float: st.floats(allow_nan=False, allow_infinity=False), bool: st.booleans(),
           str: st.text(max_size=9), type(None): st.none()}
PLAIN = st.recursive(st.one_of(*NUMBERS.values()),
                     lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
                     max_leaves=3)


def drawn(hint):
    """Return a strategy of the values that an annotation allows."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is DatasetOptions:  # `type` says of which kind a section is
        manifests = drawn(ManifestOptions).map(lambda made: dataclasses.replace(made, type='ManifestNRDataset'))
        return drawn(TableOptions) | manifests
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{item.name: drawn(hints[item.name]) for item in dataclasses.fields(kind)})
    if kind in (typing.Union, types.UnionType):
        return st.one_of(*map(drawn, arguments))
    if kind is Literal:
        return st.sampled_from(arguments)
    if kind is list:
        return st.lists(drawn(arguments[0]), max_size=3)
    if kind is tuple:
        if arguments[-1] is not ...:
            return st.tuples(*map(drawn, arguments))
        return st.lists(drawn(arguments[0]), max_size=3).map(tuple)
    if kind is dict:
        return st.dictionaries(*map(drawn, arguments), max_size=2)
    return within(arguments[0], hint.__metadata__) if kind is Annotated else NUMBERS.get(kind, PLAIN)


def within(hint, metadata):
    names = ('ge', 'gt', 'le', 'lt', 'min_length', 'max_length', 'multiple_of')
    bounds = {name: getattr(each, name) for each in metadata for name in names if getattr(each, name, None) is not None}
    if hint in (int, float):
        low, high = bounds.get('ge', bounds.get('gt')), bounds.get('le', bounds.get('lt'))
        limits = {'allow_nan': False, 'allow_infinity': False} if hint is float else {}
        strategy = (st.integers if hint is int else st.floats)(low, high, **limits)
        return strategy.filter(lambda value: value not in (bounds.get('gt'), bounds.get('lt'))).map(
            lambda value: value - value % bounds.get('multiple_of', 1) if 'multiple_of' in bounds else value)
    return drawn(hint).filter(lambda value: bounds.get('min_length', 0) <= len(value) <= bounds.get('max_length', 99))


@pytest.mark.parametrize('cls', [Outer, *DATACLASSES], ids=lambda cls: cls.__name__)
def test_options_are_the_same_after_a_file(cls, tmp_path_factory):
    path = tmp_path_factory.mktemp('options') / 'options.yml'

    @settings(QUICK, max_examples=25)
    @given(drawn(cls))
    def same(options):
        path.write_text(yaml_text(plain(options)), encoding='utf-8', newline='')
        read = from_known_keys(cls, read_yaml(path))
        assert read == options and type(read) is cls

    same()


@settings(QUICK, max_examples=100)
@given(st.sampled_from(DATACLASSES), st.text(min_size=1, max_size=12))
def test_unknown_keys_are_named(cls, key):
    if key not in {item.name for item in dataclasses.fields(cls)}:
        with pytest.raises(OptionError) as caught:
            from_known_keys(cls, {key: 1}, 'section')
        assert str(caught.value).startswith(f'section: unknown key "{key}"; known are ')


KEYS = st.text(st.characters(exclude_categories=['Cc', 'Cs', 'Z'], exclude_characters='='), min_size=1, max_size=5)
SECTIONS = st.recursive(PLAIN.filter(lambda value: not isinstance(value, dict)),
                        lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=6)


def places(section, path=()):
    for key, value in section.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@settings(QUICK, max_examples=200)
@given(st.dictionaries(KEYS.filter(lambda key: ':' not in key), SECTIONS, min_size=1, max_size=3), PLAIN, st.data())
def test_an_override_changes_one_place_and_nothing_else(values, value, data):
    place = data.draw(st.sampled_from([each for each in places(values) if not any(':' in key for key in each)] or [()]))
    if not place:
        return
    before = copy.deepcopy(values)
    found = override(values, [f'{":".join(place)}={in_one_line(value)}'])
    assert values == before
    section = before
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    assert found == before and list(found) == list(before)


class Dumper(yaml.SafeDumper):
    """Quotes texts such as 1e5, which the reader takes for a number and YAML 1.1 does not."""


Dumper.add_implicit_resolver('tag:yaml.org,2002:float', NUMBER_WITH_EXPONENT, list('-+0123456789'))


def in_one_line(value):
    return yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10 ** 9).removesuffix('...\n')


@settings(QUICK, max_examples=100)
@given(st.dictionaries(KEYS, SECTIONS, min_size=1, max_size=3), KEYS)
def test_an_override_of_a_key_that_is_not_there_names_it(values, key):
    if not any(each.split(':')[0] == key.split(':')[0] for each in values):
        with pytest.raises(OptionError) as caught:
            override(values, [f'{key}=1'])
        assert f'names "{key.split(":")[0]}", which the option file does not have' in str(caught.value)


def test_an_override_that_is_no_yaml_is_told():
    with pytest.raises(OptionError, match=r'^--force_yml: the value of "a=\[1" is not valid YAML'):
        override({'a': 1}, ['a=[1'])
