"""Blurs and resampling. Sizes are in pixels of the picture as given."""

import cv2
import numpy as np

from pyiqa_rali.data.distortions.kinds import DistortionType, Image


def gaussian_blur(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Gaussian of standard deviation `sigma` pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def lens_blur(image: Image, radius: float, rng: np.random.Generator) -> Image:
    """Disc of `radius` pixels with a soft edge, as out of focus."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)


def motion_blur(image: Image, length: float, rng: np.random.Generator) -> Image:
    """Line of `length` pixels in a random direction."""
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    line = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return cv2.filter2D(image, -1, (line / line.sum()).astype(np.float32), borderType=cv2.BORDER_REFLECT)


def zoom_blur(image: Image, extent: float, rng: np.random.Generator) -> Image:
    """Average of the picture magnified in steps up to 1 + `extent`, as by zooming during the exposure."""
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    factors = np.linspace(1, 1 + extent, 8)
    for factor in factors:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, factor)
        total += cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return total / len(factors)


def resample(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Made `factor` times smaller and larger again, bicubic."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(2, round(width / factor)), max(2, round(height / factor))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


TYPES = (
    DistortionType('gaussian_blur', 'blur', 'Gaussian blur', 'edges and fine detail', (0.7, 1.1, 1.7, 2.7, 4.5), gaussian_blur),
    DistortionType('lens_blur', 'blur', 'defocus blur', 'sharpness and texture', (1.1, 1.8, 2.8, 4.2, 6.5), lens_blur),
    DistortionType('motion_blur', 'blur', 'motion blur', 'edges across the movement', (3, 5, 8, 13, 21), motion_blur),
    DistortionType('zoom_blur', 'blur', 'zoom blur', 'detail away from the centre', (0.01, 0.02, 0.04, 0.075, 0.13), zoom_blur),
    DistortionType('resample', 'blur', 'low resolution upscaling', 'fine structures', (1.5, 2, 2.8, 4.2, 6.5), resample),
)
