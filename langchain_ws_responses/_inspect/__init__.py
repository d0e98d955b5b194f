"""Reads traces and shows them: as text, as data and as one page."""
