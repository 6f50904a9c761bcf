"""Puts a mount together."""
