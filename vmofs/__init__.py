"""vmofs: pager-backed memory objects as files; this package is the model and its client library."""

__version__ = "0.1.0"
