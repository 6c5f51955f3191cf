"""The coordinator: rounds and releases."""
