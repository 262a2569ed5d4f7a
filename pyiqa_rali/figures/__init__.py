"""All drawing: one palette, one curve, one sheet of pictures."""
