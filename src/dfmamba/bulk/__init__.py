"""Hands in millions of pictures: parts of a list, predicted by many processes, one file a part."""
