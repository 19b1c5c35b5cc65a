"""Fetching the images of a corpus from the network: politely, checked, and so that it can be resumed."""
