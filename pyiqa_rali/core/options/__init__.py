"""Options: YAML in pyiqa's style, read strictly, and turned into dataclasses by the annotations of their fields."""

from pyiqa_rali.core.options.annotations import (
    ROOT,
    Count,
    NotNegative,
    Positive,
    Section,
    Seed,
    Share,
    Whole,
    check_choice,
    checked,
    from_known_keys,
)
from pyiqa_rali.core.options.sources import OptionSource, override, read_yaml, values_of
from pyiqa_rali.core.options.values import Sparse, plain

__all__ = ['ROOT', 'Count', 'NotNegative', 'OptionSource', 'Positive', 'Section', 'Seed', 'Share', 'Sparse', 'Whole',
           'check_choice', 'checked', 'from_known_keys', 'override', 'plain', 'read_yaml', 'values_of']
