"""Options of the synthetic data set, and what they may contain."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import Count, NotNegative, Share, Whole
from pyiqa_rali.data.distortions import DEFAULT_TYPES, check_codecs, expand_names
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.sections import LabelledOptions, of_type
from pyiqa_rali.data.synthetic.pseudo_mos import DEFAULT_METRICS, MOS_RANGE

LEAST_CROP = 32
Level = Annotated[float, Ge(LEVEL_RANGE[0]), Le(LEVEL_RANGE[1])]
Scale = Annotated[float, Ge(0.05), Le(1.0)]


@of_type('SyntheticNRDataset')
@dataclass(kw_only=True)
class SyntheticOptions(LabelledOptions):
    """Options of a `SyntheticNRDataset`; its texts come with the pictures.

    Attributes:
        phase: which photographs: train, val or test.
        dataroot_photos: folder of photographs, or several; None takes those that the dependencies install.
        photo_groups: table of crops and photographs of one folder; several folders have a photos.csv each (see
            `list_photographs`).
        split_seed: seeds the split by photograph.
        split_ratios: shares of train, val and test.
        crop_size: height and width in pixels, or one number for both.
        longest_side: photographs with a longer side are made smaller to it when they are read, in pixels; None leaves them.
        source_scale: photographs are made smaller by a factor drawn from this range before a crop is cut.
        flips: mirror every other crop.
        hold_out: distortions that are never drawn: types, or groups as for `only`.
        only: the distortions that are drawn, less `hold_out`: types such as jpeg, families such as upscaling, version_0.1 (the
            38 types that it had) or all; None means version_0.1.
        composite_probability: share of pictures with two distortions, or as many as `composite_counts` has.
        composite_counts: how many distortions these have, one number drawn each time; [2, 2, 3] has two of them twice as often.
        pristine_probability: share of pictures without any.
        level_range: levels are drawn evenly from it.
        composite_level_range: the levels of composites, whose faults add up; None means `level_range`.
        siblings: so many pictures in a row are one crop with the same distortions at different levels; not with `levels`.
        metrics: full-reference metrics of the label.
        calibration: file with their quantiles; None takes the package's.
        label_noise: standard deviation of what is added to the quality in [0, 1].
        cached_photographs: how many decoded photographs a process keeps; None keeps all.
        samples_per_epoch: length of the data set; not with `levels`.
        levels: instead of random draws, each photograph's centre with each distortion at each of these levels, once.
        num_photographs: with `levels`, only so many photographs, one crop of each; None takes every crop.
        seed: seeds every draw.
        texts_per_image: reasoning texts that each picture gets.
        mos_range: [1, 5].
        lower_better: False.
        mos_normalize: pyiqa's own normalisation; must be False.
    """

    type: Literal['SyntheticNRDataset'] = 'SyntheticNRDataset'
    dataroot_photos: str | Annotated[list[str], MinLen(1)] | None = None
    photo_groups: str | None = None
    split_seed: Whole = 0
    split_ratios: tuple[NotNegative, NotNegative, NotNegative] = (0.7, 0.1, 0.2)
    crop_size: int | list[int] = 144
    longest_side: Count | None = None
    source_scale: tuple[Scale, Scale] = (0.5, 1.0)
    flips: bool = True
    hold_out: str | list[str] = field(default_factory=list)
    only: str | list[str] | None = None
    composite_probability: Share = 0.25
    composite_counts: Annotated[list[Annotated[int, Ge(2)]], MinLen(1)] = field(default_factory=lambda: [2])
    pristine_probability: Share = 0.04
    level_range: tuple[Level, Level] = LEVEL_RANGE
    composite_level_range: tuple[Level, Level] | None = None
    siblings: Count = 1
    metrics: list[str] = field(default_factory=lambda: list(DEFAULT_METRICS))
    calibration: str | None = None
    label_noise: NotNegative = 0.0
    cached_photographs: Count | None = None
    samples_per_epoch: Count = 1000
    levels: Annotated[list[Level], MinLen(1)] | None = None
    num_photographs: Count | None = None
    seed: Whole = 0
    texts_per_image: Whole = 2
    mos_range: tuple[float, float] = MOS_RANGE
    lower_better: bool = False
    mos_normalize: bool = False


def check_options(options: SyntheticOptions) -> None:
    """Check what the annotations cannot tell.

    Raises:
        OptionError: a value that cannot be used.
    """
    if options.mos_range != MOS_RANGE or options.lower_better or options.mos_normalize:
        raise OptionError(f'mos_range: the labels are in {list(MOS_RANGE)}, higher better, not normalised; leave mos_range, '
                          'lower_better and mos_normalize at that.')
    for name in ('source_scale', 'level_range', 'composite_level_range'):
        low, high = getattr(options, name) or (0, 0)
        if low > high:
            raise OptionError(f'{name}: [{low}, {high}] must have the lower number first.')
    if options.siblings > 1 and options.levels is not None:
        raise OptionError(f'siblings: {options.siblings} has no effect beside levels, which give each distortion at each of '
                          'them. Remove one of the two.')
    shares = options.composite_probability, options.pristine_probability
    if sum(shares) > 1:
        raise OptionError(f'composite_probability, pristine_probability: {shares[0]} and {shares[1]} must be shares of the '
                          'pictures, 1 at most together.')
    types = types_of(options)
    if not types:
        raise OptionError('hold_out: leaves no distortion to draw.')
    check_codecs(types, 'only')


def types_of(options: SyntheticOptions) -> list[str]:
    """Return the names of the distortions that are drawn.

    Raises:
        OptionError: a name that is neither of a distortion nor of a group.
    """
    held_out = expand_names(options.hold_out, 'hold_out')
    return [name for name in expand_names(options.only or DEFAULT_TYPES, 'only') if name not in held_out]


def crop_of(options: SyntheticOptions) -> tuple[int, int]:
    """Return height and width of the crops.

    Raises:
        OptionError: not one or two numbers of at least 32 pixels.
    """
    crop = (options.crop_size,) * 2 if isinstance(options.crop_size, int) else tuple(options.crop_size)
    if len(crop) != 2 or min(crop) < LEAST_CROP:
        raise OptionError(f'crop_size: {options.crop_size} must be one or two numbers of at least {LEAST_CROP} pixels.')
    return crop
