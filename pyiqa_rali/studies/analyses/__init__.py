"""Analyses of trained models: each reads models and data, and writes tables, figures and pictures into a folder."""
