"""The API of TCP: resources, names, messages and exit codes that all parts share.

Pure: no I/O, no clock, no randomness. Everything here may be imported by every part.
"""

__version__ = "0.1.0"
