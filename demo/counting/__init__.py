"""The app: a page, a command, three task functions, and the report they write."""
