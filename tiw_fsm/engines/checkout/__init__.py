"""The engine that drives the scripts of a user's own TinyWorlds checkout.

Nothing of TinyWorlds itself is here, and nothing in the checkout is edited.
"""
