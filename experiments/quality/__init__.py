"""Experiments: what a score is worth, and who gains."""
