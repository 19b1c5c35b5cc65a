"""The `comem predict` command: its options, and how the rows of the tables become a run."""
