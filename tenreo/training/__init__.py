"""Fine-tuning: settings, the loop and what it consists of, the state and log of a run."""
