"""The `segcoord data` commands, one file each."""
