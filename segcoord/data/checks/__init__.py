"""`segcoord data check`, and the part of it that runs before every training.

`split` and `cross_split` find mistakes, `report` shows them, `usable_lists` lists the usable
samples, `run` combines these steps.
"""
