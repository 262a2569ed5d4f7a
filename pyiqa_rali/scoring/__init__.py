"""Scores of many images: where they are, how they are read, batched and scored, and the tables they go to."""
