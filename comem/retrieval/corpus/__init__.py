"""Corpora: the public WIT shards and one's own images with texts."""
