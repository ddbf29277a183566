"""Data that the project makes itself: the bundled starter set and the text that `nano` is trained on."""
