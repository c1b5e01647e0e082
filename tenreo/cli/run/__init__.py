"""What each command does once its arguments are checked; these modules import torch."""
