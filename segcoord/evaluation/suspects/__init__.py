"""Rank images whose labels look wrong, and unlabeled images to label next (docs/suspects.md)."""
