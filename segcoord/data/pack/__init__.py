"""Packs: a split decoded once into memory-mapped files, written by `writer`, read by `reader`."""
