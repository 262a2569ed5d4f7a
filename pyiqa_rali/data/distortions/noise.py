"""Noise, and what denoising leaves behind."""

import cv2
import numpy as np

from pyiqa_rali.data.distortions.kinds import DistortionType, Image


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    return rng.standard_normal(shape, dtype=np.float32)


def white_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Gaussian noise in each channel, standard deviation `sigma` (of 255)."""
    return image + _normal(rng, image.shape) * np.float32(sigma)


def luma_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """The same Gaussian noise in all channels."""
    return image + _normal(rng, image.shape[:2])[..., None] * np.float32(sigma)


def chroma_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Gaussian noise in the colour channels of YCrCb, slightly coarse."""
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    noise = cv2.GaussianBlur(_normal(rng, (*image.shape[:2], 2)), (0, 0), 0.7)
    ycc[..., 1:] += noise * np.float32(sigma * 1.6)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def impulse_noise(image: Image, share: float, rng: np.random.Generator) -> Image:
    """Salt and pepper on a `share` of the pixels."""
    hit = rng.random(image.shape[:2], dtype=np.float32)
    noisy = image.copy()
    noisy[hit < share / 2] = 0
    noisy[hit > 1 - share / 2] = 255
    return noisy


def multiplicative_noise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Speckle: each value multiplied by 1 + `sigma` times a Gaussian."""
    return image * (1 + np.float32(sigma) * _normal(rng, image.shape))


def grain(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Coarse noise with a grain of about two pixels, standard deviation `sigma` (of 255)."""
    noise = cv2.GaussianBlur(_normal(rng, image.shape[:2]), (0, 0), 1.2)
    return image + noise[..., None] * np.float32(sigma * 4.2)


def denoise(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """White noise of `sigma`, then an edge-preserving smoothing that leaves blotches."""
    noisy = np.clip(white_noise(image, sigma, rng), 0, 255)
    smooth = cv2.bilateralFilter(noisy, 5, float(sigma) * 2.2, 2)
    return cv2.medianBlur(np.clip(smooth, 0, 255).astype(np.uint8), 3).astype(np.float32)


TYPES = (
    DistortionType('white_noise', 'noise', 'colour noise', 'smooth areas', (6, 11, 18, 28, 45), white_noise),
    DistortionType('luma_noise', 'noise', 'sensor noise', 'smooth areas and shadows', (6, 11, 18, 28, 45), luma_noise),
    DistortionType('chroma_noise', 'noise', 'blotchy colour noise', 'colour purity', (9, 16, 26, 40, 62), chroma_noise),
    DistortionType('impulse_noise', 'noise', 'salt and pepper noise', 'every area', (0.003, 0.01, 0.025, 0.06, 0.14),
                   impulse_noise),
    DistortionType('multiplicative_noise', 'noise', 'speckle noise', 'bright areas', (0.04, 0.08, 0.14, 0.24, 0.4),
                   multiplicative_noise),
    DistortionType('grain', 'noise', 'film grain', 'fine texture', (3.5, 6.5, 10.5, 16, 25), grain),
    DistortionType('denoise', 'noise', 'smearing by noise reduction', 'fine texture', (9, 16, 26, 40, 60), denoise),
)
