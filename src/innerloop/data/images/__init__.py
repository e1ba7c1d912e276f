"""Pictures as tasks: folders, glyphs, Omniglot, and episodes of any class pool."""
