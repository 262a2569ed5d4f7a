"""RALI in three stages (arXiv 2510.11369): contrastive alignment, feature compression, scoring definition."""
