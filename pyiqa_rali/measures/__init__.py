"""Statistics of scores beside MOS: correlations, errors, intervals and significance. Pure functions."""
