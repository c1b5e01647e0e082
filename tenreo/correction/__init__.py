"""Label-free correction of BatchNorm statistics and biases after compression; `statistics` has the entry points."""
