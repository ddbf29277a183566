"""What a model learned and what it forgot: exact match, perplexity, a baseline, and fair comparisons."""
