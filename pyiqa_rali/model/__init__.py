"""What runs at inference without a language model: RALI, its checkpoint, and where checkpoints are found."""
