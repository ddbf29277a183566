"""A folder to begin with: a commented config, ten examples, and what to type next."""
