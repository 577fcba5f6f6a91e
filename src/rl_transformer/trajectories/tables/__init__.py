"""Turn the rows of tables into episodes: which column is what, what its values mean, and where episodes begin and end."""
