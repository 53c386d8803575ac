"""A page that shows a dataset: classes, sizes, and images with their masks."""
