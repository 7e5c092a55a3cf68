"""What heads can do, what they cost, and what bounds them: commands beside the training, which needs none of them."""
