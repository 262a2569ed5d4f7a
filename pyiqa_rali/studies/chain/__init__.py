"""The whole chain at the size of a laptop: photographs, a tiny reasoning model, its texts, RALI, both scored."""
