"""Evaluation of metrics on data sets with human scores."""
