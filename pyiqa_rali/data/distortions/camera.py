"""What goes wrong in a camera before there is a file: shake, focus, exposure, sensor, noise reduction, sharpening.

Light adds up in linear values, not in those of a file: a blurred lamp stays bright, and highlights are cut off by the sensor.
"""

import cv2
import numpy as np

from pyiqa_rali.data.distortions.kinds import DistortionType, Image

GAMMA = 2.2
PATH_POINTS = 200
BAYER = ((0, 0), (0, 1), (1, 0), (1, 1))  # where the red pixel of each 2 x 2 is


def camera_shake(image: Image, extent: float, rng: np.random.Generator) -> Image:
    """Blur along the path of an unsteady hand that spans `extent` pixels, in linear light."""
    kernel = shake_kernel(extent, rng)
    return _from_linear(cv2.filter2D(_to_linear(image), -1, kernel, borderType=cv2.BORDER_REFLECT))


def shake_kernel(extent: float, rng: np.random.Generator) -> np.ndarray:
    """Return the blur of a smooth random path whose points lie within a circle of `extent` pixels, odd side, sum 1."""
    # a hand trembles: direction and speed change little by little, around one main direction
    drift = rng.standard_normal(2)
    pushes = cv2.GaussianBlur(rng.standard_normal((PATH_POINTS, 2)), (1, 0), sigmaX=0.1, sigmaY=PATH_POINTS / 12)
    velocity = pushes / pushes.std() + 0.6 * drift / np.hypot(*drift)
    path = np.cumsum(velocity, axis=0)
    path -= (path.max(axis=0) + path.min(axis=0)) / 2
    path *= extent / 2 / np.hypot(*path.T).max()
    reach = int(np.ceil(extent / 2)) + 1
    x, y = path.T + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    for right in (0, 1):
        for down in (0, 1):
            column, row = np.floor(x).astype(int) + right, np.floor(y).astype(int) + down
            np.add.at(kernel, (row, column), (1 - np.abs(x - column)) * (1 - np.abs(y - row)))
    return kernel / kernel.sum()


def misfocus(image: Image, radius: float, rng: np.random.Generator) -> Image:
    """Out of focus by a disc of `radius` pixels in linear light, over the picture or all but a part of it."""
    blurredness = _focus_map(image.shape[:2], rng)[..., None]
    light = _to_linear(image)
    bright = light * (1 + 10 * np.maximum(light - 0.9, 0))  # highlights were brighter than a file can say: up to twice
    far, near = _disc_blurred(bright, radius), _disc_blurred(bright, radius / 2)
    # three distances stand for all: sharp, half and wholly out of focus
    mixed = np.where(blurredness < 0.5, light + (near - light) * (2 * blurredness), near + (far - near) * (2 * blurredness - 1))
    return _from_linear(mixed)


def _focus_map(size: tuple[int, int], rng: np.random.Generator) -> Image:
    """Return how far each pixel is out of focus, 0 to 1: everywhere, along a direction, or around a place in focus."""
    height, width = size
    where, angle = rng.random(), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    if where < 0.4:
        return np.ones(size, np.float32)
    if where < 0.7:
        return np.clip(0.7 + 1.2 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1).astype(np.float32)
    distance = np.hypot(x - 0.25 * np.cos(angle), y - 0.25 * np.sin(angle))
    return np.clip(distance * 4 - 0.4, 0, 1).astype(np.float32)


def _disc_blurred(light: Image, radius: float) -> Image:
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(light, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)


def blown_out(image: Image, stops: float, rng: np.random.Generator) -> Image:
    """Light times 2 ** `stops`, cut off where the sensor is full; then red and blue are amplified, as a white balance does."""
    gains = np.array([rng.uniform(1, 1.25), 1, rng.uniform(1, 1.25)], dtype=np.float32)
    return _from_linear(np.minimum(_to_linear(image) / gains * np.float32(2 ** stops), 1) * gains)


def underexposed(image: Image, stops: float, rng: np.random.Generator) -> Image:
    """Light divided by 2 ** `stops`, the noise of few photons, and a part of the brightness (or all) lifted again."""
    lifted = stops * np.clip(rng.uniform(-0.2, 1.2), 0, 1)
    photons = 1200 * 2 ** rng.uniform(-1, 1)  # of a full pixel
    light = _to_linear(image) * np.float32(2 ** -stops)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.sqrt(light / np.float32(photons) + np.float32(2e-6))
    noise = cv2.GaussianBlur(noise, (0, 0), 0.6) * np.float32(1.6)  # demosaicing smooths it
    return _from_linear(np.clip(light + noise, 0, 1) * np.float32(2 ** lifted))


