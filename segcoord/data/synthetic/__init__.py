"""The sample dataset: `scenes` draws labeled street scenes, `dataset` writes them to files."""
