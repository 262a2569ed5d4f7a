"""Training of the reasoning model: GRPO (arXiv 2503.22679, 2505.14460), supervised fine-tuning, RACT (2510.11369)."""
