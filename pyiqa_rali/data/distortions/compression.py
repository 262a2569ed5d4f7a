"""Compression and coarse values."""

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image as PillowImage

from pyiqa_rali.data.distortions.kinds import DistortionType, Image


def through_pillow(image: Image, **options: Any) -> Image:
    """Return a picture as a file of Pillow's gives it back, saved with these options."""
    stream = io.BytesIO()
    PillowImage.fromarray(np.clip(image + 0.5, 0, 255).astype(np.uint8)).save(stream, **options)
    return np.asarray(PillowImage.open(stream).convert('RGB')).astype(np.float32)


def jpeg(image: Image, quality: float, rng: np.random.Generator) -> Image:
    """JPEG of a `quality`."""
    return through_pillow(image, format='JPEG', quality=max(1, round(quality)))


def jpeg2000(image: Image, ratio: float, rng: np.random.Generator) -> Image:
    """JPEG 2000 at a compression `ratio`."""
    return through_pillow(image, format='JPEG2000', quality_mode='rates', quality_layers=[ratio], irreversible=True)


def webp(image: Image, scale: float, rng: np.random.Generator) -> Image:
    """WebP at 1 / `scale` of the size, of lower quality the smaller: smeared blocks as of old video."""
    height, width = image.shape[:2]
    size = max(2, round(width / scale)), max(2, round(height / scale))
    small = through_pillow(cv2.resize(image, size, interpolation=cv2.INTER_AREA), format='WEBP',
                            quality=max(0, round(48 - 16 * scale)), method=0)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def quantize(image: Image, steps: float, rng: np.random.Generator) -> Image:
    """Each channel in `steps` equal steps: banding."""
    width = 255 / max(1, steps - 1)
    return np.round(image / width) * width


def color_quantize(image: Image, colors: float, rng: np.random.Generator) -> Image:
    """A palette of `colors` colours."""
    picture = PillowImage.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(picture.quantize(max(2, round(colors)), method=PillowImage.Quantize.MEDIANCUT)
                      .convert('RGB')).astype(np.float32)


TYPES = (
    DistortionType('jpeg', 'compression', 'JPEG blocking', 'smooth areas and edges', (48, 30, 18, 10, 5), jpeg),
    DistortionType('jpeg2000', 'compression', 'JPEG 2000 ringing', 'edges and texture', (18, 35, 65, 120, 210),
                   jpeg2000, codec='jpg_2000'),
    DistortionType('webp', 'compression', 'video compression smearing', 'texture and motion detail', (1, 1.4, 2, 2.9,
                   4.2), webp, codec='webp'),
    DistortionType('quantize', 'compression', 'banding', 'gradual tones', (24, 15, 10, 7, 5), quantize),
    DistortionType('color_quantize', 'compression', 'a reduced palette', 'colour transitions', (100, 48, 24, 12, 6),
                   color_quantize),
)
