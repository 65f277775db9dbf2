"""Benchmarks of every algorithm of every backend: one file a theme, the problems in `common`."""
