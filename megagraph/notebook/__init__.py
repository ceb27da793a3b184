"""A run in a notebook: its organisation as a picture that follows it, its rows as tables."""
