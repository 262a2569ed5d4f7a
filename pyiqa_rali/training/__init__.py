"""Training: the three stages of RALI, and the reasoning model by GRPO and supervision."""
