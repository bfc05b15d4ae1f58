"""Who may use which image: lists of names, and the programs that made them."""
