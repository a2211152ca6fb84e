"""A small application that shows what its image is made of."""
