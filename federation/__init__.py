"""The shared protocol: pure functions and types that both sides import."""
