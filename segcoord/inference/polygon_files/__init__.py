"""Write polygons in the formats of annotation tools: `segcoord predict --to`."""
