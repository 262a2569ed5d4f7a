"""Time, memory and scores compared with the release's own code and pyiqa's other metrics (`python -m pyiqa_rali benchmark`)."""
