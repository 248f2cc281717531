"""Compiled loops. They check nothing: what reaches them has passed the door in `fastgmm.data`."""
