"""What a model does, shown to people: reports, and a page that runs it in a browser."""