def demosaic(image: Image, factor: float, rng: np.random.Generator) -> Image:
    """One colour for each pixel, as a sensor sees it, the others interpolated, by pixels of `factor` times the size.

    The lens is sharper than the sensor, and the sensor slightly noisy: zippers along edges, false colours in fine patterns.
    """
    row, column = BAYER[int(rng.integers(4))]
    edge_aware, sigma = rng.random() < 0.4, rng.uniform(1, 4)
    height, width = image.shape[:2]
    sharp = image + 0.5 * (image - cv2.GaussianBlur(image, (0, 0), 1, borderType=cv2.BORDER_REFLECT))
    # linear interpolation leaves pixels out instead of averaging them: the detail that makes false colours
    small = cv2.resize(sharp, (max(6, round(width / factor)), max(6, round(height / factor))), interpolation=cv2.INTER_LINEAR)
    small = np.clip(small + rng.standard_normal(small.shape, dtype=np.float32) * np.float32(sigma), 0, 255).astype(np.uint8)
    mosaic = small[..., 1].copy()
    mosaic[row::2, column::2] = small[row::2, column::2, 0]
    mosaic[1 - row::2, 1 - column::2] = small[1 - row::2, 1 - column::2, 2]
    pattern = {(0, 0): 'RGGB', (0, 1): 'GRBG', (1, 0): 'GBRG', (1, 1): 'BGGR'}[row, column]
    full = cv2.demosaicing(mosaic, getattr(cv2, f'COLOR_Bayer{pattern}2RGB{"_EA" if edge_aware else ""}'))
    return cv2.resize(full.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def denoise_blotchy(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Noise of `sigma` (of 255), fine and coarse, and a noise reduction that wipes off the fine one with the texture.

    The coarse noise stays as blotches of brightness and colour.
    """
    means = rng.random()
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    coarse = cv2.GaussianBlur(noise, (0, 0), 2.5) * np.float32(sigma * 4)
    light = ycc[..., 0] + noise[..., 0] * np.float32(sigma) + 0.5 * coarse[..., 0]
    ycc[..., 0] = _denoised(np.clip(light, 0, 255).astype(np.uint8), float(sigma), means)
    ycc[..., 1:] = cv2.GaussianBlur(ycc[..., 1:], (0, 0), 2) + 0.4 * coarse[..., 1:]
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def _denoised(light: np.ndarray, sigma: float, means: float) -> np.ndarray:
    """Return a gray picture after a strong noise reduction: by non-local means, a bilateral filter or medians."""
    if means < 0.5:
        return cv2.fastNlMeansDenoising(light, None, 1.2 * sigma, 3, 11)
    if means < 0.8:
        return cv2.bilateralFilter(light, 9, 3.5 * sigma, 3)
    fine, coarse = cv2.medianBlur(light, 3), cv2.medianBlur(cv2.medianBlur(light, 5), 5)
    return cv2.addWeighted(fine, 1 - min(1, sigma / 20), coarse, min(1, sigma / 20), 0)


def wide_halos(image: Image, amount: float, rng: np.random.Generator) -> Image:
    """Unsharp masking with a wide radius, of brightness alone: glowing outlines, and tones that are pulled apart."""
    sigma = rng.uniform(4, 10)
    light = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    detail = light - cv2.GaussianBlur(light, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return image + np.float32(amount) * detail[..., None]


def _to_linear(image: Image) -> Image:
    return np.power(np.clip(image, 0, 255) / np.float32(255), np.float32(GAMMA))


def _from_linear(light: Image) -> Image:
    return np.power(np.clip(light, 0, 1), np.float32(1 / GAMMA)) * 255


TYPES = (
    DistortionType('camera_shake', 'blur', 'camera shake', 'overall sharpness', (2.2, 3.8, 6.2, 10, 16), camera_shake),
    DistortionType('misfocus', 'blur', 'misplaced focus', 'the sharpness of the subject', (1.2, 2, 3.2, 5, 8), misfocus),
    DistortionType('blown_out', 'brightness', 'blown-out highlights', 'detail in bright areas', (0.4, 0.8, 1.3, 2, 3),
                   blown_out),
    DistortionType('underexposed', 'brightness', 'underexposure', 'clean tones and detail in shadows',
                   (0.8, 1.5, 2.4, 3.5, 5), underexposed),
    DistortionType('demosaic', 'color', 'demosaicing artefacts', 'fine patterns and edges', (1, 1.3, 1.7, 2.4, 3.4), demosaic),
    DistortionType('denoise_blotchy', 'noise', 'blotches left by noise reduction', 'smooth areas and skin',
                   (5, 9, 15, 24, 38), denoise_blotchy, stage='processing'),
    DistortionType('wide_halos', 'sharpness', 'wide halos', 'outlines against smooth backgrounds', (0.4, 0.7, 1.2, 2, 3.3),
                   wide_halos, stage='processing'),
)
