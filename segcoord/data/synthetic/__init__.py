"""The sample dataset: street scenes drawn by `scenes`, written in a layout by `dataset`."""
