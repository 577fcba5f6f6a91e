"""Watch a policy act in a browser: a page that a local server feeds, or a folder that needs no server's computation."""
