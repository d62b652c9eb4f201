"""Real programs to look at: servers and clients in many languages, and what starts them."""
