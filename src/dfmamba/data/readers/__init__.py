"""One reader a data set, each of which takes the official layout as it is downloaded."""
