"""What a large job takes: measurements on one core, and a simulation of many."""
