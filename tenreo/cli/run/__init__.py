"""Bodies of the commands, which run after the checks; these modules import torch."""
