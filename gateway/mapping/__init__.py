"""The YAML mapping language, from file to calls. Pure: no I/O, no clock, no randomness."""
