"""Published RALI checkpoints: pickles read as data, and their conversion into our format."""
