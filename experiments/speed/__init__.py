"""Experiments: seconds, bytes and memory."""
