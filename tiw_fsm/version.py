"""The version of this package, which belongs to the fingerprint of every run."""

__version__ = "0.1.0"
