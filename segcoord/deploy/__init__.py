"""A trained model as files for other runtimes: written, verified, described."""
