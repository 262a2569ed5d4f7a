"""Experiments as functions: the whole chain, ablations, the protocol of the light model, benchmarks, analyses."""
