"""An encoder's evaluation transform on tensors: resize, crop and normalise, differentiable and for any picture size.

The resizing follows Pillow's: one axis after the other (width first), antialiased, with 8-bit rounding after each pass.
On 8-bit pictures the result is within 1/255 of the transform that the encoder was evaluated with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.model.pillow import resize_with_pillow, row_blocks

MIN_SIZE = 16
RESIZE_MODES = ('shortest', 'longest', 'squash', 'native')
INTERPOLATIONS = ('bicubic', 'bilinear')
CROP_ROUNDINGS = ('nearest', 'floor')
FLOAT64 = {'cpu': True, 'cuda': True, 'mps': False}  # kinds of devices known to have double precision; others are tried
WHITE = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}  # of integer types whose largest value is white


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture before the encoder sees it.

    Attributes:
        image_size: side of the square that the encoder takes, in pixels; None takes pictures at their own size
            (`resize_mode` 'native' only).
        resize_size: the length in pixels that `resize_mode` brings an edge to; None means `image_size`. With 'native' it
            is the longest edge allowed: larger pictures are scaled down, smaller ones stay as they are.
        resize_mode: 'shortest' (that edge to `resize_size`, then a centre crop), 'longest' (that edge, then black
            padding), 'squash' (both edges, aspect ratio lost), or 'native'.
        interpolation: 'bicubic' or 'bilinear', antialiased.
        crop_rounding: where the centre crop starts when the margin is odd: 'nearest' (torchvision, open_clip, timm) or
            'floor' (transformers).
        mean: channel means, RGB, in [0, 1].
        std: channel standard deviations, RGB.
    """

    image_size: int | None
    resize_size: int | None = None
    resize_mode: str = 'shortest'
    interpolation: str = 'bicubic'
    crop_rounding: str = 'nearest'
    mean: tuple | list = (0.48145466, 0.4578275, 0.40821073)
    std: tuple | list = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self):
        _check_choice('resize_mode', self.resize_mode, RESIZE_MODES)
        _check_choice('interpolation', self.interpolation, INTERPOLATIONS)
        _check_choice('crop_rounding', self.crop_rounding, CROP_ROUNDINGS)
        if (self.image_size is None) != (self.resize_mode == 'native'):
            raise OptionError(f'image_size: {self.image_size} cannot be combined with resize_mode: {self.resize_mode}. '
                              'Give image_size a number of pixels, or leave it out and set resize_mode: native.')
        object.__setattr__(self, 'mean', tuple(self.mean))
        object.__setattr__(self, 'std', tuple(self.std))


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f'{option}: "{value}" is not one of {", ".join(allowed)}.{did_you_mean(value, allowed)}')


class Preprocess(nn.Module):
    """Turn (N, 3 or 1, H, W) pictures of any type that `as_unit_float` takes into float32 encoder input (N, 3, h, w).

    Attributes:
        exact: let Pillow itself resize, on 8-bit pictures and without gradients.

    Raises:
        OptionError: the tensor has another shape or type, or an edge is shorter than 16 pixels.
    """

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor  # (1, 3, 1, 1)

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.preprocessing = preprocessing
        self.exact = False
        for name in ('mean', 'std'):  # on the CPU even when a model is built without memory for its weights
            values = torch.tensor(getattr(preprocessing, name), device='cpu').view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise one batch."""
        images = as_rgb_float(images)
        images = fit_to_encoder(images, self.preprocessing, resize_with_pillow if self.exact else resize)
        mean, std = (values[0] if len(set(values)) == 1 else buffer.float()  # one number is ten times faster than three
                     for values, buffer in ((self.preprocessing.mean, self.mean), (self.preprocessing.std, self.std)))
        return (images - mean).div_(std)  # in place: allocating memory for large pictures is slow


def as_rgb_float(images: Tensor) -> Tensor:
    """Return (N, 3, H, W) float32 with a shorter edge of at least 16 pixels: gray is repeated, integers are scaled."""
    if images.dim() == 4 and min(images.shape[-2:]) < MIN_SIZE:
        raise OptionError(f'images are {images.shape[-1]} x {images.shape[-2]} pixels; the shorter edge must have at '
                          f'least {MIN_SIZE}. Leave such images out, or enlarge them first.')
    return of_any_size_as_rgb_float(images)


def of_any_size_as_rgb_float(images: Tensor) -> Tensor:
    """Return (N, 3, H, W) float32: gray is repeated, integers are scaled (see `as_unit_float`)."""
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise OptionError(f'images have shape {tuple(images.shape)}; they must be (N, 3, H, W) or (N, 1, H, W).')
    return as_unit_float(images).expand(-1, 3, -1, -1)


def as_unit_float(images: Tensor) -> Tensor:
    """Return pictures in float32: float types are cast, uint8 and uint16 are divided by the largest value of their type.

    Raises:
        OptionError: another integer type, which does not say which value is white (in int64, pictures of 0 to 255 are as likely
            as those of 0 to 65535), or complex numbers.
    """
    if images.dtype.is_floating_point:
        return images.float()
    if images.dtype not in WHITE:
        raise OptionError(f'images have the type {images.dtype}, which does not tell the value of white. Scale them to [0, 1] '
                          '(such as images.float() / 255 for values from 0 to 255), or give uint8 or uint16.')
    return images.float().div_(WHITE[images.dtype])


def fit_to_encoder(images: Tensor, preprocessing: Preprocessing, resizer: Callable[..., Tensor] | None = None) -> Tensor:
    """Bring (N, 3, H, W) float pictures to the encoder's size, by `resize` or a function with the same arguments."""
    size, target = preprocessing.image_size, preprocessing.resize_size or preprocessing.image_size
    height, width = resized_shape(images.shape[-2], images.shape[-1], target, preprocessing.resize_mode)
    images = (resizer or resize)(images, height, width, preprocessing.interpolation)
    if size is None or (height, width) == (size, size):
        return images
    return center_crop_or_pad(images, size, preprocessing.crop_rounding)


