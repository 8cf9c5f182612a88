"""Saved states: what they hold, their files, and when they are saved."""
