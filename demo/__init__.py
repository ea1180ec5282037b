"""A small project that shows django-cq at work: it counts a folder of Python, one task for each file."""