def resized_shape(height: int, width: int, target: int | None, resize_mode: str) -> tuple[int, int]:
    """Return (height, width) after resizing; a free edge is truncated ('longest' rounds it, as open_clip does).

    Example:
        >>> resized_shape(384, 513, 336, 'shortest')
        (336, 448)
    """
    if resize_mode == 'native':
        longest = max(height, width)
        if target is None or longest <= target:
            return height, width
        return max(MIN_SIZE, int(height * target / longest)), max(MIN_SIZE, int(width * target / longest))
    if target is None:
        raise OptionError(f'image_size: None cannot be combined with resize_mode: {resize_mode}. Give a number of pixels, or '
                          'set resize_mode: native.')
    if resize_mode == 'squash':
        return target, target
    if resize_mode == 'longest':
        ratio = max(height, width) / target
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    if height <= width:
        return target, int(target * width / height)
    return int(target * height / width), target


def resize(images: Tensor, height: int, width: int, interpolation: str = 'bicubic') -> Tensor:
    """Resize (N, C, H, W) pictures in [0, 1] as Pillow does on 8 bits; gradients pass through the rounding unchanged.

    Pillow clips after each pass, so that the order shows at saturated edges: width first, but height first when the
    picture becomes lower and wider at once (Pillow 13).

    Devices without double precision (Apple's GPUs) leave the resizing to the CPU, so that scores are the same there.
    """
    if not has_float64(images.device.type):
        return _resize(images.cpu(), height, width, interpolation).to(images.device)
    return _resize(images, height, width, interpolation)


def _resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    passes = [(None, width), (height, None)]
    if height < images.shape[-2] and width > images.shape[-1]:
        passes.reverse()
    for new_height, new_width in passes:
        size = (new_height or images.shape[-2], new_width or images.shape[-1])
        if size != tuple(images.shape[-2:]):
            images = _resize_pass(images, size, interpolation)
    return images


def has_float64(device_type: str) -> bool:
    """Whether tensors in double precision exist on a kind of device."""
    if device_type not in FLOAT64:
        try:
            torch.empty(0, dtype=torch.float64, device=device_type)
            FLOAT64[device_type] = True
        except (RuntimeError, TypeError, NotImplementedError):
            FLOAT64[device_type] = False
    return FLOAT64[device_type]


def _resize_pass(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize one axis in double precision: float32 would occasionally round to the other side."""
    def resized(part: Tensor, height: int) -> Tensor:
        found = F.interpolate(part.double(), size=(height, size[1]), mode=interpolation, antialias=True, align_corners=False)
        return _round_to_8_bits(found.clamp(0, 1)).float()

    if images.shape[-2] != size[0] or images.device.type != 'cpu':
        return resized(images, size[0])
    return torch.cat([resized(part, part.shape[-2]) for part in row_blocks(images)], dim=-2)


def _round_to_8_bits(images: Tensor) -> Tensor:
    rounded = torch.floor(images.detach() * 255 + 0.5) / 255
    return images + (rounded - images.detach())


def center_crop_or_pad(images: Tensor, size: int, rounding: str = 'nearest') -> Tensor:
    """Crop to, or pad with black to, the central `size` x `size` of (N, C, H, W) pictures."""
    height, width = images.shape[-2:]
    if height < size or width < size:
        missing_h, missing_w = max(size - height, 0), max(size - width, 0)
        images = F.pad(images, (missing_w // 2, missing_w - missing_w // 2, missing_h // 2, missing_h - missing_h // 2))
        height, width = images.shape[-2:]
    top, left = (_crop_start(length - size, rounding) for length in (height, width))
    return images[..., top:top + size, left:left + size]


def _crop_start(margin: int, rounding: str) -> int:
    return margin // 2 if rounding == 'floor' else round(margin / 2)
