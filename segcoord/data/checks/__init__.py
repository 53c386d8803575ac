"""`segcoord data check`: one split, several splits together, what was found, how it is shown."""
