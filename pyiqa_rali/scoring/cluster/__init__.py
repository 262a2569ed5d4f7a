"""Scoring shared by the machines of a cluster, with Ray Data: tasks, the files that they write, and the engine."""
