"""The whole chain at the scale of a laptop: photographs, a tiny reasoning model, its texts, RALI, and the scores of both."""
