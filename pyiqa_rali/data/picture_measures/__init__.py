"""What can be measured on one picture without a reference or a model.

Focus, noise, exposure, contrast, colour, blocking and scaling; degrees of faults follow from them, and texts from those.
"""

from pyiqa_rali.data.picture_measures.measures import MEASURES, Measure, measure_picture

__all__ = ['MEASURES', 'Measure', 'measure_picture']
