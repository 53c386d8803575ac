"""The commands `segcoord data ...`, one file for each."""
