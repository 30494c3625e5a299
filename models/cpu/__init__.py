"""Rearrangements of products that only CPUs gain from."""
