"""The whole method on the embedded world, step by step, with a table, a figure and a page at the end."""
