"""The faults of photographs that a diagnosis reads: their aspect of quality, and the types of distortion that have them."""

from collections.abc import Mapping

import numpy as np

from pyiqa_rali.data.distortions.kinds import LEVEL_RANGE
from pyiqa_rali.data.picture_measures.degrees import FAULTS
from pyiqa_rali.data.reasoning_texts import Distortions

# beside the type of `degrees.FAULTS`, of which texts on measured photographs speak
FURTHER_TYPES: dict[str, tuple[str, ...]] = {
    'out of focus': ('misfocus', 'gaussian_blur', 'zoom_blur'),
    'motion blur': ('camera_shake',),
    'noise': ('white_noise', 'chroma_noise', 'impulse_noise', 'multiplicative_noise', 'grain'),
    'underexposure': ('underexposed',),
    'overexposure': ('blown_out', 'brighten'),
    'low contrast': ('haze',),
    'blocking': ('jpeg2000', 'webp', 'avif_lowres', 'webp_lowres'),
    'upscaling': ('upscale_soft', 'upscale_jagged', 'upscale_sharp', 'upscale_waxy', 'pixelate'),
}
TYPES_OF_FAULTS: dict[str, tuple[str, ...]] = {name: (fault.distortion, *FURTHER_TYPES.get(name, ()))
                                               for name, fault in FAULTS.items()}
ASPECT_OF_FAULTS: dict[str, str] = {name: fault.aspect for name, fault in FAULTS.items()}


def clearness_of(distortions: Distortions) -> dict[str, float] | None:
    """Return how clear each fault of a picture with known distortions is, in [0, 1]: its strongest type's place in the levels.

    Args:
        distortions: (type, level) pairs; types that are no fault of photographs count for none.

    Returns:
        By fault; None when nothing is known.

    Example:
        >>> {name: value for name, value in clearness_of([('jpeg', 5.5), ('lens_blur', 3.0)]).items() if value}
        {'out of focus': 0.5, 'blocking': 1.0}
    """
    if distortions is None:
        return None
    low, high = LEVEL_RANGE
    found = {type_: min(max((level - low) / (high - low), 0.0), 1.0) for type_, level in distortions}
    return {name: max([found[each] for each in types if each in found], default=0.0) for name, types in TYPES_OF_FAULTS.items()}


def clearness_of_ranks(ranks: Mapping[str, float], bounds: tuple[float, float]) -> dict[str, float]:
    """Return how clear each measured fault is, in [0, 1]; NaN stays NaN.

    Args:
        ranks: of `degrees.ranks`: the share of photographs that have less of the fault.
        bounds: ranks that mean 0 and 1, and everything beyond them.
    """
    return {name: float(np.clip((rank - bounds[0]) / (bounds[1] - bounds[0]), 0, 1)) for name, rank in ranks.items()}
