"""From a config to a run folder: prepare the inputs, drive the loop, keep the records, write the result."""
