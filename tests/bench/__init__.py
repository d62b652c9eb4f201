"""What Waggle costs, side by side with going without it."""
