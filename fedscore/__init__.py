"""The composition root: command line, simulation, demo."""
