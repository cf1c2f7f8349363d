"""A relocatable toolchain bundle builder: tools that run inside any container and need nothing of it."""

__version__ = "0.1.0"
