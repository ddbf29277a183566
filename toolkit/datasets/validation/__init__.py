"""What is wrong with a dataset and how varied it is: found in one pass over its files, in bounded memory."""
