"""A trained world model under way: stepped one action at a time, with what its run knows of it, and filmed."""
