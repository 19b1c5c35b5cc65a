"""Training data: checked, converted from others' formats, and synthesised."""
