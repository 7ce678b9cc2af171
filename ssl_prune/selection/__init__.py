"""How many groups stay, and where."""
