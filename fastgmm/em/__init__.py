"""Expectation-maximisation: where it starts, the one loop, and when it stops."""
