"""What is changed by hand in a notebook: captions of a set, panels of a story."""
