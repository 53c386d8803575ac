"""Settings as typed dataclasses (`schema`), read from YAML and the command line (`loading`).

Imports neither torch nor any package but `utils`, and reads no files but YAML.
"""
