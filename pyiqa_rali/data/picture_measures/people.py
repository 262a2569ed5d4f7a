"""What people call faults, and which of ours mean the same: to compare measures and votes with people's annotations."""

from pyiqa_rali.core.errors import DataError, did_you_mean

# by what people said (MMP-2k): the faults of `degrees.FAULTS`
FAULTS_OF_PEOPLE: dict[str, tuple[str, ...]] = {
    'out of focus': ('out of focus',),
    'motion blur': ('motion blur',),
    'noise and artifact': ('noise', 'blocking'),
    'underexposure': ('underexposure',),
    'overexposure': ('overexposure',),
}
# the same: the types of synthetic distortions, as text banks name them
TYPES_OF_PEOPLE: dict[str, tuple[str, ...]] = {
    'out of focus': ('lens_blur', 'misfocus', 'gaussian_blur', 'zoom_blur', 'resample', 'upscale_soft'),
    'motion blur': ('motion_blur', 'camera_shake'),
    'noise and artifact': ('white_noise', 'luma_noise', 'chroma_noise', 'impulse_noise', 'multiplicative_noise', 'grain',
                           'denoise', 'denoise_blotchy', 'jpeg', 'jpeg2000', 'webp', 'avif_lowres', 'webp_lowres'),
    'underexposure': ('darken', 'underexposed', 'vignette'),
    'overexposure': ('overexpose', 'blown_out', 'brighten'),
}


def types_of(said: str) -> tuple[str, ...]:
    """Return the types of synthetic distortions that mean what people said.

    Raises:
        DataError: nobody said so.

    Example:
        >>> types_of('motion blur')
        ('motion_blur', 'camera_shake')
    """
    if said not in TYPES_OF_PEOPLE:
        raise DataError(f'"{said}" is not a fault that people named ({", ".join(TYPES_OF_PEOPLE)}).'
                        f'{did_you_mean(said, TYPES_OF_PEOPLE)}')
    return TYPES_OF_PEOPLE[said]
