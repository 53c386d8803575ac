"""What leaves the package: masks as files, pictures to look at."""
