"""The reasoning model: prompts, answers, generation, scores, and the texts that it writes."""
