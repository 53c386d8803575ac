"""Every setting as a typed dataclass (`schema`), and YAML and command line into them (`loading`).

Light: no torch and no files but YAML. What a setting does stands where it is used, not here.
"""
