"""Reasoning-aligned, lightweight image quality assessment for pyiqa; importing it makes its metrics known to pyiqa."""

from pyiqa_rali import register as _register

__version__ = '0.1.0'

_register.register()
