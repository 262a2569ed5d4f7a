"""Pictures that were small once: enlarged by interpolation, as super-resolution does it, or after strong compression.

The parameter is how many times smaller the picture was. Which kernels are used, and what else happens to the small picture, is
drawn before anything that depends on its size, so that the levels of one draw differ in the size alone.
"""

import cv2
import numpy as np
from PIL import Image as PillowImage

from pyiqa_rali.data.distortions.compression import through_pillow
from pyiqa_rali.data.distortions.kinds import DistortionType, Image

Kernel = PillowImage.Resampling
SMOOTH_KERNELS = (Kernel.BILINEAR, Kernel.BICUBIC, Kernel.LANCZOS)
SHRINKING_KERNELS = (Kernel.BOX, Kernel.BICUBIC, Kernel.LANCZOS)  # Pillow smooths before it leaves out pixels
LEAST_SIDE = 4


def upscale_soft(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Enlarged by a smooth kernel; half of the small pictures are slightly blurred, noisy or compressed."""
    shrinking, enlarging = _pick(SHRINKING_KERNELS, rng), _pick(SMOOTH_KERNELS, rng)
    small = _worn(resized(image, _size(image, factor), shrinking), rng)
    return resized(small, image.shape[:2], enlarging)


def upscale_jagged(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Enlarged partly by repeating pixels: edges become stairs. Some were made small without smoothing."""
    shrinking = _pick((*SHRINKING_KERNELS, Kernel.NEAREST), rng)
    steps = np.float32(rng.uniform(0.5, 0.9))
    small = _worn(resized(image, _size(image, factor), shrinking), rng)
    blocks, smooth = (resized(small, image.shape[:2], kernel) for kernel in (Kernel.NEAREST, Kernel.BICUBIC))
    return steps * blocks + (1 - steps) * smooth


def upscale_sharp(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Enlarged smoothly, then sharpened at the width that the pixels now have: outlines, overshoot, ringing."""
    shrinking, enlarging = _pick(SHRINKING_KERNELS, rng), _pick((Kernel.BICUBIC, Kernel.LANCZOS), rng)
    amount = np.float32(rng.uniform(1.5, 3.5))
    small = _worn(resized(image, _size(image, factor), shrinking), rng)
    return sharpened(resized(small, image.shape[:2], enlarging), 0.5 * factor, amount)


def upscale_waxy(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """Enlarged, then edges made steep and texture wiped away, as networks for super-resolution leave it.

    Edges become steep by a shock filter: each pixel takes the darkest or the brightest value around it, by the side of the edge
    on which it is.
    """
    shrinking = _pick(SHRINKING_KERNELS, rng)
    tolerance = float(rng.uniform(12, 30))
    small = _worn(resized(image, _size(image, factor), shrinking), rng)
    large = resized(small, image.shape[:2], Kernel.BICUBIC)
    for _ in range(max(1, round(factor / 2))):
        light = cv2.GaussianBlur(large.mean(axis=2), (0, 0), 0.3 * factor + 0.5, borderType=cv2.BORDER_REFLECT)
        bright_side = cv2.Laplacian(light, cv2.CV_32F, borderType=cv2.BORDER_REFLECT)[..., None] < 0
        square = np.ones((3, 3), np.uint8)
        large = 0.3 * large + 0.7 * np.where(bright_side, cv2.dilate(large, square), cv2.erode(large, square))
    return cv2.bilateralFilter(large, 7, tolerance, 3)


def avif_lowres(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """AVIF at a low bitrate and size, enlarged: the smeared texture of video that was encoded by a modern codec.

    AVIF's codec, AV1, predicts and filters much as HEVC does, of which Pillow has no encoder.
    """
    enlarging, sharpening, quality = _pick(SMOOTH_KERNELS, rng), rng.random(), rng.uniform(36, 52)
    small = through_pillow(resized(image, _size(image, factor), Kernel.BOX), format='AVIF', speed=9, max_threads=1,
                           quality=max(6, round(quality - 4 * factor)))
    large = resized(small, image.shape[:2], enlarging)
    return sharpened(large, 0.4 * factor, np.float32(1)) if sharpening < 0.3 else large


def webp_lowres(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """WebP at a low size, enlarged and mostly sharpened, so that its blocks and rings are enlarged too."""
    enlarging, amount = _pick(SMOOTH_KERNELS, rng), np.float32(rng.uniform(0, 2))
    quality = rng.uniform(20, 50)
    small = through_pillow(resized(image, _size(image, factor), Kernel.BICUBIC), format='WEBP', method=0,
                           quality=max(6, round(quality - 3 * factor)))
    return sharpened(resized(small, image.shape[:2], enlarging), 0.4 * factor, amount)


def resized(image: Image, size: tuple[int, int], kernel: PillowImage.Resampling) -> Image:
    """Return a picture at a size (height, width), rounded to whole values as files are."""
    values = PillowImage.fromarray(np.clip(image + 0.5, 0, 255).astype(np.uint8))
    return np.asarray(values.resize((size[1], size[0]), kernel)).astype(np.float32)


def sharpened(image: Image, sigma: float, amount: np.float32) -> Image:
    """Unsharp masking: `amount` times the difference to the picture blurred by `sigma` pixels is added."""
    return image + amount * (image - cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))


def _worn(small: Image, rng: np.random.Generator) -> Image:
    """Return a small picture as it is (half of them), or slightly blurred, noisy or compressed."""
    wear, strength = rng.random(), rng.random()
    if wear < 0.17:
        return cv2.GaussianBlur(small, (0, 0), 0.4 + 0.4 * strength, borderType=cv2.BORDER_REFLECT)
    if wear < 0.33:
        return small + rng.standard_normal(small.shape, dtype=np.float32) * np.float32(1.5 + 4 * strength)
    return through_pillow(small, format='JPEG', quality=round(90 - 40 * strength)) if wear < 0.5 else small


def _size(image: Image, factor: float) -> tuple[int, int]:
    height, width = (max(LEAST_SIDE, round(side / factor)) for side in image.shape[:2])
    return height, width


def _pick(kernels: tuple[PillowImage.Resampling, ...], rng: np.random.Generator) -> PillowImage.Resampling:
    return kernels[int(rng.integers(len(kernels)))]


TYPES = (
    DistortionType('upscale_soft', 'upscaling', 'softness from enlargement', 'crispness and detail',
                   (1.4, 1.9, 2.8, 4.4, 7), upscale_soft),
    DistortionType('upscale_jagged', 'upscaling', 'stair-stepped upscaling', 'contours and diagonal lines',
                   (1.4, 1.9, 2.8, 4.2, 6.5), upscale_jagged),
    DistortionType('upscale_sharp', 'upscaling', 'oversharpened upscaling', 'edges and natural texture',
                   (1.3, 1.8, 2.6, 4, 6.5), upscale_sharp),
    DistortionType('upscale_waxy', 'upscaling', 'waxy upscaling', 'skin, foliage and other texture',
                   (1.3, 1.8, 2.6, 4, 6.5), upscale_waxy),
    DistortionType('avif_lowres', 'compression', 'low-bitrate smearing', 'texture and small details',
                   (1, 1.3, 1.7, 2.4, 3.3), avif_lowres, codec='avif'),
    DistortionType('webp_lowres', 'compression', 'enlarged compression artefacts', 'edges and flat areas',
                   (1.2, 1.6, 2.2, 3.1, 4.5), webp_lowres, codec='webp'),
)
