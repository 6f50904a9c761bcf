"""Doing what the lines of command files say."""
