"""A split decoded once into a few mapped files: `writer` makes them, `reader` serves pixels."""
