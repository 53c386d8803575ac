"""Read the exports of annotation tools: `segcoord data import`."""
