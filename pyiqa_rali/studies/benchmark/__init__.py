"""Time, memory and scores beside the release's own path and pyiqa's other metrics (`python -m pyiqa_rali benchmark`)."""
