"""From files on disk to NumPy batches: read, split, render, tokenise, weigh, batch. No framework is imported here."""
