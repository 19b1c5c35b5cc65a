"""From a corpus of images with texts to the items nearest to a question's image."""
