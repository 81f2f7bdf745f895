"""A passed world as files for others: a folder with everything, and a film of its rollouts."""
