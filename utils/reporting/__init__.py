"""Shows what a model does with each picture of a data set, in a page that needs no network."""
