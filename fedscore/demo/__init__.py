"""The demo: eight institutions, real people."""
