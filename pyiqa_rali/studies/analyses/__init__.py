"""Analyses of trained models: each is a function that reads models and data and returns tables, statistics and files.

`attention.analyse_attention`, `reasoning.analyse_reasoning`, `domains.analyse_domains`, `teachers.analyse_teachers` and
`efficiency.analyse_efficiency`, all with an `AnalysisResult`. Started again with the same arguments and weights, an
interrupted analysis continues from the rows in its folder.
"""
