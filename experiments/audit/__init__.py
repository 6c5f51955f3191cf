"""Experiments: whether the noise is what it is said to be."""
