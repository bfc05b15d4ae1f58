"""What the paper did and what we measure: one file for each table, figure or speed claim."""
