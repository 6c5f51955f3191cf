"""Experiments: what those may try who want to learn more, or to spoil the score."""
