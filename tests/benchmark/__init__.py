"""The measurements behind every claim of speed: `scripts/benchmark`.

Each is a ratio of two sides that ran in turn, in processes of their own, in one call; a claim is of the median.
"""
