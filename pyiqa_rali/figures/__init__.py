"""All drawing: `style` has the palette and the few marks that everything is made of; each other module draws one subject.

Functions take plain values and return matplotlib's figure, or write it where a figure always goes to a file.
"""
