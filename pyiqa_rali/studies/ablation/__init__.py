"""Ablations and sweeps: variants of one option file over seeds and splits."""
