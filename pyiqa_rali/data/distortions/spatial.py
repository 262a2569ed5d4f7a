"""Local and geometric damage. Counts follow the area, sizes are in pixels."""

import cv2
import numpy as np

from pyiqa_rali.data.distortions.kinds import DistortionType, Image

REFERENCE_AREA = 512 * 384


def _count(image: Image, per_picture: float, rng: np.random.Generator) -> int:
    """Return how many patches a picture of this area gets, so that crops have the density of whole pictures."""
    expected = per_picture * image.shape[0] * image.shape[1] / REFERENCE_AREA
    return int(expected) + int(rng.random() < expected % 1)


def jitter(image: Image, distance: float, rng: np.random.Generator) -> Image:
    """Each pixel taken from a random neighbour, standard deviation `distance` pixels."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x += rng.standard_normal(x.shape, dtype=np.float32) * np.float32(distance)
    y += rng.standard_normal(y.shape, dtype=np.float32) * np.float32(distance)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def displaced_patches(image: Image, patches: float, rng: np.random.Generator) -> Image:
    """Small squares replaced by ones from close by; `patches` in a picture of 512 x 384."""
    height, width = image.shape[:2]
    side = min(16, height // 3, width // 3)
    damaged = image.copy()
    for _ in range(_count(image, patches, rng)):
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        source_top = int(np.clip(top + rng.integers(-side, side + 1), 0, height - side))
        source_left = int(np.clip(left + rng.integers(-side, side + 1), 0, width - side))
        damaged[top:top + side, left:left + side] = image[source_top:source_top + side, source_left:source_left + side]
    return damaged


def color_blocks(image: Image, blocks: float, rng: np.random.Generator) -> Image:
    """Squares of one random colour; `blocks` in a picture of 512 x 384."""
    height, width = image.shape[:2]
    side = min(28, height // 3, width // 3)
    damaged = image.copy()
    for _ in range(max(1, _count(image, blocks, rng))):
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        damaged[top:top + side, left:left + side] = rng.integers(0, 256, 3)
    return damaged


def pixelate(image: Image, side: float, rng: np.random.Generator) -> Image:
    """Blocks of `side` pixels of one colour each."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(2, round(width / side)), max(2, round(height / side))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def aliasing(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Every `factor`-th pixel kept without smoothing, then enlarged smoothly: jagged edges."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(2, round(width / factor)), max(2, round(height / factor))),
                       interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def combing(image: Image, shift: float, rng: np.random.Generator) -> Image:
    """Every other pair of lines moved sideways by `shift` pixels, as by interlacing."""
    matrix = np.array([[1, 0, shift], [0, 1, 0]], dtype=np.float32)
    moved = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    lines = (np.arange(image.shape[0]) // 2) % 2 == 1
    return np.where(lines[:, None, None], moved, image)


def oversharpen(image: Image, amount: float, rng: np.random.Generator) -> Image:
    """Unsharp masking with `amount`: halos and harsh texture."""
    return image + np.float32(amount) * (image - cv2.GaussianBlur(image, (0, 0), 1.6, borderType=cv2.BORDER_REFLECT))


def ringing(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Echoes of edges: differences of Gaussians added with alternating sign."""
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for sigma in (1.5, 3, 6)]
    return blurred[0] + np.float32(strength) * ((image - blurred[0]) - 1.5 * (blurred[0] - blurred[1])
                                                + 1.2 * (blurred[1] - blurred[2]))


TYPES = (
    DistortionType('jitter', 'spatial', 'pixel jitter', 'contours', (0.35, 0.6, 1, 1.7, 2.9), jitter),
    DistortionType('displaced_patches', 'spatial', 'displaced patches', 'local structure', (25, 50, 100, 190, 350),
                   displaced_patches),
    DistortionType('color_blocks', 'spatial', 'blocks of solid colour', 'parts of the content', (3, 6, 12, 22, 40),
                   color_blocks),
    DistortionType('pixelate', 'spatial', 'pixelation', 'fine detail', (1.6, 2.3, 3.3, 5, 8), pixelate),
    DistortionType('aliasing', 'spatial', 'jagged edges', 'diagonal lines and texture', (1.3, 1.8, 2.6, 3.9, 6),
                   aliasing),
    DistortionType('combing', 'spatial', 'interlacing lines', 'vertical edges', (1, 2, 3.5, 6, 10), combing),
    DistortionType('oversharpen', 'sharpness', 'oversharpening', 'edges, which get halos', (0.8, 1.6, 3, 5.5, 10),
                   oversharpen),
    DistortionType('ringing', 'sharpness', 'ringing', 'the surroundings of edges', (0.7, 1.2, 2, 3.2, 5), ringing),
)
