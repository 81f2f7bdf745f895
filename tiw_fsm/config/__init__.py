"""What a run is told: the keys of the YAML files and the flags of the command line, merged into one ``Settings``.

What a run becomes is not here, nor what only one engine needs: the engine reads that itself.
"""
