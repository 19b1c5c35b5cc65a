"""A memory that people keep: items in one file, found, asked about, changed and deleted."""
