"""A second opinion on mathematical examples, from the question's own text: it shares no code with the generators."""
