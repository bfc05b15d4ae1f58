"""What is to be measured on a CUDA machine: steps of one command each, ordered by worth."""
