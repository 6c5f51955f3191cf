"""Experiments: what an epsilon means, what is paid for what, and how to plan it."""
