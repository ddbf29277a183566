"""What this machine has, and what to type where something is missing. Standard library alone: it must run anywhere."""
