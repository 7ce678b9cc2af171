"""From what may go to a plan: which indices stay, what is folded, which form a layer takes."""
