"""Fine-tuning: settings, training loop, optimizer, distributed training, and the files of a run."""
