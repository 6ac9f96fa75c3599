"""Notebooks as pages that need no network, the report, and the edition for students."""
