"""One file per export format: what recognizes it, lists its images and reads their annotations."""
