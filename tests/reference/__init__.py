"""Secure aggregation a second time: slow, in plain integers, and sharing no code with the product.

Written from PROTOCOL.md and the documents it cites. Only AES on one block and Ed25519 are taken
from a library; everything on top of them is here. Frozen vectors must come out of both.
"""
