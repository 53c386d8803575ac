"""`segcoord data check`, and the part of it that runs before every training.

`sample`, `split` and `cross_split` find mistakes, `report` shows them, `run` combines these steps.
"""
