"""The reasoning model: prompts, answers, rewards, its training by GRPO and by supervision, and writing texts with it."""
