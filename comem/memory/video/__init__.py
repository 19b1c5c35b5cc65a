"""Recurrent memory of videos: segments of frames folded into a few states, read as an infix."""
