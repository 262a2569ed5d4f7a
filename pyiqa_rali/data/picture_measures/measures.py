"""All measures of one picture, with their units."""

from dataclasses import dataclass

import cv2
import numpy as np

from pyiqa_rali.core.errors import DataError
from pyiqa_rali.data.picture_measures.blocking import measure_blocking
from pyiqa_rali.data.picture_measures.colour import measure_colour
from pyiqa_rali.data.picture_measures.contrast import measure_contrast
from pyiqa_rali.data.picture_measures.exposure import measure_exposure
from pyiqa_rali.data.picture_measures.focus import measure_focus
from pyiqa_rali.data.picture_measures.motion import measure_motion
from pyiqa_rali.data.picture_measures.noise import measure_noise
from pyiqa_rali.data.picture_measures.scaling import measure_scaling
from pyiqa_rali.data.picture_measures.spectrum import spectrum_of

LEAST_SIDE = 16  # pixels


@dataclass(frozen=True)
class Measure:
    """One number of a picture.

    Attributes:
        name: in tables.
        aspect: of quality: focus, noise, exposure, contrast, colour, compression or scaling.
        unit: of the number.
        meaning: what it is, in a few words; the function that measures it says how.
    """

    name: str
    aspect: str
    unit: str
    meaning: str


MEASURES: dict[str, Measure] = {each.name: each for each in (
    Measure('edge_spread', 'focus', 'pixels', 'standard deviation of the blur at the sharper third of the edges'),
    Measure('sharpest_spread', 'focus', 'pixels', 'the same, at the sharpest tenth'),
    Measure('directional_blur', 'focus', 'octaves', 'fine detail lost in one direction more than in another'),
    Measure('noise', 'noise', '8-bit levels', 'standard deviation of luma in flat parts, from pixel to pixel'),
    Measure('coarse_noise', 'noise', '8-bit levels', 'the same, of means over 2 x 2 pixels'),
    Measure('chroma_noise', 'noise', '8-bit levels', 'standard deviation of chroma in flat parts'),
    Measure('disorder', 'noise', 'share', 'how little fine gradients agree on a direction'),
    Measure('underexposure', 'exposure', 'stops', 'mean light below middle gray'),
    Measure('overexposure', 'exposure', 'stops', 'light of the brightest tenth above middle gray'),
    Measure('clipped_dark', 'exposure', 'per cent', 'pixels that are black'),
    Measure('clipped_bright', 'exposure', 'per cent', 'pixels of which a channel is at its end'),
    Measure('tone_deviation', 'contrast', '8-bit levels', 'standard deviation of luma'),
    Measure('tone_range', 'contrast', '8-bit levels', 'from the darkest fiftieth of the pixels to the brightest'),
    Measure('saturation', 'colour', 'CIELAB', 'mean chroma'),
    Measure('cast', 'colour', 'CIELAB', 'distance of the mean colour from gray less the spread of the colours'),
    Measure('blocking', 'compression', '8-bit levels', 'steps at an 8 x 8 grid above those beside it'),
    Measure('bandwidth', 'scaling', 'share', 'highest frequency with content, of what the pixels can hold'),
    Measure('fine_energy', 'scaling', 'decibels', 'power of fine detail above the rounding to 8 bits'),
)}


def measure_picture(pixels: np.ndarray) -> dict[str, float]:
    """Return every measure of a picture, by the names of `MEASURES`.

    Args:
        pixels: (H, W, 3) uint8 RGB, at least 16 x 16; measures in pixels are of the picture as it is, whatever its size.

    Returns:
        Numbers in the units of `MEASURES`; NaN where the picture has nothing to measure, such as edges.

    Raises:
        DataError: it is no such picture, or smaller.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise DataError(f'a picture must be (H, W, 3) uint8 RGB; this one is {pixels.shape} {pixels.dtype}.')
    if min(pixels.shape[:2]) < LEAST_SIDE:
        raise DataError(f'a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels is too small to measure; each side needs '
                        f'{LEAST_SIDE}.')
    pixels = np.ascontiguousarray(pixels)
    coded = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)
    luma, gray = np.ascontiguousarray(coded[..., 0]), coded[..., 0].astype(np.float32)
    channels, spectrum = cv2.split(pixels), spectrum_of(gray)
    brightest = cv2.max(cv2.max(*channels[:2]), channels[2])
    found = {**measure_focus(gray), **measure_motion(spectrum), **measure_noise(gray, coded[..., 1:].astype(np.float32)),
             **measure_exposure(luma, brightest), **measure_contrast(luma),
             **measure_colour(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)), **measure_blocking(gray), **measure_scaling(spectrum)}
    return {name: found[name] for name in MEASURES}
