"""Options of the synthetic data set, and what may stand in them."""

from dataclasses import dataclass, field

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.data.distortions import DISTORTIONS, check_names
from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.photographs import PHASES
from pyiqa_rali.data.synthetic.pseudo_mos import DEFAULT_METRICS, MOS_RANGE

LEAST_CROP = 32


@dataclass
class SyntheticOptions:
    """Options of a `SyntheticNRDataset`.

    Attributes:
        name: name of the data set.
        type: SyntheticNRDataset.
        phase: which photographs: train, val or test.
        dataroot_photos: folder of photographs; None takes those that the dependencies install.
        photo_groups: table of crops and photographs (see `list_photographs`).
        split_seed: seeds the split by photograph.
        split_ratios: shares of train, val and test.
        crop_size: height and width in pixels, or one number for both.
        source_scale: photographs are made smaller by a factor drawn from this range before a crop is cut.
        flips: mirror every other crop.
        hold_out: distortions that are never drawn.
        only: the distortions that are drawn; None means all but `hold_out`.
        composite_probability: share of pictures with two distortions.
        pristine_probability: share of pictures without any.
        level_range: levels are drawn evenly from it.
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

    name: str
    type: str = 'SyntheticNRDataset'
    phase: str = 'train'
    dataroot_photos: str | None = None
    photo_groups: str | None = None
    split_seed: int = 0
    split_ratios: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    crop_size: int | list[int] = 144
    source_scale: list[float] = field(default_factory=lambda: [0.5, 1.0])
    flips: bool = True
    hold_out: list[str] = field(default_factory=list)
    only: list[str] | None = None
    composite_probability: float = 0.25
    pristine_probability: float = 0.04
    level_range: list[float] = field(default_factory=lambda: list(LEVEL_RANGE))
    metrics: list[str] = field(default_factory=lambda: list(DEFAULT_METRICS))
    calibration: str | None = None
    label_noise: float = 0.0
    cached_photographs: int | None = None
    samples_per_epoch: int = 1000
    levels: list[float] | None = None
    num_photographs: int | None = None
    seed: int = 0
    texts_per_image: int = 2
    mos_range: list[float] | tuple = MOS_RANGE
    lower_better: bool = False
    mos_normalize: bool = False


def check_options(options: SyntheticOptions) -> None:
    """Check what types alone cannot tell.

    Raises:
        OptionError: a value that cannot be used.
    """
    if options.phase not in PHASES:
        raise OptionError(f'phase: "{options.phase}" is not train, val or test.')
    if tuple(options.mos_range) != MOS_RANGE or options.lower_better or options.mos_normalize:
        raise OptionError(f'mos_range: the labels are in {list(MOS_RANGE)}, higher better, not normalised; leave mos_range, '
                          'lower_better and mos_normalize at that.')
    for name, bounds, limits in (('source_scale', options.source_scale, (0.05, 1.0)),
                                 ('level_range', options.level_range, LEVEL_RANGE)):
        if len(bounds) != 2 or not limits[0] <= bounds[0] <= bounds[1] <= limits[1]:
            raise OptionError(f'{name}: {bounds} must be two rising numbers in [{limits[0]}, {limits[1]}].')
    shares = options.composite_probability, options.pristine_probability
    if min(shares) < 0 or sum(shares) > 1:
        raise OptionError(f'composite_probability, pristine_probability: {shares[0]} and {shares[1]} must be shares of the '
                          'pictures, 1 at most together.')
    for name, value, least in (('samples_per_epoch', options.samples_per_epoch, 1), ('seed', options.seed, 0),
                               ('texts_per_image', options.texts_per_image, 0), ('label_noise', options.label_noise, 0),
                               ('cached_photographs', options.cached_photographs, 1),
                               ('num_photographs', options.num_photographs, 1)):
        if value is not None and value < least:
            raise OptionError(f'{name}: {value} must be {least} at least.')
    for level in options.levels or []:
        if not LEVEL_RANGE[0] <= level <= LEVEL_RANGE[1]:
            raise OptionError(f'levels: {level} is not in [{LEVEL_RANGE[0]}, {LEVEL_RANGE[1]}].')
    _check_types(options)


def _check_types(options: SyntheticOptions) -> None:
    check_names(options.hold_out, 'hold_out')
    check_names(options.only or [], 'only')
    if not types_of(options):
        raise OptionError('hold_out: leaves no distortion to draw.')
    if options.levels is not None and not options.levels:
        raise OptionError('levels: the list is empty; give levels, or ~ for random draws.')


def types_of(options: SyntheticOptions) -> list[str]:
    """Return the names of the distortions that are drawn."""
    return [name for name in options.only or DISTORTIONS if name not in options.hold_out]


def crop_of(options: SyntheticOptions) -> tuple[int, int]:
    """Return height and width of the crops.

    Raises:
        OptionError: not one or two numbers of 32 pixels at least.
    """
    crop = (options.crop_size,) * 2 if isinstance(options.crop_size, int) else tuple(options.crop_size)
    if len(crop) != 2 or min(crop) < LEAST_CROP:
        raise OptionError(f'crop_size: {options.crop_size} must be one or two numbers of {LEAST_CROP} pixels at least.')
    return crop
