"""Experiments and benchmarks; run from a checkout, never in the wheel."""
