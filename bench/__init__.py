"""Benchmarks against peers: `python -m bench`; per kernel: `python -m pytest bench`."""
